"""What happens in one episode over ROS 2, and whether it is solved."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import ResetScene
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from ..angles import yaw_error
from ..arm import Arm
from ..collision import Scene
from ..config import ObstacleConfig, TaskConfig
from ..episode_result import EpisodeResult
from ..sim.tasks import Task
from ..types import FloatArray, ImageArray
from . import conversions as convert
from .conversions import PlanMarker

SLACK = 1e-6
TOUCHING = 1.5e-3
"""m, nearer than this arm and obstacle touch. PyBullet's bodies have margins: its contacts begin
at up to 1.2 mm (323 collisions without a guard), so that 0 would miss nearly all of them."""
SAMPLES = 30
"""Joint states kept."""


class Watch:
    """What happens in one episode, and whether it is solved.

    Attributes:
        plan_ms: latency of each plan. frames: camera images, if they are kept.
        is_over: solved, or out of time.
    """

    def __init__(
        self,
        arm: Arm,
        task: Task,
        config: TaskConfig,
        scene: ResetScene.Response,
        dt: float,
        obstacles: tuple[ObstacleConfig, ...] = (),
        goal_yaw: float | None = None,
    ) -> None:
        """See the attributes.

        Args:
            arm, task, config: what is judged, and by what. scene: as the simulator drew it.
            dt: s, a control step. obstacles: that stand in the scene, base frame.
            goal_yaw: rad, of the object, where one is asked for.
        """
        self._arm, self._task, self._config, self._dt = arm, task, config, dt
        self._obstacles, self._motion = obstacles, list[FloatArray]()
        self._goal, self._goal_yaw = _array(scene.goal_position), goal_yaw
        self._goal_image = convert.image_from_msg(scene.goal.image)
        self._read_goal = self._goal
        self.plan_ms: list[float] = []
        self._planned: list[float] = []
        self.frames: list[ImageArray] = []
        self._command_ms: dict[tuple[int, int], float] = {}
        self._tips, self._objects = [_array(scene.tip_position)], [_array(scene.object_position)]
        self._turns, self._turn = [np.nan], np.nan
        self._predicted: list[FloatArray] = []
        self._path = self._tips[0][None]
        self._truth: deque[PoseArray] = deque()
        self._samples: deque[tuple[float, FloatArray]] = deque(maxlen=SAMPLES)
        self._began: float | None = None
        self._violations = self._measured_violations = self._held = 0
        self._time_s = 0.0

    @property
    def is_solved(self) -> bool:
        """Whether the tolerance was held for the task's control steps."""
        return self._held >= self._config.hold_steps

    @property
    def is_over(self) -> bool:
        """Solved, or out of time."""
        return self.is_solved or self._time_s >= self._config.time_limit - SLACK

    @property
    def planned_s(self) -> float:
        """s from the first observation that was planned from to the last."""
        return self._planned[-1] - self._planned[0] if self._planned else 0.0

    @property
    def places(self) -> tuple[FloatArray, FloatArray]:
        """Tip and object (3,) m, as they were last."""
        return self._tips[-1], self._objects[-1]

    def see_status(self, msg: PlannerStatus) -> None:
        """Takes the latency of a plan."""
        self.plan_ms.append(msg.plan_ms)
        self._planned.append(convert.to_seconds(msg.observation_stamp))

    def see_truth(self, msg: PoseArray) -> None:
        """Takes where the object truly is; the step counts when the joints of that time came."""
        self._truth.append(msg)
        self._count_steps()

    def see_joints(self, msg: JointState) -> None:
        """Takes the tip from the measured joints, and looks for violated limits."""
        sample = convert.joints_from_msg(msg, self._arm.joint_names)
        self._motion.append(sample.position)
        self._samples.append((sample.stamp, self._arm.tip_position(sample.position)))
        fastest = self._arm.fastest
        is_within = self._is_within(sample.position, sample.velocity, fastest, 1e-3)
        self._measured_violations += not is_within
        self._count_steps()

    def see_command(self, msg: JointTrajectory) -> None:
        """Looks for violated limits."""
        point = msg.points[0]
        position, velocity = np.array(point.positions), np.array(point.velocities)
        is_within = self._is_within(position, velocity, self._arm.velocity_limit, SLACK)
        self._violations += not is_within

    def see_guard(self, msg: GuardStatus) -> None:
        """Takes the latency of each proposal that came into force."""
        if np.isfinite(msg.obs_to_command_ms) and msg.state == GuardStatus.FOLLOWING:
            stamp = msg.proposal_stamp
            self._command_ms.setdefault((stamp.sec, stamp.nanosec), msg.obs_to_command_ms)

    def see_plan(self, msg: MarkerArray) -> None:
        """Takes the predicted path, and where the planner believes the goal to be."""
        for marker in msg.markers:
            if marker.type == Marker.LINE_STRIP and marker.points:
                self._path = np.array([_array(p) for p in marker.points])
            elif marker.id == PlanMarker.GOAL and marker.type == Marker.SPHERE:
                self._read_goal = _array(marker.pose.position)

    def result(self, seed: int) -> EpisodeResult:
        """The episode as it went; call it when it is over, it takes a while."""
        return EpisodeResult(
            seed=seed,
            success=self.is_solved,
            time_s=self._time_s if self.is_solved else self._config.time_limit,
            distance=self._distance(self._tips[-1], self._objects[-1]),
            plan_ms=self.plan_ms,
            command_ms=list(self._command_ms.values()),
            limit_violations=self._violations,
            measured_violations=self._measured_violations,
            frames=self.frames,
            tip_path=np.array(self._tips),
            object_path=np.array(self._objects),
            predicted=self._predicted,
            goal=self._goal,
            read_goal=self._read_goal,
            goal_image=self._goal_image,
            touched=self._has_touched(),
            yaw_errors=np.array(self._turns),
        )

    def _has_touched(self) -> bool:
        """Whether the arm was at an obstacle at one of its joint states, by geometry."""
        if not self._obstacles:
            return False
        scene = Scene(self._arm, self._obstacles)
        return any(scene.obstacle_distance(q) <= TOUCHING for q in self._motion)

    def _count_steps(self) -> None:
        """Counts the control steps of which object and joints are known."""
        while self._truth and self._samples:
            stamp = convert.to_seconds(self._truth[0].header.stamp)
            if self._samples[-1][0] < stamp - SLACK:
                return
            tip = min(self._samples, key=lambda sample: abs(sample[0] - stamp))[1]
            poses = self._truth.popleft().poses
            thing = _array(poses[0].position) if poses else self._objects[-1]
            if poses and self._goal_yaw is not None:
                yaw = convert.heading_from_msg(poses[0].orientation)
                self._turn = abs(float(yaw_error(yaw, self._goal_yaw)))
            self._count_step(stamp, tip, thing)

    def _count_step(self, stamp: float, tip: FloatArray, thing: FloatArray) -> None:
        self._predicted.append(self._path)
        if self._began is None:
            self._began = stamp
            return
        if self.is_over:
            return
        self._time_s = round((stamp - self._began) / self._dt) * self._dt
        self._tips.append(tip)
        self._objects.append(thing)
        self._turns.append(self._turn)
        is_near, most = self._distance(tip, thing) <= self._config.tolerance, np.inf
        if self._config.yaw_tolerance_deg is not None:
            most = np.radians(self._config.yaw_tolerance_deg)
        is_turned = self._goal_yaw is None or self._turn <= most
        self._held = self._held + 1 if is_near and is_turned else 0

    def _distance(self, tip: FloatArray, thing: FloatArray) -> float:
        if self._task.subject == 'object':
            return float(np.linalg.norm(thing[:2] - self._goal[:2]))
        return float(np.linalg.norm(tip - self._goal))

    def _is_within(
        self, position: FloatArray, velocity: FloatArray, fastest: FloatArray, slack: float
    ) -> bool:
        is_inside = np.all(position >= self._arm.lower - slack) and np.all(
            position <= self._arm.upper + slack
        )
        return bool(is_inside and np.all(np.abs(velocity) <= fastest + slack))


def _array(point: Any) -> FloatArray:
    return np.array([point.x, point.y, point.z])
