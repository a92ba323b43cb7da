"""Active goal: a goal from request to outcome, with its criteria for success and giving up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
from jepa_arm_msgs.action import MoveToGoal
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future

from jepa_arm.config import TaskConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import HOLD_STEPS, GoalError, PositionGoal
from jepa_arm.planning.obstacles.subgoal_planner import METRES_PER_RADIAN

from .progress_monitor import PlanProgress, ProgressMonitor

Outcome = MoveToGoal.Result
MAX_MESSAGE_LENGTH = 1000
TASKS = {'object': 'push', 'tip': 'reach'}
"""Task whose tolerance is the default for goals of each subject."""


@dataclass(frozen=True)
class GoalCriteria:
    """Criteria by which a goal ends.

    Attributes:
        tolerance: m, estimated distance that counts as reached.
        yaw_tolerance: rad, estimated yaw error that counts as reached.
        timeout: s, longest duration of the goal in ROS time, from its first plan.
        progress_timeout: s, longest motion without progress, as time at full speed.
    """

    tolerance: float
    timeout: float
    progress_timeout: float
    yaw_tolerance: float = np.inf


class CriteriaReader:
    """Reader of the criteria of requested goals, for one checkpoint.

    Attributes:
        tolerance: m, default of goals without a tolerance; 0: the task's tolerance.
    """

    def __init__(self, info: dict[str, Any], timeout: float, progress_timeout: float) -> None:
        """Create a reader.

        Args:
            info: config.json of the checkpoint, with the held-out errors of its probes.
            timeout: s, default of goals without a timeout.
            progress_timeout: s of motion at full speed without progress.
        """
        self._info, self._timeout, self._progress_timeout = info, timeout, progress_timeout
        self.tolerance = 0.0

    def read(self, request: MoveToGoal.Goal, subject: str) -> GoalCriteria:
        """Return the criteria of a request.

        The object's pose is estimated by probes: their held-out error is subtracted from the
        tolerances, of which at least half remains. The tip is known from the joints.

        Args:
            request: requested goal.
            subject: 'object' or 'tip'.

        Raises:
            GoalError: tolerance or timeout is negative or not finite.
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
            error = self._info['gates']['probes']['object_position']['p90_cm'] / 100.0
        yaw_tolerance = request.goal.yaw_tolerance or np.inf
        if np.isfinite(yaw_tolerance):
            yaw_error = np.radians(self._info['pose']['yaw_p90_deg'])
            yaw_tolerance = max(yaw_tolerance - yaw_error, yaw_tolerance / 2.0)
        return GoalCriteria(
            tolerance=max(tolerance - error, tolerance / 2.0),
            timeout=timeout or self._timeout,
            progress_timeout=self._progress_timeout,
            yaw_tolerance=yaw_tolerance,
        )


class ActiveGoal:
    """One goal from the request to its outcome, which is set once, from any thread.

    Attributes:
        request: requested goal.
        goal: goal position; None until ``begin``.
        criteria: criteria by which the goal ends; set by ``begin``.
        progress: progress towards the goal; set by ``begin``.
        distance: m, newest estimate; NaN before the first plan.
        replans: plans made so far.
        ended: future that is done once there is an outcome.
        outcome, message: result as in ``MoveToGoal``; set when ``ended`` is done.
    """

    def __init__(self, request: MoveToGoal.Goal, handle: ServerGoalHandle | None = None) -> None:
        """Create a goal that is not yet pursued; feedback goes to ``handle``."""
        self.request = request
        self.goal: PositionGoal | None = None
        self.criteria = GoalCriteria(0.0, np.inf, np.inf)
        self.progress = ProgressMonitor(np.inf)
        self.distance, self.replans = np.nan, 0
        self.ended, self.outcome, self.message = Future(), Outcome.SUCCEEDED, ''
        self._handle = handle
        self._began: float | None = None
        self._steps_at_goal = 0
        self._lock = Lock()

    def begin(self, goal: PositionGoal | None, criteria: GoalCriteria) -> None:
        """Set the goal position and criteria; the clock starts with the first plan."""
        self.goal, self.criteria = goal, criteria
        self.progress = ProgressMonitor(criteria.progress_timeout, self.has_yaw)

    @property
    def has_yaw(self) -> bool:
        """Return whether the goal includes a yaw."""
        return self.goal is not None and self.goal.yaw is not None

    def restart_clock(self) -> None:
        """Restart both timeouts at the next plan."""
        self._began = None
        self.progress.restart_clock()

    def record_plan(self, plan: PlanProgress) -> None:
        """Count a plan and end the goal if it is reached, timed out or makes no progress."""
        self._began = plan.stamp if self._began is None else self._began
        text, is_turned, measure = f'{plan.distance * 100:.1f} cm', True, plan
        if self.has_yaw:
            text += f' and {np.degrees(plan.yaw_error):.0f} degrees'
            is_turned = bool(plan.yaw_error <= self.criteria.yaw_tolerance)
            distance = plan.distance + METRES_PER_RADIAN * plan.yaw_error
            measure = replace(plan, distance=distance)
        self.progress.record_plan(measure)
        self.distance = plan.distance
        self.replans += 1
        is_at_goal = plan.distance <= self.criteria.tolerance and is_turned
        self._steps_at_goal = self._steps_at_goal + 1 if is_at_goal else 0
        passed = plan.stamp - self._began
        if self._steps_at_goal >= HOLD_STEPS:
            self.end(Outcome.SUCCEEDED, f'{text} from the goal after {passed:.1f} s')
        elif passed >= self.criteria.timeout:
            self.end(Outcome.TIMED_OUT, f'{text} from the goal after {passed:.1f} s')
        elif self.progress.is_over:
            nearest, stuck = self.progress.nearest, self.progress.stuck
            weight = f' ({METRES_PER_RADIAN * 100:.0f} cm for each rad)' if self.has_yaw else ''
            self.end(
                Outcome.UNREACHABLE,
                f'no nearer than {nearest * 100:.1f} cm{weight} for {stuck:.1f} s; try another '
                'goal, or a longer progress_timeout',
            )

    def end(self, outcome: int, message: str) -> None:
        """Set the outcome unless there is one already."""
        with self._lock:
            if self.ended.done():
                return
            self.outcome, self.message = outcome, message[:MAX_MESSAGE_LENGTH]
            self.ended.set_result(None)

    def send_feedback(self, **values: float) -> None:
        """Send the fields of ``MoveToGoal.Feedback`` to the client."""
        if self._handle is not None and not self.ended.done():
            self._handle.publish_feedback(MoveToGoal.Feedback(**values))
