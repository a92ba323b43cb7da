"""Virtual arm node: offers the topics of a camera, an arm's driver and its controllers.

In real time, physics follows the steady clock. In lock-step (parameter ``lock_step``), time passes
only in ``~/step``: each tick publishes the joints, at control steps an image too, then ``/clock``,
and waits for a trajectory on the command topic that is stamped with that time, or unstamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

import numpy as np
from jepa_arm_msgs.srv import InjectFault, ResetScene, Step
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import ConfigError, GuardConfig, ObstacleConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import FloatArray, TrajectoryCommand
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.diagnostics import Diagnostics, RateMeter
from jepa_arm.ros.runtime.duplicate_node_check import DuplicateNodeCheck
from jepa_arm.ros.runtime.environment import prepare_ros
from jepa_arm.ros.runtime.executors import PollingGroup
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC, CONTROLLERS
from jepa_arm.ros.runtime.parameters import (
    PRIORITY_BOUNDS,
    PRIORITY_TEXT,
    SEED_BOUNDS,
    ArmSettings,
    declared_settings,
    load_arm,
    load_sim_config,
    parameter,
)
from jepa_arm.ros.runtime.process import (
    create_steady_timer,
    return_freed_memory,
    run_node,
    set_realtime_priority,
)
from jepa_arm.ros.runtime.qos import COMMAND_QOS
from jepa_arm.sim.tasks import load_task

from .controller import CommandError
from .faults import FaultError
from .sensors import SensorPublishers
from .virtual_arm import VirtualArm

REST_TICKS = 5
"""Ticks simulated at once while the arm rests; waking up for each takes twice the CPU time."""
MAX_CATCH_UP_TICKS = 10
"""Largest number of ticks simulated at once when physics is behind real time."""
MAX_BEHIND_S = 0.2
"""Delay behind real time beyond which physics no longer catches up but drops that time."""
REPEAT_S = 0.5
"""Period in which an unanswered request for a command is repeated."""
COMMANDS_OVER_S, MAX_END_WAIT_S = 0.2, 2.0
"""Time without a command after which the process may end, and longest wait for such a time."""
STEP_TIMEOUT_S = 15.0
STAMP_EPSILON_S = 1e-6
HARDWARE_COMMANDS, HARDWARE_STATES = 'robot_joint_commands', 'robot_joint_states'
"""Topics of ros2_control's JointStateTopicSystem, see ``urdf/common.xacro``."""


@dataclass(frozen=True)
class SimSettings(ArmSettings):
    """Values of the node's parameters; see their descriptions."""

    hardware: bool = parameter(
        False,
        f'take {HARDWARE_COMMANDS} and publish {HARDWARE_STATES}, as the hardware of a '
        'controller_manager (URDF: ros2_control:=topic) that runs the controllers',
    )
    guard_config: str = parameter(
        'guard.yaml', 'obstacles to build: file in config/, or path; read at each reset'
    )
    task: str = parameter('push', 'name of a file in config/tasks')
    seed: int = parameter(0, 'seed of the first scene', SEED_BOUNDS)
    lock_step: bool = parameter(False, 'simulated time only advances in ~/step')
    gui: bool = parameter(False, "show the physics engine's window")
    priority: int = parameter(10, PRIORITY_TEXT, PRIORITY_BOUNDS)


class SimNode(Node):
    """One virtual arm with its task."""

    _sensors: SensorPublishers
    """Created by ``_begin``; no callback that needs it is called earlier."""

    def __init__(self) -> None:
        """Build the scene; publish only once no other virtual arm is found.

        Raises:
            ConfigError: a parameter cannot be used.
        """
        super().__init__('sim')
        settings = declared_settings(self, SimSettings)
        self._is_hardware, self._lock_step = settings.hardware, settings.lock_step
        self._joints_topic = HARDWARE_STATES if self._is_hardware else 'joint_states'
        # Two clocks, or two arms with one clock, make every guard hold.
        self._exclusive = {self._joints_topic: JointState, '/clock': Clock}
        # Looks for other virtual arms while the scene is being built.
        self._predecessors = DuplicateNodeCheck(self, self._exclusive, self._begin)
        self._arm = load_arm(settings.arm)
        self._config = load_sim_config(settings.sim_config)
        self._guard_config = settings.guard_config
        if self._is_hardware and self._lock_step:
            raise ConfigError('hardware, lock_step: expected one of them, got both')
        set_realtime_priority(self, settings.priority)
        first_task = load_task(settings.task, self._arm, self._config)
        declared = self._declared_obstacles()
        self._virtual = VirtualArm(
            self._arm, self._config, settings.gui, sleeps=not self._lock_step
        )
        self._polling_group = PollingGroup(self._config.time.stream_dt, 0.0, self._on_poll)
        self._last_trajectory: tuple[bytes, TrajectoryCommand] | None = None
        self._command_rate = RateMeter()
        self._anchor: float | None = None
        self._late_ticks, self._lost_s = 0, 0.0
        self._ticks_to_go = 0
        self._step_done: Future | None = None
        self._requested_at = self._answered_at = -np.inf
        self._ending_since: float | None = None
        self._virtual.reset(first_task, settings.seed, declared)

    def end(self) -> bool:
        """Return whether the process may end: no node commands the arm any more."""
        now = monotonic()
        self._ending_since = self._ending_since or now
        is_over = self._command_rate.age_ms() > COMMANDS_OVER_S * 1000.0
        return self._lock_step or is_over or now - self._ending_since > MAX_END_WAIT_S

    def _begin(self) -> None:
        """Create publishers, subscriptions and timers, now that no other virtual arm was found."""
        self._sensors = SensorPublishers(self, self._virtual, self._joints_topic)
        self._make_subscriptions()
        arm = self._arm.config.name
        Diagnostics(self, self._problems, self._values, hardware_id=lambda: arm)
        if self._lock_step:
            create_steady_timer(self, REPEAT_S, 0.0, self._repeat_requests)
        mode = 'lock-step' if self._lock_step else 'real time'
        name = self._virtual.task.config.name
        self.get_logger().info(f'{name}, seed {self._virtual.seed}, {mode}')

    def _make_subscriptions(self) -> None:
        group = None if self._lock_step else self._polling_group
        subscribe = partial(
            self.create_subscription, qos_profile=COMMAND_QOS, callback_group=group
        )
        if self._is_hardware:
            subscribe(JointState, HARDWARE_COMMANDS, self._on_joint_commands)
        else:
            subscribe(JointTrajectory, COMMAND_TOPIC, self._on_trajectory, raw=True)
            controller = self._virtual.controller
            move_to = partial(self._on_numbers, controller.follow_position)
            subscribe(Float64MultiArray, CONTROLLERS['forward_position'], move_to)
            move_with = partial(self._on_numbers, controller.follow_velocity)
            subscribe(Float64MultiArray, CONTROLLERS['forward_velocity'], move_with)
        self.create_service(ResetScene, '~/reset', self._on_reset)
        reentrant = ReentrantCallbackGroup()  # other callbacks run while a step is in progress
        self.create_service(Step, '~/step', self._on_step, callback_group=reentrant)
        self.create_service(InjectFault, '~/inject_fault', self._on_fault)

    # Real time.

    def _on_poll(self, take_messages: Callable[[], None]) -> None:
        take_messages()
        dt, now = self._config.time.stream_dt, monotonic()
        if self._anchor is None:
            self._anchor = now - (self._virtual.tick + 1) * dt
        due = round((now - self._anchor) / dt) - self._virtual.tick
        self._late_ticks += max(0, due - round(self._polling_group.period / dt))
        if due * dt > MAX_BEHIND_S:
            self._lost_s += due * dt
            self._anchor, due = None, 1
        for left in reversed(range(min(due, MAX_CATCH_UP_TICKS))):
            self._advance()
            if left == 0:  # listeners would receive the earlier ones together with it
                self._sensors.publish_clock(always=False)
            self._sensors.publish_readings()
        if self._virtual.is_at_rest:  # in phase with the anchor, so that images are not late
            self._polling_group.set_period(dt * REST_TICKS, self._anchor)
        else:
            self._polling_group.set_period(dt)

    # Lock-step.

    def _request_command(self) -> None:
        """Publish readings and clock, which requests the command of this tick (lock-step)."""
        self._requested_at = monotonic()
        self._sensors.publish_readings()
        self._sensors.publish_clock(always=True)

    def _on_command(self) -> None:
        """Advance one tick with the command that has arrived (lock-step)."""
        self._advance()
        self._ticks_to_go -= 1
        if self._ticks_to_go:
            self._answered_at = monotonic()
            self._request_command()
        else:
            self._sensors.publish_joints()
            self._finish_step('')

    def _repeat_requests(self) -> None:
        """Repeat unanswered requests, as best-effort messages may be lost; give up in the end."""
        now = monotonic()
        if self._ticks_to_go == 0:
            self._sensors.publish_joints()
        elif now - self._answered_at > STEP_TIMEOUT_S:
            self._finish_step(f'no command for t = {self._virtual.clock:.2f} s; is a guard there?')
        elif now - self._requested_at > REPEAT_S:
            self._request_command()

    def _finish_step(self, problem: str) -> None:
        self._ticks_to_go = 0
        if self._step_done is not None and not self._step_done.done():
            self._step_done.set_result(problem)

    # Commands.

    def _on_trajectory(self, raw: bytes) -> None:
        with self._command():
            trajectory = self._read_trajectory(raw)
            stamp = trajectory.start
            if self._lock_step and stamp and abs(stamp - self._virtual.clock) > STAMP_EPSILON_S:
                return  # a second answer to a request that was repeated
            if stamp:
                ahead = self._virtual.clock - self._virtual.now
                trajectory = replace(trajectory, start=trajectory.start - ahead)
            self._virtual.controller.follow(trajectory, self._virtual.now)
        if self._ticks_to_go:
            self._on_command()

    def _read_trajectory(self, raw: bytes) -> TrajectoryCommand:
        """Return the trajectory of a message; cached, since at rest the same one is repeated."""
        if self._last_trajectory is None or self._last_trajectory[0] != raw:
            msg = convert.from_raw(raw, JointTrajectory)
            trajectory = convert.trajectory_from_msg(msg, self._arm.joint_names)
            self._last_trajectory = raw, trajectory
        return self._last_trajectory[1]

    def _on_numbers(
        self, follow: Callable[[FloatArray, float], None], msg: Float64MultiArray
    ) -> None:
        expected = len(self._arm.joint_names)
        with self._command():
            if len(msg.data) != expected:
                raise CommandError(f'expected {expected} numbers, got {len(msg.data)}')
            follow(np.array(msg.data), self._virtual.now)
        if self._ticks_to_go:
            self._on_command()

    def _on_joint_commands(self, msg: JointState) -> None:
        controller = self._virtual.controller
        with self._command():
            position, velocity = convert.joint_commands_from_msg(msg, self._arm.joint_names)
            if position is not None:
                controller.hold_position(position, self._virtual.now)  # not sent again at rest
            elif velocity is not None:
                controller.follow_velocity(velocity, self._virtual.now)

    @contextmanager
    def _command(self) -> Iterator[None]:
        """Count a command; log the error if it is refused."""
        self._command_rate.count()
        try:
            yield
        except (convert.ConversionError, CommandError) as error:
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
            goal = self._virtual.reset(task, request.seed, self._declared_obstacles())
        except (ConfigError, FileNotFoundError) as error:
            response.message = str(error)
            return response
        self._finish_step('the scene was reset')
        self._anchor = None
        self._sensors.publish_joints()
        state, goal = self._virtual.state(), replace(goal, stamp=self._virtual.clock)
        names, frame = self._arm.joint_names, self._arm.config.camera.frame_id
        response.success = True
        response.goal = convert.image_goal_to_msg(task.subject, goal, names, frame)
        if task.config.yaw_tolerance_deg is not None:
            response.goal.yaw_tolerance = math.radians(task.config.yaw_tolerance_deg)
        response.object_position = convert.point_to_msg(state.object_position)
        response.goal_position = convert.point_to_msg(self._virtual.scene.goal)
        response.tip_position = convert.point_to_msg(state.tip_position)
        self.get_logger().info(f'{task.config.name}, seed {request.seed}')
        return response

    def _declared_obstacles(self) -> tuple[ObstacleConfig, ...]:
        """Return the obstacles that the guard's file declares now."""
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
            self._request_command()
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

    # Diagnostics.

    def _problems(self) -> list[str]:
        problems = [f'fault {name}' for name in self._virtual.faults()]
        if self._lost_s:
            problems.append(f'{self._lost_s:.1f} s lost: slower than real time')
        for name in map(self.resolve_topic_name, self._exclusive):
            if self.count_publishers(name) > 1:
                problems.append(f'{name}: another publishes it too')
        return problems

    def _values(self) -> dict[str, object]:
        return {
            'task': self._virtual.task.config.name,
            'seed': self._virtual.seed,
            'sim time s': f'{self._virtual.clock:.2f}',
            **self._sensors.values(),
            'commands Hz': f'{self._command_rate.hz():.0f}',
            'late ticks': self._late_ticks,
        }


def main() -> None:
    """Run the virtual arm's executable."""
    prepare_ros()
    return_freed_memory()
    run_node('sim', SimNode, SimNode.end)


if __name__ == '__main__':
    main()
