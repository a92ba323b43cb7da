"""Episode runner over ROS 2: starts a graph and judges its episodes as in-process ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import ResetScene
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.config import ObstacleConfig
from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.evaluation.episode import (
    COMMAND_SLACK,
    MEASURED_SLACK,
    TIME_SLACK_S,
    EpisodeRecord,
    exceeds_limits,
)
from jepa_arm.evaluation.episode_runner import SimulationSetup
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel
from jepa_arm.ros.client import EVERY_SAMPLE, MOVING, SETTLE_S, GoalResult, GraphClient
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.environment import isolated_domain
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS
from jepa_arm.sim.scene import Scene, WorldState, with_obstacles
from jepa_arm.sim.tasks import Task, load_task

from .description import SimulationGraph
from .scene_obstacles import SceneObstacles
from .supervisor import Supervisor

FrameCallback = Callable[[ImageArray], None]
"""Called with the camera image (h, w, 3)."""

AFTER_END_S = 1.0
"""Time for which the scene is watched after the planner has ended its goal."""
FIRST_SEED = 0
"""Seed of the scene in which the graph starts."""
IN_MOTION = 0.05
"""Joint speed, rad/s, above which the arm counts as moving; at a constant command the virtual
servo's spring moves it more slowly."""
POLL_PERIOD_S = 0.02
"""Period at which messages are received; long, so that measuring takes little processor time."""
CONTACT_M = 1.5e-3
"""Distance within which arm and obstacle count as touching. PyBullet's bodies have margins: its
contacts begin at up to 1.2 mm (323 collisions without a guard), so 0 would miss nearly all."""
EVERY_COMMAND = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class EpisodeObserver:
    """Fills the record of one episode from the messages of the graph.

    A control step is added once the ground truth and joints measured at its time have arrived.

    Attributes:
        record: record of the episode.
        read_goal: (3,) m, goal position that the planner has read from the goal image.
        is_moving: whether the arm has moved.
    """

    def __init__(
        self, arm: Arm, record: EpisodeRecord, goal: FloatArray, dt: float, keep_frames: bool
    ) -> None:
        """Observe an episode.

        Args:
            arm: kinematics and limits.
            record: record to fill.
            goal: (3,) m, true goal; ``read_goal`` until the planner publishes its own.
            dt: s, control step.
            keep_frames: record the camera image of each control step.
        """
        self._arm, self.record, self._dt, self._keep_frames = arm, record, dt, keep_frames
        self.read_goal, self.is_moving = goal, False
        self._image: ImageArray | None = None
        self._motion: list[FloatArray] = []
        self._planned_at: list[float] = []
        self._command_stamps: set[tuple[int, int]] = set()
        self._tip_path = record.state.tip_position[None]
        self._truth: deque[tuple[PoseArray, ImageArray | None]] = deque()
        self._tips: deque[tuple[float, FloatArray]] = deque(maxlen=30)
        self._began: float | None = None

    @property
    def planned_s(self) -> float:
        """Return the time, s, from the first to the last observation that a plan was made from."""
        return self._planned_at[-1] - self._planned_at[0] if self._planned_at else 0.0

    def on_planner(self, msg: PlannerStatus) -> None:
        """Record the latency of a plan."""
        if np.isfinite(msg.plan_ms):
            self.record.plan_ms.append(msg.plan_ms)
            self._planned_at.append(convert.to_seconds(msg.observation_stamp))

    def on_guard(self, msg: GuardStatus) -> None:
        """Record the latency of each proposal that the guard begins to follow."""
        stamp = msg.proposal_stamp.sec, msg.proposal_stamp.nanosec
        is_new = msg.state == GuardStatus.FOLLOWING and stamp not in self._command_stamps
        if is_new and np.isfinite(msg.obs_to_command_ms):
            self._command_stamps.add(stamp)
            self.record.command_ms.append(msg.obs_to_command_ms)

    def on_joints(self, msg: JointState) -> None:
        """Record the arm's motion, and whether measured joints violate the limits."""
        sample = convert.joints_from_msg(msg, self._arm.joint_names)
        self._motion.append(sample.position)
        self._tips.append((sample.stamp, self._arm.tip_position(sample.position)))
        self.is_moving = self.is_moving or bool(np.abs(sample.velocity).max() > IN_MOTION)
        self.record.measured_violations += exceeds_limits(
            self._arm, sample.position, sample.velocity, self._arm.max_velocity, MEASURED_SLACK
        )
        self._add_steps()

    def on_command(self, msg: JointTrajectory) -> None:
        """Record whether a command violates the limits."""
        position, velocity = (
            np.array(values) for values in (msg.points[0].positions, msg.points[0].velocities)
        )
        self.record.limit_violations += exceeds_limits(
            self._arm, position, velocity, self._arm.velocity_limit, COMMAND_SLACK
        )

    def on_truth(self, msg: PoseArray) -> None:
        """Queue the object's pose and the newest image for the next control step."""
        self._truth.append((msg, self._image))
        self._add_steps()

    def on_image(self, msg: Image) -> None:
        """Store the newest image if frames are kept."""
        if self._keep_frames:
            self._image = convert.image_from_msg(msg)

    def on_markers(self, msg: MarkerArray) -> None:
        """Store the predicted tip path and the goal position that the planner has read."""
        for marker in msg.markers:
            if marker.type == Marker.LINE_STRIP and marker.points:
                self._tip_path = np.array([_array(point) for point in marker.points])
            elif marker.id == convert.PlanMarker.GOAL and marker.type == Marker.SPHERE:
                self.read_goal = _array(marker.pose.position)

    def has_touched(self, obstacles: tuple[ObstacleConfig, ...]) -> bool:
        """Return whether the arm touched an obstacle at one of the measured joint states."""
        if not obstacles:
            return False
        model = CollisionModel(self._arm, obstacles)
        return any(model.obstacle_distance(q) <= CONTACT_M for q in self._motion)

    def _add_steps(self) -> None:
        while self._truth and self._tips:
            stamp = convert.to_seconds(self._truth[0][0].header.stamp)
            if self._tips[-1][0] < stamp - TIME_SLACK_S:
                return
            tip = min(self._tips, key=lambda sample: abs(sample[0] - stamp))[1]
            truth, image = self._truth.popleft()
            self._add_step(stamp, tip, truth, image)

    def _add_step(
        self, stamp: float, tip: FloatArray, truth: PoseArray, image: ImageArray | None
    ) -> None:
        record = self.record
        record.predicted.append(self._tip_path)
        if image is not None:
            record.frames.append(image)
        if self._began is None:
            self._began = stamp
        elif not record.is_over:
            time_s = round((stamp - self._began) / self._dt) * self._dt
            position, quaternion = record.state.object_position, record.state.object_quaternion
            if truth.poses:
                position, quaternion = convert.poses_from_msg(truth)[0]
            record.add_step(_world_state(tip, position, quaternion, time_s), time_s)


class GraphEpisodeRunner:
    """Runs episodes of one task on its own graph in its own ROS domain.

    The obstacles of each scene are declared to all nodes. As a context manager, it starts the
    graph on entry and ends it on exit.

    Attributes:
        supervisor: supervisor of the processes.
        client: client of the graph.
        task: samples scenes and defines success.
        goal_results: the planner's result of each episode.
        planned_s: s of planning in all episodes so far.
        to_motion_s: s from the start of the first process to the first motion in an episode; NaN
            before it.
    """

    client: GraphClient

    def __init__(
        self,
        task: str,
        checkpoint: Path,
        arm: str = 'panda',
        tolerance: float | None = None,
        lock_step: bool = False,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            task: name of a file in ``config/tasks``.
            checkpoint: folder of the world model.
            arm: name or path of the arm.
            tolerance: m, replaces the task's tolerance.
            lock_step: simulated time waits for every command, so that the machine's speed and
                load do not matter; latencies are then meaningless.
        """
        setup = SimulationSetup.load(arm)
        self._arm, self._dt = Arm(setup.arm), setup.sim.time.control_dt
        self.task: Task = load_task(task, self._arm, setup.sim, tolerance)
        self._lock_step, self._declared = lock_step, setup.guard.obstacles
        self._obstacles: SceneObstacles | None = None
        if self.task.config.obstacles:
            self._declared = self.task.sample(FIRST_SEED).obstacles
            self._obstacles = SceneObstacles(self._declared)
        graph = SimulationGraph(
            arm=arm,
            checkpoint=str(checkpoint),
            guard_config='' if self._obstacles is None else str(self._obstacles.path),
            task=task,
            seed=FIRST_SEED,
            lock_step=lock_step,
        )
        self.supervisor = Supervisor(graph.nodes)
        self.goal_results: list[GoalResult] = []
        self.planned_s, self.to_motion_s, self._began = 0.0, np.nan, np.nan
        self._cleanup = ExitStack()
        self._observer: EpisodeObserver | None = None

    def __enter__(self) -> GraphEpisodeRunner:
        with ExitStack() as stack:
            if self._obstacles is not None:
                stack.callback(self._obstacles.close)
            stack.enter_context(isolated_domain())
            self._began = monotonic()
            stack.enter_context(self.supervisor)
            self.supervisor.wait_ready()
            self.client = stack.enter_context(
                GraphClient.connect(
                    'evaluator',
                    poll_period=None if self._lock_step else POLL_PERIOD_S,
                    check=self.supervisor.check_running,
                )
            )
            self._subscribe()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def run_episode(
        self,
        seed: int,
        keep_frames: bool = False,
        time_limit: float = np.inf,
        on_frame: FrameCallback | None = None,
    ) -> EpisodeRecord:
        """Reset the scene, send its goal image to the planner, and record the episode.

        Args:
            seed: seed of the scene.
            keep_frames: keep the image of each control step.
            time_limit: s, applies if shorter than the task's.
            on_frame: called at each control step.

        Raises:
            GraphError: a process ended or does not answer.
        """
        reset = self._reset(seed)
        scene = with_obstacles(self.task.sample(seed), self._declared)
        record = EpisodeRecord(self.task, scene, _initial_state(scene, reset), time_limit)
        shows_images = keep_frames or on_frame is not None
        observer = EpisodeObserver(self._arm, record, scene.goal, self._dt, shows_images)
        self._observer = observer
        limit = min(time_limit, self.task.config.time_limit)
        sent = self.client.send_goal(reset.goal, self.task.config.tolerance, limit)
        left, shown = AFTER_END_S, 0
        while not record.is_over and left > 0.0:
            passed = self._advance(record, shown)
            left -= passed if sent.is_done else 0.0
            if on_frame is not None and len(record.frames) > shown:
                shown = len(record.frames)
                on_frame(record.frames[-1])
        self._observer = None
        self.planned_s += observer.planned_s
        if not sent.is_done:
            sent.cancel()
        self.goal_results.append(sent.result())
        touched = observer.has_touched(scene.obstacles)
        goal_image = convert.image_from_msg(reset.goal.image)
        if not keep_frames:
            record.frames.clear()
        return record.finish(seed, goal_image, observer.read_goal, touched)

    def _reset(self, seed: int) -> ResetScene.Response:
        """Reset the virtual arm to the scene of ``seed``, with guard and planner ready for it."""
        client = self.client
        if self._lock_step:
            while client.guard is not None and client.guard.state in MOVING:
                client.step()
        client.wait_for_rest()
        obstacles, task = self.task.sample(seed).obstacles, self.task.config.name
        if self._obstacles is None or obstacles == self._declared:
            response = client.reset_scene(seed, task)
        else:
            self._declared = obstacles
            with self._obstacles.redeclare(obstacles, client):
                response = client.reset_scene(seed, task)
        stamp = convert.to_seconds(response.goal.image.header.stamp)
        if self._lock_step:
            client.prepare_guard(stamp)
            now = stamp  # each step publishes the image taken at its beginning
            while now < stamp + SETTLE_S + self._dt - TIME_SLACK_S:
                now = client.step()
        client.settle(stamp)
        return response

    def _advance(self, record: EpisodeRecord, frames: int) -> float:
        """Let time pass and return how much has passed, s.

        In lock-step this is one control step. In real time, wait until the episode is over or its
        record has more than ``frames`` frames, but at most one control step.
        """
        if self._lock_step:
            self.client.step()
            return self._dt
        began = monotonic()
        self.client.poll(lambda: record.is_over or len(record.frames) > frames, self._dt)
        return monotonic() - began

    def _subscribe(self) -> None:
        for kind, topic, handle, qos in (
            (PlannerStatus, 'planner/status', EpisodeObserver.on_planner, STATUS_QOS),
            (GuardStatus, 'guard/status', EpisodeObserver.on_guard, STATUS_QOS),
            (JointState, 'joint_states', EpisodeObserver.on_joints, EVERY_SAMPLE),
            (Image, 'camera/image_raw', EpisodeObserver.on_image, SENSOR_QOS),
            (PoseArray, 'ground_truth/objects', EpisodeObserver.on_truth, EVERY_SAMPLE),
            (MarkerArray, 'planner/plan_markers', EpisodeObserver.on_markers, STATUS_QOS),
            (JointTrajectory, COMMAND_TOPIC, EpisodeObserver.on_command, EVERY_COMMAND),
        ):
            self.client.subscribe(kind, topic, partial(self._on_message, handle), qos)

    def _on_message(self, handle: Callable[[EpisodeObserver, Any], None], msg: Any) -> None:
        """Pass a message to the observer of the current episode."""
        observer = self._observer
        if observer is None:
            return
        handle(observer, msg)
        if observer.is_moving and np.isnan(self.to_motion_s):
            self.to_motion_s = monotonic() - self._began


def _initial_state(scene: Scene, reset: ResetScene.Response) -> WorldState:
    """Return the ground truth at the start of an episode."""
    half = scene.object_yaw / 2.0
    quaternion = np.array([0.0, 0.0, np.sin(half), np.cos(half)])
    tip, position = _array(reset.tip_position), _array(reset.object_position)
    return _world_state(tip, position, quaternion, 0.0)


def _world_state(
    tip: FloatArray, position: FloatArray, quaternion: FloatArray, time_s: float
) -> WorldState:
    """Return ground truth without the joints and contacts, which the success rule does not use."""
    unknown = np.zeros(0)
    return WorldState(unknown, unknown, tip, position, quaternion, contact=False, time=time_s)


def _array(point: Any) -> FloatArray:
    return np.array([point.x, point.y, point.z])
