"""Guard node: a managed node and, while active, the only publisher of commands for the robot.

The node ends if another guard's commands are heard at its start, and holds the arm if another
publisher appears later. After a jump of ROS time, or a pause of the process, the arm is stopped
and stays at rest until a proposal with a new stamp comes.

Commands follow the steady clock. In lock-step (parameter ``lock_step``), each ``/clock`` message
requests a tick for its time. The tick is made once the joint state of that time has come and, at
control steps, the planner (if any) has reported on ``planner/status`` for that time and sent the
proposal that it announced there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import Any

import numpy as np
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import ConfigError, GuardConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import GuardState, JointSample, Verdict
from jepa_arm.guard.guard import RELEASED, Guard
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.compat import take, uses_sim_time
from jepa_arm.ros.runtime.connections import ConnectionMonitor
from jepa_arm.ros.runtime.environment import prepare_ros
from jepa_arm.ros.runtime.executors import PollingGroup
from jepa_arm.ros.runtime.lifecycle import ManagedNode, run_managed
from jepa_arm.ros.runtime.node_contract import CONTROLLERS, FOLLOW_TRAJECTORY
from jepa_arm.ros.runtime.parameters import load_arm, load_sim_config
from jepa_arm.ros.runtime.process import (
    create_steady_timer,
    return_freed_memory,
    set_realtime_priority,
)
from jepa_arm.ros.runtime.qos import COMMAND_QOS, GUARD_STATUS_QOS, SENSOR_QOS, STATUS_QOS

from .command_output import LAST_MESSAGE_S, LOCK_STEP_CONTROLLER, CommandOutput, TopicOutput
from .lock_step import LockStepGate
from .settings import GuardSettings, clamp_speed_scale
from .statistics import GuardStatistics
from .trajectory_action_output import TrajectoryActionOutput
from .watchdogs import ClockJumpMonitor, PauseMonitor

STATUS_PERIOD_S = 0.1
MAX_STOP_S = 2.0
"""Longest wait for the arm to come to rest before the process ends."""
GOAL_ALERT_S = 0.5
"""Time after a new goal in which the guard ticks at full rate, ready for the first proposal."""
AT_REST = (GuardState.INACTIVE, GuardState.IDLE, GuardState.HOLDING, GuardState.LATCHED)
FAULT_REPORT_S = 10.0
"""Time for which a reason to stop is reported as a problem after it is over."""
NOT_ACTIVE = 'inactive: the guard is not active; activate it (ros2 lifecycle set)'


@dataclass
class _Progress:
    """Times (s, steady clock) and flags since the guard was activated.

    Attributes:
        ticked_at: last tick; in lock-step its stamp.
        goal_at: last goal of the planner.
        fault_at: last stop for a fault.
        ending_since: when the node began to end; None before.
        joints_stamp: s, ROS clock, stamp of the newest joint state.
        joints_received_at: its arrival.
        has_fresh_proposal: the last proposal was accepted and none of its commands sent yet.
        published: state and reasons of the last status.
    """

    ticked_at: float = -np.inf
    goal_at: float = -np.inf
    fault_at: float = -np.inf
    ending_since: float | None = None
    joints_stamp: float = -np.inf
    joints_received_at: float = -np.inf
    has_fresh_proposal: bool = False
    published: tuple[object, ...] = ()


class GuardComponent:
    """Connects topics, services and timers with a ``Guard``."""

    def __init__(self, node: ManagedNode, settings: GuardSettings) -> None:
        """Load the configuration and create everything except the publisher of commands.

        Raises:
            ConfigError: a setting is invalid, or a package that it needs is not installed.
        """
        self._node = node
        self._arm = load_arm(settings.arm)
        self._time = load_sim_config(settings.sim_config).time
        self._config = load(GuardConfig, config_path(settings.guard_config))
        self._connections = ConnectionMonitor(node)
        self._settings = settings
        self._lock_step = LockStepGate(self._time) if settings.lock_step else None
        self._speed_scale = clamp_speed_scale(settings.speed_scale)
        self._output = self._make_output()
        dt = self._time.stream_dt
        self._rest_period = max(dt, settings.rest_period) if self._output.may_rest else dt
        self._polling_group: PollingGroup | None = None
        if not settings.lock_step:
            self._polling_group = PollingGroup(dt, dt / 2.0, self._on_poll)
        self._is_active = False
        self._clock_jumps: ClockJumpMonitor | None = None
        self._guard, self._pause = self._make_guard(), PauseMonitor()
        self._progress, self._statistics = _Progress(), GuardStatistics()
        events = self._connections.publisher_events('guard/status')
        self._status_pub = node.create_publisher(
            GuardStatus, 'guard/status', GUARD_STATUS_QOS, event_callbacks=events
        )
        subscribe = partial(node.create_subscription, callback_group=self._polling_group)
        self._joints_sub = subscribe(JointState, 'joint_states', self._on_joints, SENSOR_QOS)
        self._connections.require('joint_states')
        topic = 'planner/joint_trajectory'
        events = self._connections.subscription_events(topic)
        subscribe(JointTrajectory, topic, self._on_proposal, COMMAND_QOS, event_callbacks=events)
        subscribe(Goal, 'planner/goal', self._on_goal, COMMAND_QOS, raw=True)
        if self._lock_step is not None:
            subscribe(Clock, '/clock', self._on_clock, STATUS_QOS)
            subscribe(PlannerStatus, 'planner/status', self._on_planner, STATUS_QOS)
        self._make_services()
        phase = self._time.stream_dt * 0.8
        create_steady_timer(node, STATUS_PERIOD_S, phase, self._publish_status)
        set_realtime_priority(node, settings.priority)

    def _make_guard(self) -> Guard:
        guard = Guard(self._arm, self._time, self._config, self._output.holds_position)
        guard.speed_scale = self._speed_scale
        return guard

    def _make_output(self) -> CommandOutput:
        settings, dt = self._settings, self._time.stream_dt
        name = settings.controller
        if name not in CONTROLLERS:
            raise ConfigError(f'controller: expected one of {sorted(CONTROLLERS)}, got {name!r}')
        if settings.lock_step and name != LOCK_STEP_CONTROLLER:
            text = f'expected {LOCK_STEP_CONTROLLER} in lock-step, got {name}'
            raise ConfigError(f'controller: {text}')
        if name == FOLLOW_TRAJECTORY:
            action = CONTROLLERS[name]
            return TrajectoryActionOutput(self._node, action, self._arm, dt, self._config)
        return TopicOutput(self._node, self._connections, name, self._arm, dt, settings.lock_step)

    def _make_services(self) -> None:
        self._serve('~/reset', self._reset_latch, lambda verdict: not verdict.reasons)
        self._serve('~/hold', lambda: self._guard.hold(), lambda _: self._guard.is_locked_out)
        self._serve(
            '~/resume', lambda: self._guard.resume(), lambda _: not self._guard.is_locked_out
        )

    def _serve(
        self, name: str, act: Callable[[], Verdict], succeeded: Callable[[Verdict], bool]
    ) -> None:
        def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            verdict = act()
            response.success = verdict.state is not GuardState.INACTIVE and succeeded(verdict)
            response.message = '; '.join(verdict.reasons) or verdict.state.name
            self._publish_change()  # before the answer: a goal may follow it at once
            self._node.get_logger().info(f'{name}: {response.message}')
            return response

        self._node.create_service(Trigger, name, answer)

    def _reset_latch(self) -> Verdict:
        """Reset the latch and command rest at the new position, before any proposal."""
        verdict = self._guard.reset_latch(self._now())
        if not verdict.reasons and self._lock_step is None:
            self._tick(self._now())
        return verdict

    # Lifecycle.

    def set_live(self, values: Mapping[str, Any]) -> None:
        """Apply a new ``speed_scale``."""
        self._guard.speed_scale = self._speed_scale = clamp_speed_scale(values['speed_scale'])

    def activate(self) -> None:
        """Start listening for other commanders; ``_try_start`` then takes over the arm."""
        self._output.listen()
        self._clock_jumps = ClockJumpMonitor(self._node)
        self._is_active = True

    def deactivate(self) -> None:
        """Bring the arm to rest and release it."""
        try:
            self._come_to_rest()
        finally:
            self._is_active = False
            self.close()
        self._output = self._make_output()
        self._guard, self._pause = self._make_guard(), PauseMonitor()
        self._progress, self._statistics = _Progress(), GuardStatistics()
        self._publish_status()

    def close(self) -> None:
        """Close the output and stop monitoring the clock."""
        self._output.close()
        if self._clock_jumps is not None:
            self._clock_jumps.close()
        self._clock_jumps = None

    def end(self) -> bool:
        """Bring the arm to rest after a stop signal; return whether the process may end."""
        if self._progress.ending_since is None:
            self._progress.ending_since = monotonic()
            self._guard.hold('held: the guard is shutting down')
            self._output.expect_rest()
        if self._must_wait_for_rest(self._progress.ending_since):
            return False
        self._status_pub.publish(self._status(GuardState.INACTIVE, ('shutdown',)))
        self._status_pub.wait_for_all_acked(Duration(seconds=LAST_MESSAGE_S))
        return True

    def _come_to_rest(self) -> None:
        self._guard.hold('held: the guard is being deactivated')
        self._output.expect_rest()
        began = monotonic()
        while self._must_wait_for_rest(began) and not self._pause.reason:
            sleep(self._time.stream_dt)
            taken = take(self._joints_sub)  # the executor is busy with the transition
            if taken is not None:
                self._on_joints(taken[0])
            self._tick(monotonic())

    def _must_wait_for_rest(self, began: float) -> bool:
        """Return whether to keep waiting until the arm, stopped at ``began`` (s), is at rest."""
        if self._lock_step is not None or monotonic() - began > MAX_STOP_S:
            return False
        return self._guard.state not in AT_REST or not self._output.is_finished(self._ros_now())

    # Clocks.

    def _now(self) -> float:
        """Return the time (s) by which plans expire and joint states age."""
        return monotonic() if self._lock_step is None else self._lock_step.now

    def _ros_now(self) -> float:
        """Return the time (s) that stamps are compared with."""
        if self._lock_step is not None:
            return self._lock_step.now
        return self._node.get_clock().now().nanoseconds / convert.NANOSECONDS

    def _check_clock(self) -> str:
        """Return why the clock cannot be compared with stamps now, as 'code: text', or ''."""
        if self._clock_jumps is not None and self._clock_jumps.reason:
            return self._clock_jumps.reason
        if self._lock_step is None and self._ros_now() == 0.0:
            return 'clock: nothing has come on /clock yet, which use_sim_time asks for'
        return ''

    def _age_ms(self, stamp: float) -> float:
        """Return the age of ``stamp`` (s) in ms.

        A simulated clock is too coarse: the stamp and arrival time of the newest joint state are
        used instead.
        """
        if self._lock_step is None and uses_sim_time(self._node):
            progress = self._progress
            now = progress.joints_stamp + monotonic() - progress.joints_received_at
        else:
            now = self._ros_now()
        return (now - stamp) * 1000.0

    # Inputs.

    def _on_joints(self, msg: JointState) -> None:
        self._statistics.joint_rate.count()
        try:
            sample = convert.joints_from_msg(msg, self._arm.joint_names)
        except convert.ConversionError as error:
            self._guard.reject_joint_state(str(error))
            self._node.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        group, now = self._polling_group, monotonic()
        waited = 0.0 if group is None else group.queue_delay
        self._progress.joints_stamp = sample.stamp
        self._progress.joints_received_at = now - waited
        if self._lock_step is not None:
            self._lock_step.joints_received(sample.stamp)
        self._output.observe(sample, now, self._ros_now())
        if self._guard.state is GuardState.INACTIVE:
            if self._is_active:
                self._try_start(sample)
        elif self._pause.reason:
            if self._output.is_finished(self._ros_now()):
                self._pause.try_restart(self._guard, sample, monotonic())
            if not self._pause.reason:
                self._tick(monotonic())
        else:
            self._guard.observe(sample, self._now())
        self._tick_if_due()

    def _try_start(self, sample: JointSample) -> None:
        """Take over the arm where it stands, unless another node commands it."""
        if not self._output.is_clear:
            if self._output.unavailable_reason:
                self._node.get_logger().info(
                    self._output.unavailable_reason, throttle_duration_sec=5.0
                )
            return
        try:
            self._guard.reset(sample.position, self._now())
        except ValueError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._output.open()

    def _on_proposal(self, msg: JointTrajectory) -> None:
        if not msg.points and tuple(msg.joint_names) == self._arm.joint_names:
            self._guard.release()
            return
        self._statistics.proposal_rate.count()
        verdict = self._submit(msg)
        self._progress.has_fresh_proposal = not verdict.reasons
        if verdict.reasons:
            text = f'proposal refused: {verdict.reasons[0]}'
            self._node.get_logger().warning(text, throttle_duration_sec=0.5)
            self._publish_status(verdict)
        if self._lock_step is not None:
            self._lock_step.proposal_received(convert.to_seconds(msg.header.stamp))
        self._tick_if_due()

    def _submit(self, msg: JointTrajectory) -> Verdict:
        try:
            validity = self._validity(convert.to_seconds(msg.header.stamp))
            proposal = convert.proposal_from_msg(msg, validity)
        except convert.ConversionError as error:
            return self._guard.reject(f'schema: {error}')
        if not self._is_active:
            return self._guard.reject(NOT_ACTIVE)
        reason = self._check_clock() or self._output.unavailable_reason
        if reason:
            return self._guard.reject(reason, counts_towards_latch=False)
        return self._guard.submit(proposal, self._now(), self._ros_now())

    def _validity(self, stamp: float) -> float:
        """Return for how long (s) after its ``stamp`` a proposal that arrives now is valid."""
        config, age = self._guard.config, self._ros_now() - stamp
        age = min(max(age, 0.0), config.max_proposal_age)  # older ones are rejected
        return max(config.validity_after_stamp, age + config.validity_after_arrival)

    def _on_goal(self, _: bytes) -> None:
        """Switch to the full tick rate: proposals come soon and must not wait for a slow tick."""
        self._progress.goal_at = self._now()

    def _on_clock(self, msg: Clock) -> None:
        assert self._lock_step is not None
        self._lock_step.command_requested(convert.to_seconds(msg.clock))
        self._tick_if_due()

    def _on_planner(self, msg: PlannerStatus) -> None:
        assert self._lock_step is not None
        stamp = convert.to_seconds(msg.observation_stamp)
        self._lock_step.planner_answered(stamp, msg.state == PlannerStatus.PLANNING)
        self._tick_if_due()

    # Ticks.

    def _on_poll(self, take_messages: Callable[[], None]) -> None:
        """Detect a pause before taking the messages that were queued meanwhile, then tick."""
        assert self._polling_group is not None
        now, late = monotonic(), self._polling_group.lateness
        if np.isfinite(self._progress.ticked_at):
            self._statistics.record_tick(late, self._polling_group.period)
            if self._guard.state is not GuardState.INACTIVE:
                self._pause.record_gap(late + self._time.stream_dt, now)
                if self._pause.reason:
                    self._output.send_zero_velocity()
        before, self._progress.ticked_at = self._progress.ticked_at, now
        is_paused = bool(self._pause.reason)
        take_messages()
        if not is_paused:  # otherwise _on_joints ticks when the pause is over
            now, due = monotonic(), self._output.ticks_due(self._ros_now())
            for at in [now] if due == 1 else np.linspace(before, now, due + 1)[1:]:
                self._tick(float(at))
        is_alert = monotonic() - self._progress.goal_at < GOAL_ALERT_S
        is_at_rest = self._guard.state in AT_REST and not is_alert
        self._polling_group.set_period(self._rest_period if is_at_rest else self._time.stream_dt)

    def _tick_if_due(self) -> None:
        if self._lock_step is None:
            return
        due = self._lock_step.due(has_planner=self._node.count_publishers('planner/status') > 0)
        if due is None:
            return
        if due > self._progress.ticked_at:
            self._progress.ticked_at = due
            self._tick(due)
        elif due == self._progress.ticked_at:
            self._output.repeat()

    def _tick(self, now: float) -> None:
        if self._output.is_open:
            if self._lock_step is None and self._clock_jumps is not None:
                self._clock_jumps.check(self._guard, now)
            self._output.check(self._guard, now, self._ros_now())
        verdict = self._guard.tick(now)
        if verdict.command is not None and self._output.is_open:
            self._output.send(self._guard, verdict.command, now, self._ros_now())
        if self._progress.has_fresh_proposal and self._guard.proposal is not None:
            self._statistics.record_latency(self._age_ms(self._guard.proposal.stamp))
            self._progress.has_fresh_proposal = False
        self._publish_change()

    # Status.

    def _publish_change(self) -> None:
        state, reasons = self._guard.state, self._guard.reasons
        if (state, reasons) == self._progress.published:
            return
        text, is_intended = ': '.join([state.name, *reasons]), reasons in ((), (RELEASED,))
        if not is_intended:
            self._progress.fault_at = monotonic()
        if state in (GuardState.STOPPING, GuardState.LATCHED) and not is_intended:
            self._node.get_logger().warning(text)
        else:
            self._node.get_logger().info(text)
        self._publish_status()

    def _publish_status(self, rejection: Verdict | None = None) -> None:
        guard = self._guard
        reasons = guard.reasons if self._is_active else (NOT_ACTIVE,)
        if rejection is not None:
            reasons = tuple(dict.fromkeys((*reasons, *rejection.reasons)))
        else:
            self._progress.published = (guard.state, guard.reasons)
        if self._is_active and guard.state is GuardState.INACTIVE:
            unavailable = self._output.unavailable_reason
            reasons = (unavailable,) if unavailable else reasons
        self._status_pub.publish(self._status(guard.state, reasons))
        self._statistics.max_jitter = 0.0

    def _status(self, state: GuardState, reasons: tuple[str, ...]) -> GuardStatus:
        guard, statistics = self._guard, self._statistics
        msg = GuardStatus(state=state.value, reasons=list(reasons))
        msg.header.stamp = self._node.get_clock().now().to_msg()
        msg.header.frame_id = self._arm.config.base_link
        msg.joint_names = list(self._arm.joint_names)
        msg.command = [] if guard.command is None else guard.command.position.tolist()
        if guard.proposal is not None:
            msg.proposal_stamp = convert.to_time(guard.proposal.stamp)
        msg.accepted, msg.rejected = guard.accepted, guard.rejected
        msg.speed_scale = guard.speed_scale
        msg.missed_ticks = statistics.missed_ticks
        msg.tick_jitter_ms = statistics.max_jitter * 1000.0
        msg.obs_to_command_ms = float(statistics.image_to_command_ms)
        return msg

    def problems(self) -> list[str]:
        """Return the current problems, for ``/diagnostics``."""
        problems = [self._pause.reason] if self._pause.reason else []
        is_old = monotonic() - self._progress.fault_at > FAULT_REPORT_S
        if not is_old or not self._guard.is_ready(self._now()):
            problems += [reason for reason in self._guard.reasons if reason != RELEASED]
        if not self._is_active:
            problems.append(NOT_ACTIVE)
        problems += [*self._output.problems(), *self._connections.problems()]
        return list(dict.fromkeys(problems))

    def is_stuck(self) -> bool:
        """Return whether every proposal is rejected until an operator acts."""
        return self._is_active and self._guard.is_locked_out

    def values(self) -> dict[str, object]:
        """Return further values by name, for ``/diagnostics``."""
        return {
            'state': self._guard.state.name,
            'stopped for': '; '.join(self._guard.reasons) or '-',
            'accepted': self._guard.accepted,
            'rejected': self._guard.rejected,
            'speed scale': f'{self._guard.speed_scale:.2f}',
            'tracking error rad': f'{self._guard.tracking_error():.4f}',
            **self._statistics.values(),
            **self._output.values(),
        }


def main() -> None:
    """Run the guard's executable."""
    prepare_ros(shares_memory=False)
    return_freed_memory()
    run_managed('guard', GuardSettings, GuardComponent)


if __name__ == '__main__':
    main()
