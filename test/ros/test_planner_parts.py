"""Parts of the planner node: guard monitor, plan markers, and criteria by which goals end."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import GuardStatus
from visualization_msgs.msg import MarkerArray

from jepa_arm.core.goals import HOLD_STEPS, GoalError, PositionGoal
from jepa_arm.ros.planner.active_goal import ActiveGoal, CriteriaReader, GoalCriteria, Outcome
from jepa_arm.ros.planner.guard_monitor import GuardMonitor
from jepa_arm.ros.planner.plan_publisher import PlanPublisher
from jepa_arm.ros.planner.progress_monitor import PlanProgress, ProgressMonitor
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.qos import LATCHED_QOS

pytestmark = pytest.mark.ros
CRITERIA = GoalCriteria(tolerance=0.02, timeout=5.0, progress_timeout=2.0)
PATIENT = GoalCriteria(tolerance=0.02, timeout=9.0, progress_timeout=2.0)


# Plan markers.


def test_path_colour_shows_the_surprise_and_is_grey_without_one(harness):
    workspace = np.array([[0.3, -0.2, 0.0], [0.6, 0.2, 0.2]])
    publisher = PlanPublisher(harness.node, 'base', workspace)
    markers = harness.record(MarkerArray, 'planner/plan_markers', LATCHED_QOS)
    path, alternatives = np.zeros((3, 3)), np.zeros((0, 3, 3))
    plan = SimpleNamespace(latents=torch.zeros(3, 4))
    colours = []
    for surprise in (np.nan, 0.0, 0.5, 1.0, 30.0):
        decision = SimpleNamespace(tip_path=path, plan=plan, surprise=surprise)
        known = len(markers)
        publisher.plan(decision, alternatives, PositionGoal('tip', path[0]), 0.02, 1.0)
        harness.wait(lambda known=known: len(markers) > known, 'markers')
        [drawn] = [m for m in markers[-1][1].markers if m.id == PlanMarker.PATH]
        colours.append((drawn.color.r, drawn.color.g, drawn.color.b))
        assert drawn.color.a == 1.0
    unrated, calm, half, alarm, beyond = colours
    assert len(set(unrated)) == 1 and alarm == beyond
    assert calm[0] < half[0] < alarm[0] and calm[2] > half[2] > alarm[2]


# Guard monitor.


def status(state, accepted=0, rejected=0, reasons=(), command=(1.0, 2.0), delay_ms=np.nan):
    return GuardStatus(
        state=state,
        accepted=accepted,
        rejected=rejected,
        reasons=list(reasons),
        command=list(command),
        obs_to_command_ms=delay_ms,
    )


@pytest.fixture
def guard():
    return GuardMonitor(width=2)


def test_dropped_proposal_is_detected(guard):
    guard.put(status(GuardStatus.HOLDING, accepted=4))
    assert guard.dropped_setpoint() is None, 'nothing was sent'
    guard.record_proposal()
    assert guard.dropped_setpoint() is None, 'no answer yet'
    guard.put(status(GuardStatus.FOLLOWING, accepted=5))
    assert guard.dropped_setpoint() is None
    guard.record_proposal()
    guard.put(status(GuardStatus.STOPPING, accepted=6))
    np.testing.assert_allclose(guard.dropped_setpoint(), [1.0, 2.0])
    guard.record_proposal()
    guard.put(status(GuardStatus.FOLLOWING, accepted=6, rejected=1))
    np.testing.assert_allclose(guard.dropped_setpoint(), [1.0, 2.0])


def test_delay_is_a_running_mean(guard):
    assert guard.delay == 0.0
    for ms in (np.nan, 60.0):
        guard.put(status(GuardStatus.FOLLOWING, delay_ms=ms))
    assert guard.delay == pytest.approx(0.06)
    guard.put(status(GuardStatus.FOLLOWING, delay_ms=160.0))
    assert 0.06 < guard.delay < 0.08
    for _ in range(200):
        guard.put(status(GuardStatus.FOLLOWING, delay_ms=160.0))
    assert guard.delay == pytest.approx(0.16, abs=1e-3)


def test_latched_held_or_silent_guard_is_a_reason_to_stop(guard):
    assert guard.stop_reason(timeout=9.0) == ''
    assert 'guard/status' in guard.stop_reason(timeout=0.0)
    guard.put(status(GuardStatus.LATCHED, reasons=['tracking: off']))
    assert 'tracking: off' in guard.stop_reason(timeout=9.0)
    guard.put(status(GuardStatus.HOLDING, reasons=['held: hold was requested']))
    assert 'guard/resume' in guard.stop_reason(timeout=9.0)
    guard.put(status(GuardStatus.HOLDING, reasons=['plan_expired: late']))
    assert guard.stop_reason(timeout=9.0) == ''


def test_status_from_before_a_goal_does_not_end_it(guard):
    """The response of guard/resume and the status may arrive in any order."""
    held = status(GuardStatus.HOLDING, reasons=['held: hold was requested'])
    guard.put(held)
    guard.begin_goal()
    guard.put(held)  # may have been sent before
    assert guard.stop_reason(timeout=9.0) == ''
    guard.put(held)
    assert 'guard/resume' in guard.stop_reason(timeout=9.0)


def test_restarted_guard_ends_only_the_goal_in_progress(guard):
    guard.put(status(GuardStatus.FOLLOWING, accepted=7))
    guard.put(status(GuardStatus.IDLE))
    assert guard.stop_reason(timeout=9.0) == '', 'no proposal was sent'
    guard.put(status(GuardStatus.FOLLOWING, accepted=7))
    guard.record_proposal()
    guard.put(status(GuardStatus.IDLE, accepted=0))
    assert guard.stop_reason(timeout=9.0)
    guard.forget_proposals()
    assert guard.stop_reason(timeout=9.0) == ''


def test_status_that_does_not_fit_the_arm_is_ignored(guard):
    guard.put(status(GuardStatus.HOLDING))
    for command in ([], [1.0], [1.0, 2.0, 3.0], [np.nan, 0.0]):
        guard.put(status(GuardStatus.LATCHED, command=command, delay_ms=50.0))
    np.testing.assert_allclose(guard.resting_setpoint(), [1.0, 2.0])
    assert guard.delay == 0.0
    guard.put(status(GuardStatus.FOLLOWING, delay_ms=1e308))
    assert guard.delay == 0.0


# Criteria by which goals end.


def test_probe_errors_are_subtracted_from_the_tolerances():
    info = {
        'gates': {'probes': {'object_position': {'p90_cm': 0.8}}},
        'pose': {'yaw_p90_deg': np.degrees(0.03)},
    }
    reader = CriteriaReader(info, timeout=30.0, progress_timeout=3.0)
    request = MoveToGoal.Goal(tolerance=0.02, timeout=4.0)
    request.goal.yaw_tolerance = 0.1
    criteria = reader.read(request, 'object')
    assert criteria.tolerance == pytest.approx(0.012) and criteria.timeout == 4.0
    assert criteria.yaw_tolerance == pytest.approx(0.07)
    assert reader.read(request, 'tip').tolerance == 0.02
    request = MoveToGoal.Goal(tolerance=0.01)
    assert reader.read(request, 'object').tolerance == 0.005, 'at least half remains'
    assert reader.read(request, 'object').timeout == 30.0
    assert reader.read(request, 'object').yaw_tolerance == np.inf
    reader.tolerance = 0.05
    assert reader.read(MoveToGoal.Goal(), 'tip').tolerance == 0.05
    for bad in ({'tolerance': -1.0}, {'timeout': np.inf}, {'tolerance': np.nan}):
        with pytest.raises(GoalError):
            reader.read(MoveToGoal.Goal(**bad), 'tip')


def pursue(plans, criteria=CRITERIA, goal=None):
    """Return the active goal after ``plans``, keyword arguments of PlanProgress 0.1 s apart."""
    active = ActiveGoal(MoveToGoal.Goal())
    active.begin(goal, criteria)
    for i, plan in enumerate(plans):
        active.record_plan(PlanProgress(100.0 + 0.1 * i, **plan))
    return active


def at(distances):
    return [{'distance': distance} for distance in distances]


def test_goal_is_reached_after_several_plans_within_tolerance():
    near = [0.01] * HOLD_STEPS
    assert not pursue(at([0.1, *near[1:], 0.03, *near[1:]])).ended.done()
    active = pursue(at([0.1, *near]))
    assert active.outcome == Outcome.SUCCEEDED and active.replans == HOLD_STEPS + 1


def test_goal_times_out():
    assert pursue(at(np.linspace(1.0, 0.1, 60))).outcome == Outcome.TIMED_OUT


@pytest.mark.parametrize('distances', [[0.1] * 25, 0.1 + np.linspace(0.004, 0, 25), [np.nan] * 25])
def test_goal_without_progress_is_unreachable(distances):
    assert pursue(at(distances[:20])).progress.is_waiting, 'two thirds of the timeout'
    assert pursue(at(distances)).outcome == Outcome.UNREACHABLE


@pytest.mark.parametrize(
    ('cost', 'speed_scale', 'is_over'),
    [
        (lambda i: 5.0 - 0.1 * i, 1.0, False),  # a detour: the plan gets cheaper
        (lambda i: 5.0 + 0.4 * (-1) ** i, 1.0, True),  # back and forth
        (lambda i: 5.0, 0.1, False),  # a slow arm has more time
        (lambda i: 5.0, 0.0, False),  # and so has one that the guard holds
    ],
)
def test_time_without_progress_is_scaled_to_full_speed(cost, speed_scale, is_over):
    plans = [{'distance': 0.1, 'cost': cost(i), 'speed_scale': speed_scale} for i in range(30)]
    active = pursue(plans, PATIENT)
    assert active.ended.done() == is_over
    assert active.progress.is_waiting == is_over


def monitor(plans, **options):
    """Return the progress monitor after ``plans``, arguments of PlanProgress 0.1 s apart."""
    progress = ProgressMonitor(2.0, **options)
    for i, plan in enumerate(plans):
        progress.record_plan(PlanProgress(100.0 + 0.1 * i, **plan))
    return progress


def circle(rounds, push=0.0):
    """Return plans along detours of 0.6 m, each followed by a push of ``push`` m."""
    for i in range(rounds):
        detour = [
            *((0.6 - 0.02 * step, 1.0) for step in range(30)),
            *((np.nan, cost) for cost in (6, 3, 1)),
        ]
        for approach, cost in detour:
            yield {
                'distance': 0.1,
                'cost': cost,
                'remaining_path': 0.3 - i * push,
                'remaining_approach': approach,
            }


def test_detour_of_the_tip_is_progress_up_to_a_limit():
    assert monitor(circle(3)).stuck < 0.5
    assert monitor(circle(9)).is_over, 'back and forth'
    assert monitor(circle(9, push=0.02)).stuck < 0.5


@pytest.mark.parametrize(('attempts', 'is_over'), [(3, False), (8, True)])
def test_new_attempt_behind_an_object_is_progress_up_to_a_limit(attempts, is_over):
    approaches = [*np.linspace(0.038, 0.018, 10), *[np.nan] * 8] * attempts
    shared = {'distance': 0.2, 'cost': 4.0, 'remaining_path': 0.2}
    plans = [{**shared, 'remaining_approach': approach} for approach in approaches]
    assert monitor(plans).is_over == is_over


@pytest.mark.parametrize(
    ('has_yaw', 'rounds', 'is_over'), [(True, 3, False), (False, 3, True), (True, 9, True)]
)
def test_circling_an_object_to_turn_it_is_progress_up_to_a_limit(has_yaw, rounds, is_over):
    costs = [*np.linspace(4.0, 0.0, 30)] * rounds
    plans = [{'distance': 0.015, 'cost': cost} for cost in costs]
    assert monitor(plans, has_yaw=has_yaw).is_over == is_over


def test_goal_with_a_yaw_is_reached_when_the_object_is_turned_too():
    goal = PositionGoal('object', np.array([0.5, 0.0, 0.025]), yaw=0.2)
    criteria = GoalCriteria(0.015, 9.0, 2.0, yaw_tolerance=0.1)

    def turned(*yaw_errors):
        plans = [{'distance': 0.01, 'cost': 5.0, 'yaw_error': error} for error in yaw_errors]
        return pursue(plans, criteria, goal)

    assert not turned(0.3, 0.05, 0.05).ended.done()
    assert not turned(0.05, 0.2, 0.05, 0.05).ended.done()
    assert not turned(*[np.nan] * 5).ended.done()
    active = turned(0.3, 0.05, 0.05, 0.05)
    assert active.outcome == MoveToGoal.Result.SUCCEEDED
    assert '1.0 cm and 3 degrees' in active.message


def test_single_misread_distance_does_not_hide_later_progress():
    misread = at([0.1, 0.005, *np.linspace(0.2, 0.05, 80)])
    assert monitor(misread).stuck < 0.5
    back_and_forth = at(0.1 + 0.05 * np.sin(np.arange(200)))
    assert monitor([*misread, *back_and_forth]).is_over


def test_remaining_path_around_an_obstacle_is_what_counts():
    """The straight distance of the object to its goal may increase on the way."""
    plans = [
        {'distance': 0.1 + 0.001 * i, 'cost': 5.0, 'remaining_path': 0.6 - 0.01 * i}
        for i in range(60)
    ]
    progress = monitor(plans)
    assert progress.stuck == 0.0 and progress.nearest == 0.1


def test_blindness_is_not_time_without_progress():
    active = ActiveGoal(MoveToGoal.Goal())
    active.begin(None, PATIENT)
    for stamp in (100.0, 100.1, 105.0):
        active.record_plan(PlanProgress(stamp, 0.1, 5.0))
    assert not active.progress.is_waiting and not active.ended.done()


def test_first_outcome_is_final():
    active = pursue(at([0.1]))
    active.end(Outcome.CANCELED, 'first')
    active.end(Outcome.SUCCEEDED, 'second')
    assert (active.outcome, active.message) == (Outcome.CANCELED, 'first')
