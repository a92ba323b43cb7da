"""The guard on ROS 2: the only publisher of commands for the robot.

It ends where another guard's commands are heard at its start, and holds where another publisher
comes later. After a jump of ROS time, or a time in which it could not run, the arm is stopped and
stays at rest until a proposal of the new time comes.

Streams on the steady clock. In lock-step (parameter ``lock_step``) a tick is made when
``/clock`` asks for it, once the joints of that time are here and, at control steps, the planner
has answered the observation of that time on ``planner/status`` (if there is a planner).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

import numpy as np
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ..config import GuardConfig, load
from ..guard import Guard
from ..resources import config_path
from ..types import GuardState, JointSample, Verdict
from . import conversions as convert
from .environment import prepare_ros
from .guard_watch import ClockJumps, Pause, Rivals
from .lock_step import LockStep
from .parameters import COMMAND, SENSOR, STATUS, declare, declare_arm, declare_sim_config
from .process import Diagnostics, run, steady_timer, use_real_time

COMMAND_TOPIC = 'joint_trajectory_controller/joint_trajectory'
STATUS_PERIOD_S = 0.1
STOP_LIMIT_S = 2.0
"""Longest wait for the arm to come to rest before the process ends."""
LAST_WORD_S = 0.3
"""Longest wait for the last status to be received."""
AT_REST = (GuardState.INACTIVE, GuardState.IDLE, GuardState.HOLDING, GuardState.LATCHED)


class GuardNode(Node):
    """Adapts topics, services and timers to ``Guard``."""

    def __init__(self) -> None:
        super().__init__('guard')
        self._arm = declare_arm(self)
        self._time = declare_sim_config(self).time
        file = declare(self, 'guard_config', 'guard.yaml', 'what is let through: config/<file>')
        is_lock_step = declare(self, 'lock_step', False, 'ticks are asked for by /clock')
        self._lock_step = LockStep(self._time) if is_lock_step else None
        use_real_time(self, default=20)
        self._guard = Guard(self._arm, self._time, load(GuardConfig, config_path(str(file))))
        self._joints_at = self._joints_stamp = -np.inf
        self._command_msg: JointTrajectory | None = None
        self._ticked_at = -np.inf
        self._deviations: deque[float] = deque(maxlen=1000)
        self._missed, self._jitter = 0, 0.0
        self._obs_to_command, self._is_fresh_plan = np.nan, False
        self._published: tuple[object, ...] = ()
        self._ending_since: float | None = None
        self._rivals, self._pause = Rivals(self, COMMAND_TOPIC), Pause()
        self._clock_jumps = ClockJumps(self)
        self._make_topics()
        self._make_services()
        self._make_timers()
        self._diagnostics = Diagnostics(self, self._problems, self._values)

    def end(self) -> bool:
        """Brings the arm to rest after a signal came; True when the process may end."""
        if self._ending_since is None:
            self._ending_since = monotonic()
            self._guard.hold('held: the guard is shutting down')
        is_late = monotonic() - self._ending_since > STOP_LIMIT_S
        if self._lock_step is None and self._guard.state not in AT_REST and not is_late:
            return False
        self._status_pub.publish(self._status(Verdict(None, GuardState.INACTIVE, ('shutdown',))))
        self._status_pub.wait_for_all_acked(Duration(seconds=LAST_WORD_S))
        return True

    def _make_topics(self) -> None:
        self._command_pub: Publisher | None = None
        self._status_pub = self.create_publisher(GuardStatus, 'guard/status', STATUS)
        self.create_subscription(JointState, 'joint_states', self._on_joints, SENSOR)
        topic = 'planner/joint_trajectory'
        self.create_subscription(JointTrajectory, topic, self._on_proposal, COMMAND)
        if self._lock_step is not None:
            self.create_subscription(Clock, '/clock', self._on_clock, STATUS)
            self.create_subscription(PlannerStatus, 'planner/status', self._on_planner, STATUS)

    def _make_services(self) -> None:
        guard = self._guard
        self._serve('~/reset', self._reset_latch, self._is_idle)
        self._serve('~/hold', guard.hold, lambda: guard.is_blocked)
        self._serve('~/resume', guard.resume, lambda: not guard.is_blocked)

    def _reset_latch(self) -> Verdict:
        """The command is elsewhere then; it is given at rest before any proposal is followed."""
        verdict = self._guard.reset_latch(self._now())
        if not verdict.reasons and self._lock_step is None:
            self._tick(self._now())
        return verdict

    def _is_idle(self) -> bool:
        return self._guard.state is GuardState.IDLE

    def _make_timers(self) -> None:
        dt = self._time.stream_dt
        if self._lock_step is None:
            steady_timer(self, dt, dt / 2.0, self._on_timer)
        steady_timer(self, STATUS_PERIOD_S, dt * 0.8, self._publish_status)

    def _serve(self, name: str, act: Callable[[], Verdict], succeeded: Callable[[], bool]) -> None:
        def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            verdict = act()
            response.success = verdict.state is not GuardState.INACTIVE and succeeded()
            response.message = '; '.join(verdict.reasons) or verdict.state.name
            self.get_logger().info(f'{name}: {response.message}')
            return response

        self.create_service(Trigger, name, answer)

    # Clocks.

    def _now(self) -> float:
        """s, the clock by which plans run out and joints grow old."""
        return monotonic() if self._lock_step is None else self._lock_step.now

    def _ros_now(self) -> float:
        """s, the clock of stamps."""
        if self._lock_step is not None:
            return self._lock_step.now
        return self.get_clock().now().nanoseconds / convert.NANOSECONDS

    def _age_ms(self, stamp: float) -> float:
        """ms since ``stamp``; finer than a simulated clock, by the joints' stamp and arrival."""
        if self._lock_step is None and self.get_clock().ros_time_is_active:
            now = self._joints_stamp + monotonic() - self._joints_at
        else:
            now = self._ros_now()
        return (now - stamp) * 1000.0

    # What comes in.

    def _on_joints(self, msg: JointState) -> None:
        try:
            sample = convert.joints_from_msg(msg, self._arm.joint_names)
        except convert.ConversionError as error:
            self._guard.lose_joints(str(error))
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._joints_at, self._joints_stamp = monotonic(), sample.stamp
        if self._lock_step is not None:
            self._lock_step.joints_came(sample.stamp)
        if self._guard.state is GuardState.INACTIVE:
            self._start(sample)
        elif self._pause.reason:
            self._pause.end(self._guard, sample, monotonic())
            if not self._pause.reason:
                self._tick(monotonic())
        else:
            self._guard.observe(sample, self._now())
        self._tick_if_due()

    def _start(self, sample: JointSample) -> None:
        """Takes over the arm where it stands, as the only one."""
        if self._lock_step is None and not self._rivals.is_clear:
            return
        try:
            self._guard.reset(sample.position, self._now())
        except ValueError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._rivals.stop_listening()
        self._command_pub = self.create_publisher(JointTrajectory, COMMAND_TOPIC, COMMAND)

    def _on_proposal(self, msg: JointTrajectory) -> None:
        try:
            proposal = convert.proposal_from_msg(msg, self._guard.config.ros_validity)
        except convert.ConversionError as error:
            verdict = self._guard.refuse(f'schema: {error}')
        else:
            if self._clock_jumps.reason:
                verdict = self._guard.refuse(self._clock_jumps.reason)
            else:
                verdict = self._guard.submit(proposal, self._now(), self._ros_now())
        self._is_fresh_plan = not verdict.reasons
        if verdict.reasons:
            text = f'proposal refused: {verdict.reasons[0]}'
            self.get_logger().warning(text, throttle_duration_sec=0.5)
            self._publish_status(verdict)
        if self._lock_step is not None:
            self._lock_step.proposal_came(convert.to_seconds(msg.header.stamp))
        self._tick_if_due()

    def _on_clock(self, msg: Clock) -> None:
        assert self._lock_step is not None
        self._lock_step.command_asked(convert.to_seconds(msg.clock))
        self._tick_if_due()

    def _on_planner(self, msg: PlannerStatus) -> None:
        assert self._lock_step is not None
        stamp = convert.to_seconds(msg.observation_stamp)
        self._lock_step.planner_answered(stamp, msg.state == PlannerStatus.PLANNING)
        self._tick_if_due()

    # The stream.

    def _on_timer(self) -> None:
        now, dt = monotonic(), self._time.stream_dt
        if np.isfinite(self._ticked_at):
            deviation = abs(now - self._ticked_at - dt)
            self._deviations.append(deviation)
            self._jitter = max(self._jitter, deviation)
            self._missed += max(0, round((now - self._ticked_at) / dt) - 1)
            if self._guard.state is not GuardState.INACTIVE:
                self._pause.see(now - self._ticked_at, now)
        self._ticked_at = now
        if not self._pause.reason:
            self._tick(now)

    def _tick_if_due(self) -> None:
        if self._lock_step is None:
            return
        due = self._lock_step.due(has_planner=self.count_publishers('planner/status') > 0)
        if due is None:
            return
        if due > self._ticked_at:
            self._ticked_at = due
            self._tick(due)
        elif due == self._ticked_at and self._command_msg and self._command_pub:
            self._command_pub.publish(self._command_msg)

    def _tick(self, now: float) -> None:
        if self._command_pub is not None:
            if self._lock_step is None:  # else time goes where the simulator says, also back
                self._clock_jumps.watch(self._guard, now)
            rival = self._rivals.news(now)
            if rival:
                self._guard.hold(rival)
        verdict = self._guard.tick(now)
        if verdict.command is not None and self._command_pub is not None:
            stamp = None if self._lock_step is None else convert.to_time(now)
            self._command_msg = convert.command_to_msg(
                verdict.command, self._arm.joint_names, self._time.stream_dt, stamp
            )
            self._command_pub.publish(self._command_msg)
        if self._is_fresh_plan and self._guard.proposal is not None:
            self._obs_to_command = self._age_ms(self._guard.proposal.stamp)
            self._is_fresh_plan = False
        if (verdict.state, verdict.reasons) != self._published:
            self._log_change(verdict)
            self._publish_status()

    def _log_change(self, verdict: Verdict) -> None:
        text = ': '.join([verdict.state.name, *verdict.reasons])
        if verdict.state in (GuardState.STOPPING, GuardState.LATCHED):
            self.get_logger().warning(text)
        else:
            self.get_logger().info(text)

    # What goes out beside commands.

    def _publish_status(self, refusal: Verdict | None = None) -> None:
        guard = self._guard
        reasons = guard.reasons
        if refusal is not None:
            reasons = tuple(dict.fromkeys((*reasons, *refusal.reasons)))
        else:
            self._published = (guard.state, reasons)
        self._status_pub.publish(self._status(Verdict(None, guard.state, reasons)))
        self._jitter = 0.0

    def _status(self, verdict: Verdict) -> GuardStatus:
        guard = self._guard
        stamp = self.get_clock().now().to_msg()
        base, names = self._arm.config.base_link, self._arm.joint_names
        msg = convert.guard_status_to_msg(
            verdict, guard.command, guard.proposal, names, stamp, base
        )
        msg.accepted, msg.rejected = guard.accepted, guard.rejected
        msg.missed_ticks, msg.tick_jitter_ms = self._missed, self._jitter * 1000.0
        msg.obs_to_command_ms = float(self._obs_to_command)
        return msg

    def _problems(self) -> list[str]:
        problems = [*filter(None, [self._pause.reason]), *self._guard.reasons]
        others = self._rivals.count() if self._command_pub is not None else 0
        if others > 0:
            problems.append(f'{others} other publishers on {COMMAND_TOPIC}')
        return problems

    def _values(self) -> dict[str, object]:
        deviations = np.array(self._deviations or [0.0]) * 1000.0
        p50, p99 = np.quantile(deviations, [0.5, 0.99])
        return {
            'state': self._guard.state.name,
            'accepted': self._guard.accepted,
            'rejected': self._guard.rejected,
            'tick jitter p50 ms': f'{p50:.2f}',
            'tick jitter p99 ms': f'{p99:.2f}',
            'missed ticks': self._missed,
            'tracking error rad': f'{self._guard.tracking_error():.4f}',
        }


def main() -> None:
    """Entry point of the executable."""
    prepare_ros()
    run('guard', GuardNode, GuardNode.end)


if __name__ == '__main__':
    main()
