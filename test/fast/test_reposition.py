"""A push that stops short of its goal: the tip is sent behind the object, not for ever."""

import numpy as np
import pytest

from jepa_arm.planning.obstacles import KeepOut
from jepa_arm.planning.reposition import TRIES, Reposition

BOUNDS = np.array([[0.3, -0.3, 0.015], [0.7, 0.3, 0.25]])
HERE, GOAL = np.array([0.5, 0.0, 0.025]), np.array([0.5, 0.02, 0.025])
ABOVE = np.array([0.5, 0.0, 0.07])
DT = 0.1


@pytest.fixture
def reposition():
    bounds = {'object': BOUNDS[:, :2], 'tip': BOUNDS}
    return Reposition(KeepOut((), {'object': 0.05, 'tip': 0.03}, bounds), 0.06, DT)


def follow(reposition, steps, told=ABOVE, goal=GOAL, speed=0.03):
    """Where the tip was told to go; without a leg it stays, with one it goes there."""
    path = [told]
    for _ in range(steps):
        distance = float(np.linalg.norm(goal - HERE))
        leg = reposition.leg(path[-1], HERE, goal, distance)
        way = np.zeros(3) if leg is None else leg.place - path[-1]
        path.append(path[-1] + way * min(1.0, speed / max(np.linalg.norm(way), 1e-9)))
    return np.array(path)


def test_a_tip_that_rests_above_an_object_short_of_its_goal_comes_behind_it(reposition):
    path = follow(reposition, 40)
    np.testing.assert_array_equal(path[7], ABOVE)
    behind = path[-1] - HERE
    assert behind[1] < -0.055 and abs(behind[0]) < 0.015 and path[-1][2] < 0.03
    low = path[path[:, 2] < 0.05]
    assert np.abs(low - HERE)[:, :2].max(axis=1).min() > 0.04, 'it does not go through the object'


def test_at_the_goal_a_tip_may_rest(reposition):
    near = HERE + [0.0, 0.009, 0.0]
    np.testing.assert_array_equal(follow(reposition, 60, goal=near)[-1], ABOVE)


def test_an_object_that_comes_no_nearer_is_given_up(reposition):
    """Else a goal that nothing can reach would never end."""
    is_sent = [bool(np.any(follow(reposition, 14) != ABOVE)) for _ in range(2 * TRIES)]
    assert is_sent == [True] * TRIES + [False] * TRIES


def test_a_push_that_comes_nearer_is_left_alone(reposition):
    for i in range(60):
        place = HERE + [0.0, -0.006 * i, 0.0]
        assert reposition.leg(place, HERE, GOAL, 0.5 - 0.006 * i) is None


def test_a_tip_that_goes_to_and_fro_is_sent_too_but_has_more_time(reposition):
    legs = [
        reposition.leg(ABOVE + [0.05 * (-1) ** i, 0.1, 0.1], HERE, GOAL, 0.03) for i in range(25)
    ]
    due = next(i for i, leg in enumerate(legs) if leg is not None)
    assert due == round(2.0 / DT) - 1
