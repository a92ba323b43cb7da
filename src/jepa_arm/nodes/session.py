"""The graph on a ROS domain of its own, with a client that runs episodes on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import ResetScene, Step
from rclpy.action.client import ActionClient
from rclpy.client import Client
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from ..arm import Arm
from ..config import ArmConfig, GuardConfig, SimConfig, load
from ..episode_result import EpisodeResult
from ..resources import arm_path, config_path
from ..sim.tasks import Task, load_task
from ..types import FloatArray, ImageArray
from . import conversions as convert
from .client import ASK_AGAIN_S, ask
from .description import simulation
from .domain import own_domain
from .executors import Beat, SparingExecutor
from .goal_server import OUTCOME_NAMES
from .graph import GraphError, Supervisor
from .parameters import COMMAND_TOPIC, SENSOR, STATUS
from .scene_file import Readers, SceneFile
from .watch import Watch

ANSWER_S = 20.0
"""Longest wait for a service, an action or for readiness."""
CONNECTIONS = 3
"""Tries to join the graph: a participant was seen that discovered no action for 20 s."""
SETTLE_S = 0.6
"""s of images after a reset, so that the belief holds nothing of the scene before."""
AFTER_END_S = 1.0
"""For which the scene is watched after the planner has ended its goal."""
FIRST_SEED = 0
"""Of the scene in which the graph starts."""
AT_START_RAD = 0.01
IN_MOTION = 0.05
"""rad/s; the virtual servo's spring is slower than this where its command rests."""
RESET_AGAIN_S = 0.2
SLACK_S = 1e-6
TAKE_S = 0.02
"""How often messages are taken: who measures should take little of what is measured."""
MOVING = (GuardStatus.FOLLOWING, GuardStatus.STOPPING)


class Session:
    """The graph on a ROS domain of its own, and a client that runs episodes on it.

    Where the task's scenes have obstacles, those of each scene are declared to all nodes.

    Attributes:
        graph: its processes. task: judges success.
        outcomes: names of the planner's outcome of each episode; messages: what it says of it.
        on_frame: called at each control step of an episode with the camera's image (h, w, 3) and
            the true places (3,) m of tip and object.
        jitter_ms: of the guard so far; missed_ticks: since it was last activated.
        planned_s: s of planning so far.
        to_motion_s: s from the start of the first process to the arm's first motion in an episode;
            NaN before it.
    """

    def __init__(
        self,
        task: str,
        checkpoint: Path,
        tolerance: float | None = None,
        arm: str = 'panda',
        keep_frames: bool = False,
        gui: bool = False,
        lock_step: bool = False,
    ) -> None:
        """See the attributes.

        Args:
            task: of which scenes are drawn. checkpoint: folder of the world model.
            tolerance: m, in place of the task's.
            arm: config/arms/<arm>.yaml.
            keep_frames: keeps the images of each episode.
            gui: shows the window of the physics engine.
            lock_step: time waits for every command, so that the speed of the machine and its
                load do not matter; latencies mean nothing then.
        """
        config = load(ArmConfig, arm_path(arm))
        self._arm, self._sim = Arm(config), load(SimConfig, config_path('sim.yaml'))
        self.task: Task = load_task(task, self._arm, self._sim, tolerance)
        self._keep_frames = keep_frames
        self._lock_step = lock_step
        self._obstacles = load(GuardConfig, config_path('guard.yaml')).obstacles
        self._file: SceneFile | None = None
        if self.task.config.obstacles:
            self._obstacles = self.task.sample(FIRST_SEED).obstacles
            self._file = SceneFile(self._obstacles)
        guard_config = str(self._file.path) if self._file is not None else ''
        self.graph = Supervisor(
            simulation(
                arm,
                str(checkpoint),
                task,
                FIRST_SEED,
                lock_step=lock_step,
                gui=gui,
                guard_config=guard_config,
            )
        )
        self.outcomes: list[str] = []
        self.messages: list[str] = []
        self.jitter_ms: list[float] = []
        self.missed_ticks, self.planned_s, self.to_motion_s = 0, 0.0, np.nan
        self.on_frame: Callable[[ImageArray, FloatArray, FloatArray], None] | None = None

    def __enter__(self) -> Session:
        with ExitStack() as stack:
            if self._file is not None:
                stack.callback(self._file.close)
            stack.enter_context(own_domain())
            self._began = monotonic()
            stack.enter_context(self.graph)
            self.graph.wait_ready()
            stack.callback(self._connect())
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def run_episode(self, seed: int, limit: float = np.inf) -> EpisodeResult:
        """Resets the scene to ``seed``, sends its goal image, and watches what happens.

        Args:
            seed: of the scene.
            limit: s, if shorter than the task's.
        """
        reset = self._reset(seed)
        config = self.task.config
        config = replace(config, time_limit=min(limit, config.time_limit))
        dt, yaw = self._sim.time.control_dt, self.task.sample(seed).goal_yaw
        watch = Watch(self._arm, self.task, config, reset, dt, self._obstacles, yaw)
        self._watch = watch
        goal = MoveToGoal.Goal(
            goal=reset.goal, tolerance=config.tolerance, timeout=config.time_limit
        )
        handle: Any = self._wait(self._action.send_goal_async(goal), 'move_to_goal')
        result = handle.get_result_async()
        left = AFTER_END_S
        while not watch.is_over and left > 0.0:
            passed = self._let_time_pass()
            left -= passed if result.done() else 0.0
        self._watch, self.planned_s = None, self.planned_s + watch.planned_s
        if not result.done():
            handle.cancel_goal_async()
        response = self._wait(result, 'the result of move_to_goal')
        self.outcomes.append(OUTCOME_NAMES[response.result.outcome])
        self.messages.append(response.result.message)
        return watch.result(seed)

    def image_rate(self) -> float:
        """Images a second that reached this process, over the last 10 s."""
        times = self._image_times
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def _connect(self) -> Callable[[], None]:
        """Joins the graph; what leaves it again."""
        for _ in range(CONNECTIONS):
            leave = self._join()
            if self._comes(self._action.server_is_ready, ANSWER_S):
                return leave
            seen = sorted(name for name, _ in self._node.get_node_names_and_namespaces())
            leave()
        raise GraphError(
            f'move_to_goal is not served; nodes seen: {", ".join(seen)}; '
            f'planner:\n{self.graph.tail("planner")}'
        )

    def _join(self) -> Callable[[], None]:
        """Makes the node and all its parts; what takes them away."""
        self._context = context = Context()
        rclpy.init(context=context)
        node = self._node = rclpy.create_node('evaluator', context=context)
        self._executor = SparingExecutor(context=context)
        self._executor.add_node(node)
        group = None if self._lock_step else Beat(TAKE_S, 0.0, lambda take: take())
        self._watch: Watch | None = None
        self._planner, self._guard = PlannerStatus(), GuardStatus()
        self._joints: JointState | None = None
        self._image: ImageArray | None = None
        self._image_times: deque[float] = deque(maxlen=100)
        self._stepped_to = 0.0
        every = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        samples = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        for kind, topic, callback, qos in (
            (PlannerStatus, 'planner/status', self._on_planner, STATUS),
            (GuardStatus, 'guard/status', self._on_guard, STATUS),
            (JointState, 'joint_states', self._on_joints, samples),
            (Image, 'camera/image_raw', self._on_image, SENSOR),
            (PoseArray, 'ground_truth/objects', self._on_truth, samples),
            (MarkerArray, 'planner/plan_markers', self._on_markers, STATUS),
            (JointTrajectory, COMMAND_TOPIC, self._on_command, every),
        ):
            node.create_subscription(kind, topic, callback, qos, callback_group=group)
        self._action = ActionClient(node, MoveToGoal, 'move_to_goal')
        self._reset_scene = node.create_client(ResetScene, 'sim/reset')
        self._step = node.create_client(Step, 'sim/step')
        self._reset_guard = node.create_client(Trigger, 'guard/reset')
        if self._file is not None:  # each client makes every wait of this node longer
            self._readers = Readers(node, self.graph, self._call)

        def leave() -> None:
            self._executor.shutdown()
            self._action.destroy()  # else the participant lives on until it is collected
            node.destroy_node()
            rclpy.shutdown(context=context)

        return leave

    def _reset(self, seed: int) -> ResetScene.Response:
        """Draws the scene of ``seed`` and waits until guard and planner live in it."""
        deadline = monotonic() + ANSWER_S
        while self._guard.state in MOVING:
            self._check(deadline, 'the arm does not come to rest')
            self._let_time_pass()
        response = self._draw(seed)
        stamp = convert.to_seconds(response.goal.image.header.stamp)
        deadline, asked_at, settled = monotonic() + ANSWER_S, -np.inf, stamp + SETTLE_S
        self._stepped_to = stamp
        shown = settled + self._sim.time.control_dt  # a step shows the image of its beginning
        while not (self._is_guard_ready(stamp) and self._has_planner_seen(settled)):
            self._check(deadline, 'guard and planner are not ready after a reset')
            if self._is_guard_ready(stamp):
                if self._lock_step and self._stepped_to > shown - SLACK_S:
                    self._spin()  # a step more or less would be another episode
                else:
                    self._let_time_pass()
            elif monotonic() - asked_at > RESET_AGAIN_S:
                self._call(self._reset_guard, Trigger.Request(), 'guard/reset')
                asked_at = monotonic()
            else:
                self._spin()
        return response

    def _draw(self, seed: int) -> ResetScene.Response:
        """Draws the scene; guard and planner never act among obstacles that they do not know."""
        obstacles = self.task.sample(seed).obstacles
        if self._file is None or obstacles == self._obstacles:
            return self._reset_sim(seed)
        self._readers.take_down()
        self._file.declare(obstacles)
        self._obstacles = obstacles
        response = self._reset_sim(seed)
        self._readers.take_up()
        if not self._comes(self._action.server_is_ready, ANSWER_S):
            raise GraphError(f'move_to_goal is not served; planner:\n{self.graph.tail("planner")}')
        return response

    def _reset_sim(self, seed: int) -> ResetScene.Response:
        request = ResetScene.Request(seed=seed, task=self.task.config.name)
        response = self._call(self._reset_scene, request, 'sim/reset')
        if not response.success:
            raise GraphError(f'sim/reset: {response.message}')
        return response

    def _has_planner_seen(self, stamp: float) -> bool:
        return convert.to_seconds(self._planner.observation_stamp) >= stamp - SLACK_S

    def _is_guard_ready(self, stamp: float) -> bool:
        """Whether the guard holds the arm where it was measured at ``stamp`` or later."""
        if self._joints is None or self._guard.state != GuardStatus.IDLE:
            return False
        sample = convert.joints_from_msg(self._joints, self._arm.joint_names)
        distance = np.abs(sample.position - np.array(self._guard.command)).max()
        return bool(sample.stamp >= stamp - SLACK_S and distance < AT_START_RAD)

    def _call(
        self, client: Client, request: Any, name: str, ask_again: float = ASK_AGAIN_S
    ) -> Any:
        if not client.wait_for_service(ANSWER_S):
            raise GraphError(f'{name} is not served')
        return ask(client, request, self._comes, ANSWER_S, ask_again)

    def _wait(self, future: Future, name: str) -> Any:
        if not self._comes(future.done, ANSWER_S):
            raise GraphError(f'no answer from {name} for {ANSWER_S:.0f} s')
        return future.result()

    def _comes(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = monotonic() + timeout
        while not (is_here := condition()) and monotonic() < deadline:
            self._spin()
        return is_here

    def _check(self, deadline: float, problem: str) -> None:
        ended = self.graph.ended()
        if ended is not None:
            raise GraphError(f'{ended} ended:\n{self.graph.tail(ended)}')
        if monotonic() > deadline:
            raise GraphError(f'{problem} for {ANSWER_S:.0f} s; logs: {self.graph.log_dir}')

    def _let_time_pass(self) -> float:
        """s that have passed."""
        began = monotonic()
        if not self._lock_step:
            self._spin()
            return monotonic() - began
        step = Step.Request(control_steps=1)
        response = self._call(self._step, step, 'sim/step', ask_again=ANSWER_S)
        if not response.success:
            raise GraphError(f'sim/step: {response.message}')
        self._stepped_to = convert.to_seconds(response.sim_time)
        return self._sim.time.control_dt

    def _spin(self) -> None:
        self._executor.spin_once(timeout_sec=0.1)
        ended = self.graph.ended()
        if ended is not None:
            raise GraphError(f'{ended} ended:\n{self.graph.tail(ended)}')

    # What comes in.

    def _on_planner(self, msg: PlannerStatus) -> None:
        self._planner = msg
        if self._watch is not None and np.isfinite(msg.plan_ms):
            self._watch.see_status(msg)

    def _on_guard(self, msg: GuardStatus) -> None:
        self._guard = msg
        self.jitter_ms.append(msg.tick_jitter_ms)
        self.missed_ticks = msg.missed_ticks
        if self._watch is not None:
            self._watch.see_guard(msg)

    def _on_joints(self, msg: JointState) -> None:
        self._joints = msg
        if self._watch is not None:
            self._watch.see_joints(msg)
            if np.isnan(self.to_motion_s) and np.abs(msg.velocity).max(initial=0.0) > IN_MOTION:
                self.to_motion_s = monotonic() - self._began

    def _on_image(self, msg: Image) -> None:
        self._image_times.append(monotonic())
        if self._keep_frames or self.on_frame is not None:
            self._image = convert.image_from_msg(msg)

    def _on_truth(self, msg: PoseArray) -> None:
        if self._watch is None:
            return
        self._watch.see_truth(msg)
        if self._image is not None:
            if self._keep_frames:
                self._watch.frames.append(self._image)
            if self.on_frame is not None:
                self.on_frame(self._image, *self._watch.places)

    def _on_markers(self, msg: MarkerArray) -> None:
        if self._watch is not None:
            self._watch.see_plan(msg)

    def _on_command(self, msg: JointTrajectory) -> None:
        if self._watch is not None:
            self._watch.see_command(msg)
