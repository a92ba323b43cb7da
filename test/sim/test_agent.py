"""The agent in closed loop with the virtual arm."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.agent import Agent
from jepa_arm.config import ArmConfig, GuardConfig, PlannerConfig, SimConfig, load
from jepa_arm.control import control_step
from jepa_arm.decision import Decision
from jepa_arm.evaluation import evaluate_policy
from jepa_arm.evaluator import Blackout, Conditions, Evaluator, PolicyDecider
from jepa_arm.goals import GoalError, PositionGoal
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.sim.tasks import joints_at
from jepa_arm.types import FloatArray, GuardState, JointSample, Observation


@pytest.mark.parametrize('misread', [0.0, 0.025])
def test_a_misreading_tip_probe_leaves_no_error(
    misread: float, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    planner = load(PlannerConfig, config_path('planner.yaml'))
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = Evaluator(arm_config, sim_config, guard, 'reach')
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    checkpoint.probes.tip_target.mean += misread
    agent = Agent(checkpoint, evaluator.arm, replace(planner, deadline_ms=10_000.0))
    result = evaluator.run_agent(agent, seed=2_000_000)
    evaluator.world.close()
    assert result.success and result.distance < 0.01


@pytest.mark.parametrize(('policy', 'expected'), [('scripted', 1.0), ('random', 0.0)])
def test_a_policy_can_take_the_place_of_the_agent(
    policy: str, expected: float, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    report, episodes = evaluate_policy(
        policy,
        arm_config,
        sim_config,
        load(GuardConfig, config_path('guard.yaml')),
        'reach',
        episodes=1,
        seed=50_000,
        progress=False,
    )
    assert (report['planner'], report['success_rate']) == (policy, expected)
    assert not episodes[0].plan_ms


def test_images_are_lost_when_so_much_of_the_way_is_done_and_come_again(
    arm_config: ArmConfig, sim_config: SimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = Conditions(Blackout(0.5, duration=0.3, of_way=True))
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = Evaluator(arm_config, sim_config, guard, 'reach', conditions=conditions)
    goal, left = evaluator.task.sample(50_000).goal, []

    def note(name: str) -> None:
        decide = getattr(PolicyDecider, name)

        def noted(self: PolicyDecider, seen: Observation | JointSample) -> Decision:
            left.append((name, np.linalg.norm(evaluator.world.state().tip_position - goal)))
            return decide(self, seen)

        monkeypatch.setattr(PolicyDecider, name, noted)

    note('decide')
    note('decide_blind')
    result = evaluator.run_policy('scripted', 50_000)
    evaluator.world.close()
    blind = [i for i, (name, _) in enumerate(left) if name == 'decide_blind']
    assert blind == list(range(blind[0], blind[0] + 3)) and result.success
    assert left[blind[0]][1] <= 0.5 * left[0][1] < left[blind[0] - 1][1]


@pytest.fixture
def pushing(arm_config: ArmConfig, sim_config: SimConfig) -> Iterator[tuple[Agent, Evaluator]]:
    """An agent and what it pushes in."""
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = Evaluator(arm_config, sim_config, guard, 'push')
    planner = load(PlannerConfig, config_path('planner.yaml'))
    yield Agent(load_checkpoint(checkpoint_path('compact')), evaluator.arm, planner), evaluator
    evaluator.world.close()


def test_commands_known_to_come_late_surprise_less_and_do_not_pass_for_an_arm_that_is_held(
    arm_config: ArmConfig, sim_config: SimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = load(GuardConfig, config_path('guard.yaml'))
    planner = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=10_000.0)
    checkpoint = load_checkpoint(checkpoint_path('compact'))

    def surprise(is_known: bool) -> FloatArray:
        conditions = Conditions(delay=0.13, is_delay_known=is_known)
        evaluator = Evaluator(arm_config, sim_config, guard, 'reach', conditions=conditions)
        agent, found = Agent(checkpoint, evaluator.arm, planner), []
        judged = agent.judged

        def note(decision: Decision) -> Decision:
            decision = judged(decision)
            found.append(decision.surprise)
            return decision

        monkeypatch.setattr(agent, 'judged', note)
        for seed in (1_079_000, 1_079_001, 1_079_002):
            evaluator.run_agent(agent, seed)
        evaluator.world.close()
        return np.array(found)[np.isfinite(found)]

    known, unknown = surprise(True), surprise(False)
    assert len(known) > 30 and known.max() < 1.0
    assert np.median(known) < 0.8 * np.median(unknown)


def test_objects_that_are_pushed_unseen_are_believed_where_they_went(
    pushing: tuple[Agent, Evaluator],
) -> None:
    agent, evaluator = pushing
    agent.planners.deadline_ms = 10_000.0
    probes, world = load_checkpoint(checkpoint_path('compact')).probes, evaluator.world
    guard, ticks, ways, errors = evaluator.guard, world.config.time.ticks, [], []
    for seed in range(78_000, 78_005):
        scene = evaluator.prepare(seed)
        begun = world.reset(scene).object_position
        guard.reset(scene.joints, now=world.time)
        agent.reset(scene.joints)
        agent.set_goal(PositionGoal('object', scene.goal))
        seen = control_step(agent, guard, world, ticks)
        for _ in range(60):
            if np.linalg.norm(world.state().object_position - begun) > 0.02:
                break
            seen = control_step(agent, guard, world, ticks)
        lost = world.state().object_position
        for _ in range(6):
            control_step(agent, guard, world, ticks, is_blind=True)
        truth = world.state().object_position
        last = agent.decide_blind(JointSample(*world.joints(), world.time))
        memory = agent.memory()
        assert memory is not None and last.doubt > seen.doubt
        believed = probes.read('object', memory.z[-1]).numpy()
        ways.append(np.linalg.norm(truth - lost))
        errors.append(np.linalg.norm(believed - truth))
    assert np.median(ways) > 0.04
    assert np.median(errors) < 0.3 * np.median(ways)


def test_a_tip_below_the_workspace_first_comes_straight_up(
    pushing: tuple[Agent, Evaluator],
) -> None:
    """Sideways from the table the guard let nothing pass, again and again."""
    agent, evaluator = pushing
    arm, place = evaluator.arm, np.array([0.39, 0.03, 0.001])
    scene = evaluator.task.sample(1_050_025)
    scene = replace(scene, joints=joints_at(arm, place))
    evaluator.world.reset(scene)
    agent.reset(scene.joints)
    agent.set_goal(PositionGoal('object', scene.goal))
    proposal = agent.decide(evaluator.world.observe()).proposal
    assert proposal is not None
    above = [*place[:2], arm.workspace_min[2]]
    np.testing.assert_allclose(arm.tip_position(proposal.positions[0]), above, atol=1e-3)
    assert np.linalg.norm(arm.tip_position(proposal.positions[1]) - above) > 0.01


def test_the_loop_plans_on_from_where_the_guard_stopped_the_arm(
    pushing: tuple[Agent, Evaluator], sim_config: SimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that the guard takes and then drops had been thought to be carried out."""
    agent, evaluator = pushing
    scene, guard, world = evaluator.task.sample(1_050_025), evaluator.guard, evaluator.world
    world.reset(scene)
    guard.reset(scene.joints, now=world.time)
    agent.reset(scene.joints)
    agent.set_goal(PositionGoal('object', scene.goal))
    ticks = sim_config.time.ticks
    for _ in range(3):
        control_step(agent, guard, world, ticks)
    monkeypatch.setattr(world, 'step', lambda: guard.halt('test: something is in the way'))
    decision = control_step(agent, guard, world, ticks)
    monkeypatch.undo()
    assert decision.proposal is not None and guard.command is not None
    assert guard.state in (GuardState.STOPPING, GuardState.HOLDING)
    world.step()
    told = agent.decide(world.observe()).told
    assert told is not None
    np.testing.assert_allclose(told, guard.command.position)


HIDDEN = 1_050_011
"""A scene in whose goal image the arm hides the object."""


def test_a_goal_image_that_hides_the_object_is_refused_and_others_are_not(
    arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = Evaluator(arm_config, sim_config, guard, 'push')
    planner = load(PlannerConfig, config_path('planner.yaml'))
    agent = Agent(load_checkpoint(checkpoint_path('compact')), evaluator.arm, planner)

    def shown(seed):
        return evaluator.world.image_of(evaluator.task.sample(seed), 'object')

    for seed in range(HIDDEN + 1, HIDDEN + 21):
        agent.goal_images.read(shown(seed), 'object')
    with pytest.raises(GoalError, match='show it unhidden'):
        agent.goal_images.read(shown(HIDDEN), 'object')
    result = evaluator.run_agent(agent, HIDDEN)
    evaluator.world.close()
    assert not result.success and result.limit_violations == 0
    assert len(result.plan_ms) == 0
