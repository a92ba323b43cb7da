"""Subgoal planner: intermediate goals of object and tip, around obstacles and out of stalls."""

from __future__ import annotations

from collections import deque

import numpy as np

from jepa_arm.core.types import FloatArray

from .constraints import ObstacleConstraints, Subgoal

METRES_PER_RADIAN = 0.1
"""Weight of a yaw error in a distance: 10 degrees count as much as 2 cm."""
GOAL_RADIUS = 0.01
"""m, distance to the goal below which the object need not be pushed again."""
MIN_PROGRESS = 0.005
"""m by which the distance to the goal must shrink to count as progress."""
RESTING_S, MOVING_S = 0.8, 2.0
"""s without progress after which a push counts as stalled, for a resting and a moving tip."""
RESTING_RANGE = 0.03
"""m, range of tip positions per axis below which the tip counts as resting."""
ARRIVAL_RADIUS = 0.015
"""m, distance to its place behind the object below which the tip counts as arrived."""
MAX_APPROACH_S = 3.0
"""s after which an attempt to reach the place behind the object ends."""
MAX_ATTEMPTS = 2
"""Consecutive attempts without progress, after which no further one is made."""


class SubgoalPlanner:
    """Plans the subgoals of one goal at a time."""

    def __init__(self, constraints: ObstacleConstraints, control_dt: float) -> None:
        """Start without a goal.

        Args:
            constraints: clearances from the obstacles; without obstacles, paths are straight.
            control_dt: s between two calls of ``subgoals``.
        """
        self._constraints = constraints
        self._recovery = StallRecovery(constraints, control_dt)
        self._heading: FloatArray | None = None

    def reset(self) -> None:
        """Forget the goal."""
        self._recovery.reset()
        self._heading = None

    def subgoals(
        self,
        subject: str,
        tip: FloatArray,
        position: FloatArray,
        goal: FloatArray,
        yaw_error: float,
    ) -> tuple[Subgoal, Subgoal | None]:
        """Return the subgoal of ``subject``, and one that the tip must reach first, or None.

        Args:
            subject: 'object' or 'tip'.
            tip: (3,) m, setpoint of the tip.
            position, goal: (3,) m, of the subject.
            yaw_error: rad, yaw error of the object; NaN if the goal has no yaw.
        """
        subgoal, approach = Subgoal(goal, np.nan), None
        has_obstacles = bool(self._constraints.obstacles)
        if has_obstacles:
            subgoal = self._constraints.subgoal(subject, position, goal, self._heading)
            self._heading = subgoal.heading
        if subject == 'tip':
            return subgoal, None
        if has_obstacles:
            approach = self._constraints.approach(
                tip, position, subgoal.position, only_if_blocked=True
            )
        if approach is None:
            distance = subgoal.remaining_path
            if not has_obstacles:
                distance = float(np.linalg.norm((goal - position)[:2]))
            if np.isfinite(yaw_error):
                distance += METRES_PER_RADIAN * yaw_error
            approach = self._recovery.subgoal(tip, position, subgoal.position, distance)
        return subgoal, approach


class StallRecovery:
    """Monitor of a push that provides a subgoal for the tip when the push stalls.

    One to three centimetres before the goal, the value network overestimates states in which the
    tip rests above or far from the object: moving around the object to push it costs more than
    staying, so the arm stays. A subgoal for the tip behind the object leads out of that local
    optimum; from there, planning continues as usual.
    """

    def __init__(self, constraints: ObstacleConstraints, control_dt: float) -> None:
        """Start without a push.

        Args:
            constraints: find the places behind an object and the paths to them.
            control_dt: s between two calls of ``subgoal``.
        """
        self._constraints = constraints
        self._resting_steps, self._moving_steps, self._max_approach = (
            round(seconds / control_dt) for seconds in (RESTING_S, MOVING_S, MAX_APPROACH_S)
        )
        self._tips: deque[FloatArray] = deque(maxlen=self._resting_steps)
        self._distances: deque[float] = deque(maxlen=self._moving_steps)
        self._remaining_steps, self._attempts, self._nearest = 0, 0, np.inf

    def reset(self) -> None:
        """Forget the push."""
        self._clear_history()
        self._remaining_steps, self._attempts, self._nearest = 0, 0, np.inf

    def subgoal(
        self, tip: FloatArray, position: FloatArray, target: FloatArray, distance: float
    ) -> Subgoal | None:
        """Return a subgoal for the tip if the push has stalled, or None while it progresses.

        Args:
            tip: (3,) m, setpoint of the tip.
            position, target: (3,) m, the object's position, and where it is pushed next.
            distance: m, remaining length of the object's path to its goal.
        """
        if self._remaining_steps == 0 and not self._starts_recovery(tip, distance):
            return None
        subgoal = self._constraints.approach(tip, position, target)
        self._remaining_steps -= 1
        is_there = subgoal is None or subgoal.remaining_path < ARRIVAL_RADIUS
        if is_there or self._remaining_steps == 0:
            self._remaining_steps = 0
            self._clear_history()
            return None
        return subgoal

    def _starts_recovery(self, tip: FloatArray, distance: float) -> bool:
        """Record a step of the push; if it has stalled, begin an attempt and return True."""
        self._tips.append(tip)
        self._distances.append(distance)
        if distance < self._nearest - MIN_PROGRESS:
            self._nearest, self._attempts = distance, 0
        if distance < GOAL_RADIUS or self._attempts == MAX_ATTEMPTS:
            return False
        rests = self._has_stalled(self._resting_steps)
        rests = rests and np.ptp(self._tips, axis=0).max() < RESTING_RANGE
        if not (self._has_stalled(self._moving_steps) or rests):
            return False
        self._attempts += 1
        self._remaining_steps = self._max_approach
        return True

    def _has_stalled(self, steps: int) -> bool:
        """Return whether the object made no progress in the last ``steps`` steps."""
        if len(self._distances) < steps:
            return False
        recent = list(self._distances)[-steps:]
        return min(recent) > recent[0] - MIN_PROGRESS

    def _clear_history(self) -> None:
        self._tips.clear()
        self._distances.clear()
