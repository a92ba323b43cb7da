"""Success rules: conditions under which a goal state counts as reached, one released, one strict.

CLEAR-LeWM (github.com/DavidSunok/CLEAR-LeWM, specification 0.8) calls the released rule of each
environment Moderate and the other one Strict. Pairs already solved at the start are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_arm.evaluation.episode import first_held

Floats = NDArray[np.floating]

WALL, WALL_HALF, DOT = 112.0, 5.0, 7.0
"""Centre and half width of TwoRoom's wall, radius of its agent; px in images of 224 px."""
LINK = 0.12
"""Length of each link of the Reacher, m."""


@dataclass(frozen=True)
class SuccessRule:
    """Condition on a state and a goal state that must hold for some steps.

    Attributes:
        is_solved: returns True if a state (S,) fulfils a goal state (S,).
        hold: number of consecutive control steps for which it must hold.
    """

    is_solved: Callable[[Floats, Floats], bool]
    hold: int = 1

    def steps_to_success(self, states: Sequence[Floats], goal: Floats) -> int | None:
        """Return after how many ``states`` (S,) the rule is fulfilled, or None if it never is."""
        return first_held((self.is_solved(state, goal) for state in states), self.hold)


def angle_between(a: float, b: float) -> float:
    """Return the absolute difference of two angles, rad in [0, pi]."""
    return abs((a - b + np.pi) % (2.0 * np.pi) - np.pi)


def in_opposite_rooms(start: Floats, goal: Floats) -> bool:
    """Return True if TwoRoom's wall separates start and goal (2,) px and touches neither disk."""
    sides = [position[0] - WALL for position in (start, goal)]
    return sides[0] * sides[1] < 0.0 and min(map(abs, sides)) > WALL_HALF + DOT


def fingertip(joints: Floats) -> Floats:
    """Return the position (2,) m of the Reacher's fingertip at joint angles (2,) rad."""
    angles = np.cumsum(joints)
    return LINK * np.array([np.cos(angles).sum(), np.sin(angles).sum()])


def _near(limit: float) -> Callable[[Floats, Floats], bool]:
    return lambda state, goal: bool(np.linalg.norm(state[:2] - goal[:2]) < limit)


def _near_behind_wall(state: Floats, goal: Floats) -> bool:
    is_beyond = (state[0] - WALL) * (goal[0] - WALL) > 0.0
    return is_beyond and bool(np.linalg.norm(state[:2] - goal[:2]) < 8.0)


def _all_placed(state: Floats, goal: Floats) -> bool:
    is_near = np.linalg.norm(state[:4] - goal[:4]) < 20.0
    return bool(is_near and angle_between(state[4], goal[4]) < np.pi / 9.0)


def _block_placed(state: Floats, goal: Floats) -> bool:
    is_near = np.linalg.norm(state[2:4] - goal[2:4]) < 10.0
    return bool(is_near and angle_between(state[4], goal[4]) < np.pi / 18.0)


def _joints_match(state: Floats, goal: Floats) -> bool:
    # the shoulder rotates without limits, the wrist does not
    return bool(angle_between(state[0], goal[0]) < 0.05 and abs(state[1] - goal[1]) < 0.05)


def _tip_matches(state: Floats, goal: Floats) -> bool:
    return bool(np.linalg.norm(fingertip(state[:2]) - fingertip(goal[:2])) <= 0.01)


TWO_ROOM = {'released': SuccessRule(_near(16.0)), 'strict': SuccessRule(_near_behind_wall)}
PUSH_T = {'released': SuccessRule(_all_placed), 'strict': SuccessRule(_block_placed, hold=3)}
REACHER = {'released': SuccessRule(_joints_match), 'strict': SuccessRule(_tip_matches, hold=2)}
