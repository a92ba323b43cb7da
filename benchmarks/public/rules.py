"""When a goal state counts as reached: as released, and CLEAR-LeWM's precise completion.

CLEAR-LeWM (github.com/DavidSunok/CLEAR-LeWM, specification 0.8) calls the first of the two rules
of each environment Moderate and the second Strict. Both leave out pairs whose start is solved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

WALL, WALL_HALF, DOT = 112.0, 5.0, 7.0
"""px of 224: middle and half the width of TwoRoom's wall, radius of its agent."""
LINK = 0.12
"""m, length of both links of the Reacher."""


@dataclass(frozen=True)
class Rule:
    """A rule of success.

    Attributes:
        is_solved: whether a state (S,) fulfils a goal state (S,).
        hold: steps in a row for which it must.
    """

    is_solved: Callable[[Floats, Floats], bool]
    hold: int = 1


def first_success(states: Sequence[Floats], goal: Floats, rule: Rule) -> int | None:
    """Index of the state at which the rule is fulfilled, None if it never is.

    Args:
        states: after each action, (S,) each. goal: (S,).
        rule: with ``hold`` > 1 the last of that many solved states in a row counts.
    """
    held = 0
    for index, state in enumerate(states):
        held = held + 1 if rule.is_solved(state, goal) else 0
        if held == rule.hold:
            return index
    return None


def angle_between(a: float, b: float) -> float:
    """rad, the shortest way from one angle to the other, in [0, pi]."""
    return abs((a - b + np.pi) % (2.0 * np.pi) - np.pi)


def any_pair(start: Floats, goal: Floats) -> bool:
    """Every start and goal make a task."""
    return True


def in_opposite_rooms(start: Floats, goal: Floats) -> bool:
    """Whether TwoRoom's wall is between start and goal (2,) px, and neither disk is in it."""
    sides = [position[0] - WALL for position in (start, goal)]
    return sides[0] * sides[1] < 0.0 and min(map(abs, sides)) > WALL_HALF + DOT


def fingertip(joints: Floats) -> Floats:
    """(2,) m, the Reacher's fingertip at shoulder and wrist (2,) rad."""
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
    # the shoulder turns freely, the wrist has limits
    return bool(angle_between(state[0], goal[0]) < 0.05 and abs(state[1] - goal[1]) < 0.05)


def _tip_matches(state: Floats, goal: Floats) -> bool:
    return bool(np.linalg.norm(fingertip(state[:2]) - fingertip(goal[:2])) <= 0.01)


TWO_ROOM = {'released': Rule(_near(16.0)), 'strict': Rule(_near_behind_wall)}
PUSH_T = {'released': Rule(_all_placed), 'strict': Rule(_block_placed, hold=3)}
REACHER = {'released': Rule(_joints_match), 'strict': Rule(_tip_matches, hold=2)}
