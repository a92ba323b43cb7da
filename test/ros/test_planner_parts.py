"""What the planner hears of the guard, what it shows, and when a goal is reached or given up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import GuardStatus
from visualization_msgs.msg import MarkerArray

from jepa_arm.goals import HOLD_STEPS, PositionGoal
from jepa_arm.nodes.conversions import PlanMarker
from jepa_arm.nodes.goal_server import Outcome, Pursuit
from jepa_arm.nodes.guard_view import GuardView
from jepa_arm.nodes.parameters import LATCHED
from jepa_arm.nodes.plan_view import PlanView
from jepa_arm.nodes.progress import Progress

pytestmark = pytest.mark.ros
NAMES = ('a', 'b')


def test_the_path_of_a_plan_is_the_redder_the_more_surprising_what_was_seen(harness):
    view = PlanView(harness.node, 'base', np.array([[0.3, -0.2, 0.0], [0.6, 0.2, 0.2]]))
    markers = harness.record(MarkerArray, 'planner/plan_markers', LATCHED)
    path, others = np.zeros((3, 3)), np.zeros((0, 3, 3))
    plan = SimpleNamespace(latents=torch.zeros(3, 4))
    red = []
    for surprise in (np.nan, 0.0, 0.5, 1.0, 30.0):  # none was seen; calm; to the alarm; beyond
        decision = SimpleNamespace(tip_path=path, plan=plan, surprise=surprise)
        known = len(markers)
        view.plan(decision, others, PositionGoal('tip', path[0]), 0.02, 1.0)
        harness.wait(lambda known=known: len(markers) > known, 'markers')
        [drawn] = [m for m in markers[-1][1].markers if m.id == PlanMarker.PATH]
        red.append((drawn.color.r, drawn.color.b))
        assert drawn.color.a == 1.0
    assert red[0] == red[1] and red[3] == red[4]
    assert red[1][0] < red[2][0] < red[3][0] and red[1][1] > red[2][1] > red[3][1]


def status(state, accepted=0, rejected=0, reasons=(), command=(1.0, 2.0), latency_ms=np.nan):
    return GuardStatus(
        state=state,
        accepted=accepted,
        rejected=rejected,
        reasons=list(reasons),
        command=list(command),
        obs_to_command_ms=latency_ms,
    )


def test_the_planner_goes_on_from_the_command_only_when_the_guard_dropped_what_was_sent():
    view = GuardView(width=2)
    view.put(status(GuardStatus.HOLDING, accepted=4))
    assert view.lost_track() is None, 'nothing was sent'
    view.sent()
    assert view.lost_track() is None, 'the guard has not heard of it yet'
    view.put(status(GuardStatus.FOLLOWING, accepted=5))
    assert view.lost_track() is None
    view.sent()
    view.put(status(GuardStatus.STOPPING, accepted=6))
    np.testing.assert_allclose(view.lost_track(), [1.0, 2.0])
    view.sent()
    view.put(status(GuardStatus.FOLLOWING, accepted=6, rejected=1))
    np.testing.assert_allclose(view.lost_track(), [1.0, 2.0])


def test_the_latency_of_commands_is_a_running_mean_of_what_the_guard_measures():
    view = GuardView(width=2)
    assert view.latency == 0.0
    for ms in (np.nan, 60.0):
        view.put(status(GuardStatus.FOLLOWING, latency_ms=ms))
    assert view.latency == pytest.approx(0.06)
    view.put(status(GuardStatus.FOLLOWING, latency_ms=160.0))
    assert 0.06 < view.latency < 0.08
    for _ in range(200):
        view.put(status(GuardStatus.FOLLOWING, latency_ms=160.0))
    assert view.latency == pytest.approx(0.16, abs=1e-3)


def test_a_guard_that_is_latched_held_or_silent_is_a_reason_to_end_a_goal():
    view = GuardView(width=2)
    assert view.stopped(timeout=9.0) == '' and 'guard/status' in view.stopped(timeout=0.0)
    view.put(status(GuardStatus.LATCHED, reasons=['tracking: off']))
    assert 'tracking: off' in view.stopped(timeout=9.0)
    view.put(status(GuardStatus.HOLDING, reasons=['held: hold was requested']))
    assert 'guard/resume' in view.stopped(timeout=9.0)
    view.put(status(GuardStatus.HOLDING, reasons=['plan_expired: late']))
    assert view.stopped(timeout=9.0) == ''


def test_a_status_from_before_a_goal_does_not_end_it():
    """The answer of guard/resume and the status come by two ways, in any order."""
    view = GuardView(width=2)
    held = status(GuardStatus.HOLDING, reasons=['held: hold was requested'])
    view.put(held)
    view.begin()
    view.put(held)  # was on its way
    assert view.stopped(timeout=9.0) == ''
    view.put(held)
    assert 'guard/resume' in view.stopped(timeout=9.0)


def test_a_guard_that_was_started_anew_ends_the_goal_and_only_that():
    """A goal went on by itself when the guard had died and come back."""
    view = GuardView(width=2)
    view.put(status(GuardStatus.FOLLOWING, accepted=7))
    view.put(status(GuardStatus.IDLE))
    assert view.stopped(timeout=9.0) == '', 'nothing was pursued'
    view.put(status(GuardStatus.FOLLOWING, accepted=7))
    view.sent()
    view.put(status(GuardStatus.IDLE, accepted=0))
    assert 'started anew' in view.stopped(timeout=9.0)
    view.forget()
    assert view.stopped(timeout=9.0) == ''


def pursue(distances, dt=0.1, timeout=5.0, patience=2.0):
    """The pursuit after plans made at these distances (m), ``dt`` s apart."""
    pursuit = Pursuit(MoveToGoal.Goal())
    pursuit.begin(goal=None, reach=0.02, timeout=timeout, patience=patience)
    for i, distance in enumerate(distances):
        pursuit.judge(100.0 + i * dt, distance, np.nan)
    return pursuit


def test_a_goal_is_reached_when_it_is_held():
    near = [0.01] * HOLD_STEPS
    assert not pursue([0.1, *near[1:], 0.03, *near[1:]]).ended.done()
    pursuit = pursue([0.1, *near])
    assert pursuit.outcome == Outcome.SUCCEEDED and pursuit.replans == HOLD_STEPS + 1


def test_a_goal_ends_when_the_time_is_over():
    nearer = np.linspace(1.0, 0.1, 60)
    assert pursue(nearer).outcome == Outcome.TIMED_OUT


@pytest.mark.parametrize('distances', [[0.1] * 25, 0.1 + np.linspace(0.004, 0, 25), [np.nan] * 25])
def test_a_goal_that_comes_no_nearer_is_unreachable(distances):
    assert pursue(distances[:20]).progress.is_waiting, 'two thirds of the patience'
    assert pursue(distances).outcome == Outcome.UNREACHABLE


@pytest.mark.parametrize(
    ('cost', 'speed', 'is_over'),
    [
        (lambda i: 5.0 - 0.1 * i, 1.0, False),  # a way round: the plan gets cheaper
        (lambda i: 5.0 + 0.4 * (-1) ** i, 1.0, True),  # to and fro
        (lambda i: 5.0, 0.1, False),  # a slow arm has more time
        (lambda i: 5.0, 0.0, False),  # so has one that the guard holds
    ],
)
def test_time_counts_as_without_progress_while_the_arm_could_make_some(cost, speed, is_over):
    pursuit = Pursuit(MoveToGoal.Goal())
    pursuit.begin(goal=None, reach=0.02, timeout=9.0, patience=2.0)
    for i in range(30):
        pursuit.judge(100.0 + 0.1 * i, 0.1, cost(i), speed=speed)
    assert pursuit.ended.done() == is_over
    assert pursuit.progress.is_waiting == is_over


def go_round(rounds, push=0.0):
    """Progress after ways of 0.6 m round an obstacle, each with a push by ``push`` m after it."""
    progress, left, stamp = Progress(patience=2.0), 0.3, 100.0
    for _ in range(rounds):
        ways = [*((0.6 - 0.02 * i, 1.0) for i in range(30)), *((np.nan, c) for c in (6, 3, 1))]
        for round_left, cost in ways:
            progress.see(stamp, 0.1, cost, left=left, round_left=round_left)
            stamp += 0.1
        left -= push
    return progress


def test_a_way_of_the_tip_round_an_obstacle_is_progress_but_not_for_ever():
    """Pushes round obstacles were given up over ROS while the arm was on its way."""
    assert go_round(3).stuck < 0.5
    assert go_round(9).is_over, 'to and fro'
    assert go_round(9, push=0.02).stuck < 0.5


@pytest.mark.parametrize(('tries', 'is_over'), [(3, False), (8, True)])
def test_another_try_behind_an_object_is_progress_but_not_for_ever(tries, is_over):
    """A push was given up 20 cm from its goal, while the tip came behind the object once more."""
    progress, stamp = Progress(patience=2.0), 100.0
    for _ in range(tries):
        for round_left in [*np.linspace(0.038, 0.018, 10), *[np.nan] * 8]:
            progress.see(stamp, 0.2, 4.0, left=0.2, round_left=round_left)
            stamp += 0.1
    assert progress.is_over == is_over


@pytest.mark.parametrize(
    ('turns', 'rounds', 'is_over'), [(True, 3, False), (False, 3, True), (True, 9, True)]
)
def test_an_object_that_is_to_be_turned_is_gone_round_again_but_not_for_ever(
    turns, rounds, is_over
):
    """Turns by a few degrees were given up, 1.5 cm from the goal, while the tip went round."""
    progress, stamp = Progress(patience=2.0, turns=turns), 100.0
    for _ in range(rounds):
        for cost in np.linspace(4.0, 0.0, 30):
            progress.see(stamp, 0.015, cost)
            stamp += 0.1
    assert progress.is_over == is_over


def turned(turns):
    """A goal for place and yaw after plans with ``turns`` (rad) left, at its place."""
    pursuit = Pursuit(MoveToGoal.Goal())
    goal = PositionGoal('object', np.array([0.5, 0.0, 0.025]), yaw=0.2)
    pursuit.begin(goal, 0.015, 9.0, 2.0, turn_reach=0.1)
    for i, turn in enumerate(turns):
        pursuit.judge(100.0 + 0.1 * i, 0.01, 5.0, turn)
    return pursuit


def test_a_goal_with_a_yaw_is_reached_once_the_object_is_turned_too():
    assert turned([0.3, 0.05, 0.05]).ended.done() is False
    assert turned([0.05, 0.2, 0.05, 0.05]).ended.done() is False
    assert turned([np.nan] * 5).ended.done() is False
    pursuit = turned([0.3, 0.05, 0.05, 0.05])
    assert pursuit.outcome == MoveToGoal.Result.SUCCEEDED
    assert '1.0 cm and 3 degrees' in pursuit.message


def test_one_place_misread_near_the_goal_is_not_the_measure_of_all_that_comes():
    """A push was given up as no nearer than 0.5 cm, 2.8 cm from its goal and coming nearer."""
    progress = Progress(patience=2.0)
    for i, distance in enumerate([0.1, 0.005, *np.linspace(0.2, 0.05, 80)]):
        progress.see(100.0 + 0.1 * i, distance, np.nan)
    assert progress.stuck < 0.5
    for i in range(200):  # to and fro
        progress.see(109.0 + 0.1 * i, 0.1 + 0.05 * np.sin(i), np.nan)
    assert progress.is_over


def test_a_way_round_an_obstacle_is_as_long_as_it_is():
    """In a straight line the object may get farther from its goal meanwhile."""
    progress = Progress(patience=2.0)
    for i in range(60):
        progress.see(100.0 + 0.1 * i, 0.1 + 0.001 * i, 5.0, left=0.6 - 0.01 * i)
    assert progress.stuck == 0.0 and progress.nearest == 0.1


def test_blindness_is_not_time_without_progress():
    pursuit = Pursuit(MoveToGoal.Goal())
    pursuit.begin(goal=None, reach=0.02, timeout=9.0, patience=2.0)
    for stamp in (100.0, 100.1, 105.0):
        pursuit.judge(stamp, 0.1, 5.0)
    assert not pursuit.progress.is_waiting and not pursuit.ended.done()


def test_only_the_first_outcome_counts():
    pursuit = pursue([0.1])
    pursuit.end(Outcome.CANCELED, 'first')
    pursuit.end(Outcome.SUCCEEDED, 'second')
    assert (pursuit.outcome, pursuit.message) == (Outcome.CANCELED, 'first')


def test_a_status_that_cannot_be_the_guards_changes_nothing():
    """One of another width ended the planner."""
    view = GuardView(width=2)
    view.put(status(GuardStatus.HOLDING))
    for command in ([], [1.0], [1.0, 2.0, 3.0], [np.nan, 0.0]):
        view.put(status(GuardStatus.LATCHED, command=command, latency_ms=50.0))
    np.testing.assert_allclose(view.resting_at(), [1.0, 2.0])
    assert view.latency == 0.0
    view.put(status(GuardStatus.FOLLOWING, latency_ms=1e308))
    assert view.latency == 0.0
