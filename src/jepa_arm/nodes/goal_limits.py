"""What ends a goal: how near counts as reached, and for how long it is pursued in vain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jepa_arm_msgs.action import MoveToGoal

from ..config import TaskConfig, load
from ..goals import GoalError
from ..resources import config_path

TASKS = {'object': 'push', 'tip': 'reach'}
"""Whose tolerance a goal without one of its own gets, by its subject."""


@dataclass(frozen=True)
class Patience:
    """Seconds after which a goal ends.

    Attributes:
        blind: without observation. unguarded: without a word of an active guard. Steady clock.
        stuck: of moving at full speed without coming nearer; the arm waits in the last third.
        unseen: without an image, while the belief is carried on; ROS time.
        surprised: for which every image has surprised by more than ``level``; ROS time.
    """

    blind: float
    unseen: float
    stuck: float
    unguarded: float
    surprised: float
    level: float


class GoalLimits:
    """Of the goals that one checkpoint pursues.

    Attributes:
        tolerance: m, of goals without one of their own; 0: that of the task.
    """

    def __init__(self, about: dict[str, Any], timeout: float) -> None:
        """``about``: what the checkpoint's config.json tells; ``timeout``: s, unless asked."""
        self._about, self._timeout = about, timeout
        self.tolerance = 0.0

    def of(self, request: MoveToGoal.Goal, subject: str) -> tuple[float, float]:
        """m, read distance that counts as reached, and s, the time limit.

        The object is read by a probe, which may err: it must be nearer than the tolerance by the
        probe's held-out error. Where the tip is the joints tell.

        Raises:
            GoalError: a tolerance or time limit that is negative or not finite.
        """
        tolerance, timeout = request.tolerance, request.timeout
        if not (0.0 <= tolerance < np.inf and 0.0 <= timeout < np.inf):
            raise GoalError(
                f'goal: expected tolerance and timeout >= 0, got {tolerance} and {timeout}'
            )
        if tolerance == 0.0:
            tolerance = self.tolerance
        if tolerance == 0.0:
            tolerance = load(TaskConfig, config_path(f'tasks/{TASKS[subject]}.yaml')).tolerance
        error = 0.0
        if subject == 'object':
            error = self._about['gates']['probes']['object_position']['p90_cm'] / 100.0
        return max(tolerance - error, tolerance / 2.0), timeout or self._timeout

    def turn(self, request: MoveToGoal.Goal) -> float:
        """rad, read turn that counts as reached: less than is tolerated by what is misread."""
        tolerance = request.goal.yaw_tolerance
        if tolerance == 0.0:
            return np.inf
        misread = np.radians(self._about['pose']['yaw_p90_deg'])
        return max(tolerance - misread, tolerance / 2.0)
