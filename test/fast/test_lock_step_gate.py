"""The rule by which a guard in lock-step makes its ticks."""

from jepa_arm.ros.guard.lock_step import LockStepGate


def test_a_tick_waits_for_the_joints_the_planner_and_the_proposal_of_its_time(sim_config):
    gate = LockStepGate(sim_config.time)
    assert gate.due(has_planner=False) is None
    gate.command_requested(0.2)
    assert gate.due(has_planner=False) is None
    gate.joints_received(0.2)
    assert gate.due(has_planner=False) == 0.2
    assert gate.due(has_planner=True) is None
    gate.planner_answered(0.1, is_planning=True)
    assert gate.due(has_planner=True) is None
    gate.planner_answered(0.2, is_planning=True)
    assert gate.due(has_planner=True) is None
    gate.proposal_received(0.2)
    assert gate.due(has_planner=True) == 0.2
    gate.command_requested(0.21)
    assert gate.due(has_planner=True) is None
    gate.joints_received(0.21)
    assert gate.due(has_planner=True) == 0.21, 'between control steps no plan is waited for'


def test_a_tick_does_not_wait_for_a_proposal_if_the_planner_has_none(sim_config):
    gate = LockStepGate(sim_config.time)
    gate.joints_received(0.3)
    gate.command_requested(0.3)
    gate.planner_answered(0.3, is_planning=False)
    assert gate.due(has_planner=True) == 0.3
