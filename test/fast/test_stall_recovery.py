"""Stalled pushes: the tip is sent behind the object, a limited number of times."""

import numpy as np
import pytest

from jepa_arm.core.types import FloatArray
from jepa_arm.planning.obstacles.constraints import ObstacleConstraints
from jepa_arm.planning.obstacles.subgoal_planner import MAX_ATTEMPTS, StallRecovery

BOUNDS = np.array([[0.3, -0.3, 0.015], [0.7, 0.3, 0.25]])
POSITION, GOAL = np.array([0.5, 0.0, 0.025]), np.array([0.5, 0.02, 0.025])
ABOVE = np.array([0.5, 0.0, 0.07])
DT = 0.1


@pytest.fixture
def recovery() -> StallRecovery:
    bounds = {'object': BOUNDS[:, :2], 'tip': BOUNDS}
    constraints = ObstacleConstraints((), {'object': 0.05, 'tip': 0.03}, bounds, 0.06)
    return StallRecovery(constraints, DT)


def follow(recovery: StallRecovery, steps: int, goal: FloatArray = GOAL) -> FloatArray:
    """Return the setpoints of a tip that rests above the object unless it has a subgoal."""
    path = [ABOVE]
    for _ in range(steps):
        distance = float(np.linalg.norm(goal - POSITION))
        subgoal = recovery.subgoal(path[-1], POSITION, goal, distance)
        way = np.zeros(3) if subgoal is None else subgoal.position - path[-1]
        path.append(path[-1] + way * min(1.0, 0.03 / max(np.linalg.norm(way), 1e-9)))
    return np.array(path)


def test_a_tip_that_rests_above_the_object_moves_behind_it(recovery: StallRecovery) -> None:
    path = follow(recovery, 40)
    np.testing.assert_array_equal(path[7], ABOVE)
    behind = path[-1] - POSITION
    assert behind[1] < -0.055 and abs(behind[0]) < 0.015 and path[-1][2] < 0.03
    low = path[path[:, 2] < 0.05]
    assert np.abs(low - POSITION)[:, :2].max(axis=1).min() > 0.04, 'through the object'


def test_a_tip_may_rest_at_the_goal(recovery: StallRecovery) -> None:
    near = POSITION + [0.0, 0.009, 0.0]
    np.testing.assert_array_equal(follow(recovery, 60, goal=near)[-1], ABOVE)


def test_recovery_is_given_up_if_the_object_makes_no_progress(recovery: StallRecovery) -> None:
    """Otherwise an unreachable goal would be pursued for ever."""
    is_sent = [bool(np.any(follow(recovery, 14) != ABOVE)) for _ in range(2 * MAX_ATTEMPTS)]
    assert is_sent == [True] * MAX_ATTEMPTS + [False] * MAX_ATTEMPTS


def test_a_push_that_makes_progress_goes_on(recovery: StallRecovery) -> None:
    for i in range(60):
        tip = POSITION + [0.0, -0.006 * i, 0.0]
        assert recovery.subgoal(tip, POSITION, GOAL, 0.5 - 0.006 * i) is None


def test_a_stalled_push_is_recovered_later_while_the_tip_moves(recovery: StallRecovery) -> None:
    subgoals = [
        recovery.subgoal(ABOVE + [0.05 * (-1) ** i, 0.1, 0.1], POSITION, GOAL, 0.03)
        for i in range(25)
    ]
    first = next(i for i, subgoal in enumerate(subgoals) if subgoal is not None)
    assert first == round(2.0 / DT) - 1
