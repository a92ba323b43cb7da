"""The virtual arm on ROS 2: what a camera, an arm's driver and its controllers would offer.

Real time: physics follows the steady clock. Lock-step (parameter ``lock_step``): time passes
only in ``~/step``. Each tick publishes the joints, at control steps an image too, then
``/clock``, and waits for a trajectory stamped with that time (or with none) on the command
topic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from time import monotonic

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.srv import InjectFault, ResetScene, Step
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from ..config import ConfigError, GuardConfig, ObstacleConfig, load
from ..data.recording import WRIST_IMAGES
from ..resources import config_path
from ..sim.tasks import load_task
from ..types import FloatArray, JointSample
from . import conversions as convert
from .controller import CommandError, Trajectory
from .description import CONTROLLERS
from .diagnostics import Diagnostics, Rate
from .environment import prepare_ros
from .executors import Beat
from .parameters import (
    COMMAND,
    COMMAND_TOPIC,
    SENSOR,
    STATUS,
    check_known,
    declare,
    declare_arm,
    declare_priority,
    declare_seed,
    declare_sim_config,
    load_arm,
    load_sim_config,
)
from .predecessors import Predecessors
from .process import return_large_memory, run, steady_timer, use_real_time
from .virtual_arm import FaultError, VirtualArm

REST_TICKS = 5
"""Ticks made at once while the arm rests: to wake for each takes twice the processor."""
MAX_CATCH_UP = 10
"""Ticks made at once when real time is behind."""
MAX_BEHIND_S = 0.2
"""Time that is given up when real time is further behind."""
ASK_AGAIN_S = 0.5
LEFT_AFTER_S, LONGEST_END_S = 0.2, 2.0
"""How long after the last command the process may end, and how long it waits for that."""
STEP_TIMEOUT_S = 15.0
HARDWARE_COMMANDS, HARDWARE_STATES = 'robot_joint_commands', 'robot_joint_states'
"""Topics of ros2_control's JointStateTopicSystem, see ``urdf/common.xacro``."""


class SimNode(Node):
    """One virtual arm with its task."""

    def __init__(self) -> None:
        super().__init__('sim')
        text = (
            f'takes {HARDWARE_COMMANDS} and publishes {HARDWARE_STATES}, as hardware of a '
            'controller_manager (URDF: ros2_control:=topic), which has the controllers'
        )
        self._is_hardware = bool(declare(self, 'hardware', False, text))
        self._joints_topic = HARDWARE_STATES if self._is_hardware else 'joint_states'
        # two clocks, or two arms in one, make every guard hold
        self._only_one = {self._joints_topic: JointState, '/clock': Clock}
        self._predecessors = Predecessors(self, self._only_one, self._begin)  # while it is built
        self._arm = load_arm(declare_arm(self))
        self._config = load_sim_config(declare_sim_config(self))
        text = (
            'obstacles that it declares stand there: config/<file>, or a path; read at each reset'
        )
        self._guard_config = str(declare(self, 'guard_config', 'guard.yaml', text))
        task = declare(self, 'task', 'push', 'task: config/tasks/<task>.yaml')
        seed = declare_seed(self, 'of the first scene')
        self._info = convert.camera_info_to_msg(self._arm.config.camera, Time())
        self._lock_step = bool(declare(self, 'lock_step', False, 'time passes only in ~/step'))
        gui = bool(declare(self, 'gui', False, 'show the physics engine in a window'))
        priority = declare_priority(self, 10)
        check_known(self)
        if self._is_hardware and self._lock_step:
            raise ConfigError('hardware, lock_step: expected one of them, got both')
        use_real_time(self, priority)
        first_task = load_task(str(task), self._arm, self._config)
        declared = self._declared()
        self._virtual = VirtualArm(self._arm, self._config, gui, sleeps=not self._lock_step)
        self._ticks_to_go = 0
        self._step_done: Future | None = None
        self._anchor: float | None = None
        self._late_ticks, self._lost_s = 0, 0.0
        self._joint_rate, self._image_rate, self._command_rate = Rate(), Rate(), Rate()
        self._ending_since: float | None = None
        self._virtual.reset(first_task, seed, declared)

    def end(self) -> bool:
        """Whether nobody commands the arm any more: it ends after those who bring it to rest."""
        now = monotonic()
        self._ending_since = self._ending_since or now
        is_left = self._command_rate.ago_ms() > LEFT_AFTER_S * 1000.0
        return self._lock_step or is_left or now - self._ending_since > LONGEST_END_S

    def _begin(self) -> None:
        """Acts from now on, as the only virtual arm here."""
        self._make_publishers()
        self._make_subscriptions()
        arm = self._arm.config.name
        self._diagnostics = Diagnostics(self, self._problems, self._values, hardware=lambda: arm)
        if self._lock_step:
            steady_timer(self, ASK_AGAIN_S, 0.0, self._on_silence)
        name, mode = (
            self._virtual.task.config.name,
            'lock-step' if self._lock_step else 'real time',
        )
        self.get_logger().info(f'{name}, seed {self._virtual.seed}, {mode}')

    def _make_publishers(self) -> None:
        self._clock_pub = self.create_publisher(Clock, '/clock', STATUS)
        self._joints_pub = self.create_publisher(JointState, self._joints_topic, SENSOR)
        self._image_pub = self.create_publisher(Image, 'camera/image_raw', SENSOR)
        self._info_pub = self.create_publisher(CameraInfo, 'camera/camera_info', SENSOR)
        self._wrist_pub: Publisher | None = None
        if self._arm.config.camera.wrist is not None:
            self._wrist_pub = self.create_publisher(Image, WRIST_IMAGES, SENSOR)
        self._truth_pub = self.create_publisher(PoseArray, 'ground_truth/objects', SENSOR)

    def _make_subscriptions(self) -> None:
        self._beat = Beat(self._config.time.stream_dt, 0.0, self._on_beat)
        group = None if self._lock_step else self._beat
        subscribe = partial(self.create_subscription, qos_profile=COMMAND, callback_group=group)
        self._read = lru_cache(1)(self._read_trajectory)  # at rest it is the same one
        if self._is_hardware:
            subscribe(JointState, HARDWARE_COMMANDS, self._on_joint_commands)
        else:
            subscribe(JointTrajectory, COMMAND_TOPIC, self._on_trajectory, raw=True)
            controller = self._virtual.controller
            for name, take in (
                ('forward_position', controller.go_to),
                ('forward_velocity', controller.drive),
            ):
                on_numbers = partial(self._on_numbers, take)
                subscribe(Float64MultiArray, CONTROLLERS[name], on_numbers)
        self.create_service(ResetScene, '~/reset', self._on_reset)
        waits = ReentrantCallbackGroup()  # while a step is under way the rest goes on
        self.create_service(Step, '~/step', self._on_step, callback_group=waits)
        self.create_service(InjectFault, '~/inject_fault', self._on_fault)

    # Real time.

    def _on_beat(self, take: Callable[[], None]) -> None:
        take()
        dt, now = self._config.time.stream_dt, monotonic()
        if self._anchor is None:
            self._anchor = now - (self._virtual.tick + 1) * dt
        due = round((now - self._anchor) / dt) - self._virtual.tick
        self._late_ticks += max(0, due - round(self._beat.period / dt))
        if due * dt > MAX_BEHIND_S:
            self._lost_s += due * dt
            self._anchor, due = None, 1
        for left in reversed(range(min(due, MAX_CATCH_UP))):
            self._advance()
            if left == 0:  # whoever listens would take those before at once with it
                self._publish_clock()
            self._publish_readings()
        if self._virtual.is_at_rest:  # images are of the last of the ticks made at once, not late
            self._beat.pace(dt * REST_TICKS, self._anchor)
        else:
            self._beat.pace(dt)

    # Lock-step.

    def _ask(self) -> None:
        """Shows the present and asks for the command of this tick."""
        self._asked_at = monotonic()
        self._publish_readings()
        self._publish_clock()

    def _answered(self) -> None:
        """The command of this tick came."""
        self._advance()
        self._ticks_to_go -= 1
        if self._ticks_to_go:
            self._answered_at = monotonic()
            self._ask()
        else:
            self._publish_joints()
            self._finish_step('')

    def _on_silence(self) -> None:
        """Asks again what nobody answered: best effort may lose a message."""
        now = monotonic()
        if self._ticks_to_go == 0:
            self._publish_joints()
        elif now - self._answered_at > STEP_TIMEOUT_S:
            self._finish_step(f'no command for t = {self._virtual.clock:.2f} s; is a guard there?')
        elif now - self._asked_at > ASK_AGAIN_S:
            self._ask()

    def _finish_step(self, problem: str) -> None:
        self._ticks_to_go = 0
        if self._step_done is not None and not self._step_done.done():
            self._step_done.set_result(problem)

    # Commands.

    def _read_trajectory(self, raw: bytes) -> Trajectory:
        msg = convert.from_raw(raw, JointTrajectory)
        return convert.trajectory_from_msg(msg, self._arm.joint_names)

    def _on_trajectory(self, raw: bytes) -> None:
        self._command_rate.count()
        try:
            trajectory = self._read(raw)
            stamp = trajectory.start
            if self._lock_step and stamp and abs(stamp - self._virtual.clock) > 1e-6:
                return  # the answer to a question that was asked twice
            if stamp:
                ahead = self._virtual.clock - self._virtual.now
                trajectory = replace(trajectory, start=trajectory.start - ahead)
            self._virtual.controller.follow(trajectory, self._virtual.now)
        except (convert.ConversionError, CommandError) as error:
            self._refuse(error)
        if self._ticks_to_go:
            self._answered()

    def _on_numbers(
        self, take: Callable[[FloatArray, float], None], msg: Float64MultiArray
    ) -> None:
        self._command_rate.count()
        try:
            if len(msg.data) != len(self._arm.joint_names):
                raise CommandError(
                    f'expected {len(self._arm.joint_names)} numbers, got {len(msg.data)}'
                )
            take(np.array(msg.data), self._virtual.now)
        except CommandError as error:
            self._refuse(error)
        if self._ticks_to_go:
            self._answered()

    def _on_joint_commands(self, msg: JointState) -> None:
        self._command_rate.count()
        controller = self._virtual.controller
        try:
            position, velocity = convert.joint_commands_from_msg(msg, self._arm.joint_names)
            if position is not None:
                controller.stay_at(position, self._virtual.now)  # none comes while it is there
            elif velocity is not None:
                controller.drive(velocity, self._virtual.now)
        except (convert.ConversionError, CommandError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        self.get_logger().warning(f'command refused: {error}', throttle_duration_sec=1.0)

    def _advance(self) -> None:
        if self._virtual.advance():
            limit = self._config.command_timeout
            self.get_logger().warning(f'no command for {limit} s: the arm holds where it is')

    # Services.

    def _on_reset(
        self, request: ResetScene.Request, response: ResetScene.Response
    ) -> ResetScene.Response:
        task = self._virtual.task
        try:
            if request.task not in ('', task.config.name):
                task = load_task(request.task, self._arm, self._config)
            goal = self._virtual.reset(task, request.seed, self._declared())
        except (ConfigError, FileNotFoundError) as error:
            response.message = str(error)
            return response
        self._finish_step('the scene was reset')
        self._anchor = None
        self._publish_joints()
        state, stamp = self._virtual.state(), convert.to_time(self._virtual.clock)
        names, frame = self._arm.joint_names, self._arm.config.camera.frame_id
        response.success = True
        response.goal = convert.image_goal_to_msg(
            task.subject, goal.image, goal.joints, names, frame, stamp
        )
        if task.config.yaw_tolerance_deg is not None:
            response.goal.yaw_tolerance = math.radians(task.config.yaw_tolerance_deg)
        response.object_position = convert.point_to_msg(state.object_position)
        response.goal_position = convert.point_to_msg(self._virtual.scene.goal)
        response.tip_position = convert.point_to_msg(state.tip_position)
        self.get_logger().info(f'{task.config.name}, seed {request.seed}')
        return response

    def _declared(self) -> tuple[ObstacleConfig, ...]:
        """The obstacles that the file of ``guard_config`` declares now."""
        return load(GuardConfig, config_path(self._guard_config)).obstacles

    async def _on_step(self, request: Step.Request, response: Step.Response) -> Step.Response:
        if not self._lock_step:
            response.message = 'expected lock-step mode: start with the parameter lock_step:=true'
        elif self._ticks_to_go:
            response.message = 'another step is under way'
        elif request.control_steps:
            self._ticks_to_go = request.control_steps * self._config.time.ticks
            done = self._step_done = Future()
            self._answered_at = monotonic()
            self._ask()
            response.message = await done or ''
        response.success = not response.message
        state = self._virtual.state()
        response.sim_time = convert.to_time(self._virtual.clock)
        response.object_position = convert.point_to_msg(state.object_position)
        response.tip_position = convert.point_to_msg(state.tip_position)
        return response

    def _on_fault(
        self, request: InjectFault.Request, response: InjectFault.Response
    ) -> InjectFault.Response:
        try:
            self._virtual.inject(request.fault, request.duration, request.value)
        except FaultError as error:
            response.message = str(error)
            return response
        response.success = True
        self.get_logger().warning(f'fault: {request.fault}')
        return response

    # What is published.

    def _publish_clock(self) -> None:
        if self._lock_step or self._clock_pub.get_subscription_count():
            self._clock_pub.publish(Clock(clock=convert.to_time(self._virtual.clock)))

    def _publish_readings(self) -> None:
        self._publish_joints()
        if self._virtual.is_control_step:
            self._virtual.take_picture()
            self._publish_truth()
        camera = self._arm.config.camera
        for stamp, image, below in self._virtual.pictures():
            time = convert.to_time(stamp)
            if self._wrist_pub is not None and camera.wrist is not None:
                frame_id = camera.wrist.frame_id
                self._wrist_pub.publish(convert.image_to_msg(below, time, frame_id))
            msg = convert.image_to_msg(image, time, camera.frame_id)
            if self._virtual.has_fault('camera_encoding'):
                msg.encoding = 'unknown'
            self._image_pub.publish(msg)
            self._image_rate.count()
            self._info.header.stamp = time
            self._info_pub.publish(self._info)

    def _publish_joints(self) -> None:
        sample = self._virtual.joints()
        if sample is None:
            return
        names = list(self._arm.joint_names)
        order = list(range(len(names)))
        if self._virtual.has_fault('joints_permuted'):
            order.reverse()
        if self._virtual.has_fault('joint_missing'):
            order.pop()
        self._joint_rate.count()
        shown = JointSample(sample.position[order], sample.velocity[order], sample.stamp)
        self._joints_pub.publish(convert.joints_to_msg(shown, [names[i] for i in order]))

    def _publish_truth(self) -> None:
        state, frame = self._virtual.state(), self._arm.config.base_link
        poses = [(state.object_position, state.object_quaternion)]
        stamp = convert.to_time(self._virtual.clock)
        self._truth_pub.publish(convert.poses_to_msg(poses, frame, stamp))

    def _problems(self) -> list[str]:
        problems = [f'fault {name}' for name in self._virtual.faults()]
        if self._lost_s:
            problems.append(f'{self._lost_s:.1f} s lost: slower than real time')
        names = map(self.resolve_topic_name, self._only_one)
        problems += [f'{n}: another publishes it too' for n in names if self._is_shared(n)]
        return problems

    def _is_shared(self, topic: str) -> bool:
        return self.count_publishers(topic) > 1

    def _values(self) -> dict[str, object]:
        return {
            'task': self._virtual.task.config.name,
            'seed': self._virtual.seed,
            'sim time s': f'{self._virtual.clock:.2f}',
            'joint states Hz': f'{self._joint_rate.hz():.0f}',
            'images Hz': f'{self._image_rate.hz():.1f}',
            'commands Hz': f'{self._command_rate.hz():.0f}',
            'late ticks': self._late_ticks,
        }


def main() -> None:
    """Entry point of the executable."""
    prepare_ros()
    return_large_memory()
    run('sim', SimNode, SimNode.end)


if __name__ == '__main__':
    main()
