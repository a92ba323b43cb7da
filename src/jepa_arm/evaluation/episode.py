"""Episode record and success rule, shared by the in-process and the ROS 2 episode runner."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.scene import Scene, WorldState
from jepa_arm.sim.tasks import Task

TIME_SLACK_S = 1e-6
COMMAND_SLACK, MEASURED_SLACK = 1e-6, 1e-3
"""Tolerances (rad, rad/s, rad/s^2) by which a command, and a measured joint, may exceed a limit:
the physics engine enforces limits less exactly than the guard."""


class EpisodeRecord:
    """Record of an episode, and judge of its success.

    An episode is solved when the goal has been held for as many control steps as the task
    requires. It is over when it is solved or the time limit has passed.

    Attributes:
        state: newest ground truth.
        elapsed: s since the start.
        tip_path, object_path: (N, 3) m, true paths.
        yaw_errors: (N,) rad in [0, pi/4] along ``object_path``, modulo quarter turns; NaN without
            a goal yaw.
        goal: (3,) m, true goal.
        plan_ms: latency of each plan.
        command_ms: latency from each observation to the accepted command.
        predicted: tip path (H, 3) m that each plan predicted.
        frames: (h, w, 3) images that the agent saw; empty unless they were kept.
        limit_violations: number of commands beyond a position, velocity or acceleration limit (in
            process: the last command of each control step; over ROS: every command, without
            accelerations).
        measured_violations: the same for measured positions and velocities, which contacts may
            push beyond a limit.
        seed: random seed of the scene. This and the following attributes are set by ``finish``.
        goal_image: (h, w, 3) image that the agent was shown.
        read_goal: (3,) m, the goal as the probe read it from the goal image.
        touched: whether the arm touched an obstacle (in process: contacts of the physics engine;
            over ROS: distance of the arm's shapes at the measured joints).
    """

    seed: int
    goal_image: ImageArray
    read_goal: FloatArray
    touched: bool

    def __init__(
        self, task: Task, scene: Scene, start: WorldState, time_limit: float = np.inf
    ) -> None:
        """Begin with the state ``start``.

        Args:
            task: defines the distance and the tolerances.
            scene: scene that contains the goal.
            start: ground truth at time 0.
            time_limit: s; the task's own limit applies if it is shorter.
        """
        self._task, self._scene, self.goal = task, scene, scene.goal
        self._time_limit = min(time_limit, task.config.time_limit)
        self.state, self.elapsed, self._held_steps = start, 0.0, 0
        self.tip_path, self.object_path = start.tip_position[None], start.object_position[None]
        self.yaw_errors = np.array([task.yaw_error(start, scene)])
        self.plan_ms: list[float] = []
        self.command_ms: list[float] = []
        self.predicted: list[FloatArray] = []
        self.frames: list[ImageArray] = []
        self.limit_violations = self.measured_violations = 0

    @property
    def success(self) -> bool:
        """Return whether the goal was held for as many control steps as the task requires."""
        return self._held_steps >= self._task.config.hold_steps

    @property
    def is_over(self) -> bool:
        """Return whether the episode is solved or out of time."""
        return self.success or self.elapsed >= self._time_limit - TIME_SLACK_S

    @property
    def time_s(self) -> float:
        """Return the time until success, or without success the time limit, s."""
        return self.elapsed if self.success else max(self.elapsed, self._time_limit)

    @property
    def distance(self) -> float:
        """Return the true distance to the goal, m."""
        return self._task.distance(self.state, self._scene)

    def add_step(self, state: WorldState, elapsed: float) -> None:
        """Add the ground truth at the end of a control step, and judge whether the goal is held.

        Args:
            state: ground truth.
            elapsed: s since the start of the episode.
        """
        self.state, self.elapsed = state, elapsed
        self.tip_path = np.vstack([self.tip_path, state.tip_position])
        self.object_path = np.vstack([self.object_path, state.object_position])
        yaw_error = self._task.yaw_error(state, self._scene)
        self.yaw_errors = np.append(self.yaw_errors, yaw_error)
        is_reached = self._task.is_reached(state, self._scene)
        self._held_steps = self._held_steps + 1 if is_reached else 0

    def finish(
        self, seed: int, goal_image: ImageArray, read_goal: FloatArray, touched: bool
    ) -> EpisodeRecord:
        """Set the attributes that are known only at the end; return this record."""
        self.seed, self.goal_image = seed, goal_image
        self.read_goal, self.touched = read_goal, touched
        return self


def first_held(flags: Iterable[bool], steps: int) -> int | None:
    """Return the number of flags until ``steps`` in a row have been set, None if never."""
    held = 0
    for count, flag in enumerate(flags, start=1):
        held = held + 1 if flag else 0
        if held == steps:
            return count
    return None


def exceeds_limits(
    arm: Arm, position: FloatArray, velocity: FloatArray, max_velocity: FloatArray, slack: float
) -> bool:
    """Return whether joints exceed the position limits of ``arm`` or ``max_velocity``.

    Args:
        arm: arm whose position limits apply.
        position: (J,) rad.
        velocity: (J,) rad/s.
        max_velocity: (J,) rad/s.
        slack: rad and rad/s, tolerance by which a limit may be exceeded.
    """
    return bool(
        np.any(position < arm.lower - slack)
        or np.any(position > arm.upper + slack)
        or np.any(np.abs(velocity) > max_velocity + slack)
    )
