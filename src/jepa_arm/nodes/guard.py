"""The guard on ROS 2, a managed node: the only publisher of commands for the robot, while active.

It ends where another guard's commands are heard at its start, and holds where another publisher
comes later. After a jump of ROS time, or a time in which it could not run, the arm is stopped and
stays at rest until a proposal of the new time comes.

Streams on the steady clock. In lock-step (parameter ``lock_step``) a tick is made when
``/clock`` asks for it, once the joints of that time are here and, at control steps, the planner
has answered the observation of that time on ``planner/status`` (if there is a planner).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic, sleep
from typing import Any

import numpy as np
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ..config import GuardConfig, load
from ..guard import RELEASED, Guard
from ..resources import config_path
from ..types import GuardState, JointSample, Verdict
from . import conversions as convert
from .command_output import LAST_WORD_S, Output, command_output
from .compat import has_simulated_time, take
from .connections import Connections
from .diagnostics import Rate, percentiles
from .environment import prepare_ros
from .executors import Beat
from .guard_settings import GuardSettings, most_speed
from .guard_watch import ClockJumps, Pause
from .lifecycle import ManagedNode, run_managed
from .lock_step import LockStep
from .parameters import COMMAND, GUARD_STATUS, SENSOR, STATUS, load_arm, load_sim_config
from .process import return_large_memory, steady_timer, use_real_time

STATUS_PERIOD_S = 0.1
STOP_LIMIT_S = 2.0
"""Longest wait for the arm to come to rest before the process ends."""
CALLED_S = 0.5
"""How long the guard is quick for a goal's first proposal."""
AT_REST = (GuardState.INACTIVE, GuardState.IDLE, GuardState.HOLDING, GuardState.LATCHED)
TOLD_S = 10.0
"""How long a reason for which the arm stopped is told as a problem, after it is over."""
NOT_ACTIVE = 'inactive: the guard is not active; activate it (ros2 lifecycle set)'


class GuardPart:
    """Adapts topics, services and timers to ``Guard``."""

    def __init__(self, node: ManagedNode, settings: GuardSettings) -> None:
        self._node = node
        self._arm = load_arm(settings.arm)
        self._time = load_sim_config(settings.sim_config).time
        self._config = load(GuardConfig, config_path(settings.guard_config))
        self._connections = Connections(node)
        self._output: Output = command_output(
            settings.controller,
            settings.lock_step,
            node,
            self._connections,
            self._arm,
            self._time.stream_dt,
            self._config,
        )
        self._lock_step = LockStep(self._time) if settings.lock_step else None
        self._most_speed = most_speed(settings.speed_scale)
        dt = self._time.stream_dt
        self._rest_period = max(dt, settings.rest_period) if self._output.may_rest else dt
        self._beat = None if settings.lock_step else Beat(dt, dt / 2.0, self._on_beat)
        self._is_active = False
        self._begin()
        self._make_topics()
        self._make_services()
        steady_timer(node, STATUS_PERIOD_S, self._time.stream_dt * 0.8, self._publish_status)
        use_real_time(node, settings.priority)

    def _begin(self) -> None:
        """Knows nothing of the robot yet."""
        holds = self._output.holds_position
        self._guard = Guard(self._arm, self._time, self._config, holds)
        self._guard.most_speed = self._most_speed
        self._joints_at = self._joints_came = self._joints_stamp = -np.inf
        self._ticked_at = -np.inf
        self._deviations: deque[float] = deque(maxlen=1000)
        self._latencies: deque[float] = deque(maxlen=100)
        self._joint_rate, self._proposal_rate = Rate(), Rate()
        self._missed, self._jitter = 0, 0.0
        self._obs_to_command, self._is_fresh_plan = np.nan, False
        self._published: tuple[object, ...] = ()
        self._faulty_at = self._goal_at = -np.inf
        self._ending_since: float | None = None
        self._pause = Pause()
        self._clock_jumps: ClockJumps | None = None

    def set_live(self, values: Mapping[str, Any]) -> None:
        """Goes on at another speed."""
        self._guard.most_speed = self._most_speed = most_speed(values['speed_scale'])

    def activate(self) -> None:
        """Listens for others, then takes over the arm where it stands."""
        self._output.listen()
        self._clock_jumps = ClockJumps(self._node)
        self._is_active = True

    def deactivate(self) -> None:
        """Brings the arm to rest and releases its commands."""
        try:
            self._come_to_rest()
        finally:
            self._is_active = False
            self.close()
        self._begin()
        self._publish_status()

    def close(self) -> None:
        """Releases the commands."""
        self._output.close()
        if self._clock_jumps is not None:
            self._clock_jumps.close()
        self._clock_jumps = None

    def _come_to_rest(self) -> None:
        self._guard.hold('held: the guard is being deactivated')
        self._output.finish()
        began = monotonic()
        while self._must_wait(began) and not self._pause.reason:
            sleep(self._time.stream_dt)
            self._take_joints()
            self._tick(monotonic())

    def end(self) -> bool:
        """Brings the arm to rest after a signal came; True when the process may end."""
        if self._ending_since is None:
            self._ending_since = monotonic()
            self._guard.hold('held: the guard is shutting down')
            self._output.finish()
        if self._must_wait(self._ending_since):
            return False
        self._status_pub.publish(self._status(Verdict(None, GuardState.INACTIVE, ('shutdown',))))
        self._status_pub.wait_for_all_acked(Duration(seconds=LAST_WORD_S))
        return True

    def _take_joints(self) -> None:
        """Does the executor's work while that waits for a transition."""
        taken = take(self._joints_sub)
        if taken is not None:
            self._on_joints(taken[0])

    def _must_wait(self, began: float) -> bool:
        """Whether the arm, stopped since ``began``, still moves."""
        if self._lock_step is not None or monotonic() - began > STOP_LIMIT_S:
            return False
        return self._guard.state not in AT_REST or not self._output.is_over(self._ros_now())

    def _make_topics(self) -> None:
        subscribe = self._node.create_subscription
        topic = 'guard/status'
        self._status_pub = self._node.create_publisher(
            GuardStatus, topic, GUARD_STATUS, event_callbacks=self._connections.say(topic)
        )
        self._joints_sub = subscribe(
            JointState, 'joint_states', self._on_joints, SENSOR, callback_group=self._beat
        )
        topic = 'planner/joint_trajectory'
        subscribe(
            JointTrajectory,
            topic,
            self._on_proposal,
            COMMAND,
            callback_group=self._beat,
            event_callbacks=self._connections.hear(topic),
        )
        self._connections.need('joint_states')
        subscribe(
            Goal, 'planner/goal', self._on_goal, COMMAND, callback_group=self._beat, raw=True
        )
        if self._lock_step is not None:
            subscribe(Clock, '/clock', self._on_clock, STATUS)
            subscribe(PlannerStatus, 'planner/status', self._on_planner, STATUS)

    def _make_services(self) -> None:
        self._serve('~/reset', self._reset_latch, lambda verdict: not verdict.reasons)
        self._serve('~/hold', lambda: self._guard.hold(), lambda _: self._guard.is_blocked)
        self._serve('~/resume', lambda: self._guard.resume(), lambda _: not self._guard.is_blocked)

    def _reset_latch(self) -> Verdict:
        """The command is elsewhere then; it is given at rest before any proposal is followed."""
        verdict = self._guard.reset_latch(self._now())
        if not verdict.reasons and self._lock_step is None:
            self._tick(self._now())
        return verdict

    def _serve(
        self, name: str, act: Callable[[], Verdict], succeeded: Callable[[Verdict], bool]
    ) -> None:
        def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            verdict = act()
            response.success = verdict.state is not GuardState.INACTIVE and succeeded(verdict)
            response.message = '; '.join(verdict.reasons) or verdict.state.name
            self._tell_change()  # before the answer: a goal may follow it at once
            self._node.get_logger().info(f'{name}: {response.message}')
            return response

        self._node.create_service(Trigger, name, answer)

    # Clocks.

    def _now(self) -> float:
        """s, the clock by which plans run out and joints grow old."""
        return monotonic() if self._lock_step is None else self._lock_step.now

    def _ros_now(self) -> float:
        """s, the clock of stamps."""
        if self._lock_step is not None:
            return self._lock_step.now
        return self._node.get_clock().now().nanoseconds / convert.NANOSECONDS

    def _clock_problem(self) -> str:
        """Why stamps mean nothing now; empty if they do."""
        if self._clock_jumps is not None and self._clock_jumps.reason:
            return self._clock_jumps.reason
        if self._lock_step is None and self._ros_now() == 0.0:
            return 'clock: nothing has come on /clock yet, which use_sim_time asks for'
        return ''

    def _age_ms(self, stamp: float) -> float:
        """ms since ``stamp``; finer than a simulated clock, by the joints' stamp and arrival."""
        if self._lock_step is None and has_simulated_time(self._node):
            now = self._joints_stamp + monotonic() - self._joints_came
        else:
            now = self._ros_now()
        return (now - stamp) * 1000.0

    # What comes in.

    def _on_joints(self, msg: JointState) -> None:
        self._joint_rate.count()
        try:
            sample = convert.joints_from_msg(msg, self._arm.joint_names)
        except convert.ConversionError as error:
            self._guard.lose_joints(str(error))
            self._node.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._joints_at, self._joints_stamp = monotonic(), sample.stamp
        self._joints_came = self._joints_at - (0.0 if self._beat is None else self._beat.waited)
        if self._lock_step is not None:
            self._lock_step.joints_came(sample.stamp)
        self._output.observe(sample, self._joints_at, self._ros_now())
        if self._guard.state is GuardState.INACTIVE:
            if self._is_active:
                self._start(sample)
        elif self._pause.reason:
            if self._output.is_over(self._ros_now()):
                self._pause.end(self._guard, sample, monotonic())
            if not self._pause.reason:
                self._tick(monotonic())
        else:
            self._guard.observe(sample, self._now())
        self._tick_if_due()

    def _start(self, sample: JointSample) -> None:
        """Takes over the arm where it stands, as the only one."""
        if not self._output.is_clear:
            if self._output.reason:
                self._node.get_logger().info(self._output.reason, throttle_duration_sec=5.0)
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
        self._proposal_rate.count()
        try:
            stamp = convert.to_seconds(msg.header.stamp)
            proposal = convert.proposal_from_msg(msg, self._validity(stamp))
        except convert.ConversionError as error:
            verdict = self._guard.refuse(f'schema: {error}')
        else:
            if not self._is_active:
                verdict = self._guard.refuse(NOT_ACTIVE)
            elif self._clock_problem() or self._output.reason:
                reason = self._clock_problem() or self._output.reason
                verdict = self._guard.refuse(reason, is_blamed=False)
            else:
                verdict = self._guard.submit(proposal, self._now(), self._ros_now())
        self._is_fresh_plan = not verdict.reasons
        if verdict.reasons:
            text = f'proposal refused: {verdict.reasons[0]}'
            self._node.get_logger().warning(text, throttle_duration_sec=0.5)
            self._publish_status(verdict)
        if self._lock_step is not None:
            self._lock_step.proposal_came(convert.to_seconds(msg.header.stamp))
        self._tick_if_due()

    def _validity(self, stamp: float) -> float:
        """s after ``stamp`` (s) for which a proposal that comes now is followed."""
        config, age = self._guard.config, self._ros_now() - stamp
        age = min(max(age, 0.0), config.max_proposal_age)  # beyond, it is refused
        return max(config.ros_validity, age + config.late_validity)

    def _on_clock(self, msg: Clock) -> None:
        assert self._lock_step is not None
        self._lock_step.command_asked(convert.to_seconds(msg.clock))
        self._tick_if_due()

    def _on_goal(self, _: bytes) -> None:
        """Proposals come soon: they are not to wait for a guard at rest."""
        self._goal_at = self._now()

    def _on_planner(self, msg: PlannerStatus) -> None:
        assert self._lock_step is not None
        stamp = convert.to_seconds(msg.observation_stamp)
        self._lock_step.planner_answered(stamp, msg.state == PlannerStatus.PLANNING)
        self._tick_if_due()

    # The stream.

    def _on_beat(self, take: Callable[[], None]) -> None:
        """Looks whether it was long asleep, before it hears of what came meanwhile."""
        assert self._beat is not None
        now, late = monotonic(), self._beat.late
        if np.isfinite(self._ticked_at):
            self._deviations.append(late)
            self._jitter = max(self._jitter, late)
            self._missed += round(late / self._beat.period)
            if self._guard.state is not GuardState.INACTIVE:
                self._pause.see(late + self._time.stream_dt, now)
                if self._pause.reason:
                    self._output.say_rest()
        before, self._ticked_at = self._ticked_at, now
        is_paused = bool(self._pause.reason)
        take()
        if not is_paused:  # else there was a tick when the pause ended
            now, due = monotonic(), self._output.ticks_due(self._ros_now())
            for at in [now] if due == 1 else np.linspace(before, now, due + 1)[1:]:
                self._tick(float(at))
        is_called = monotonic() - self._goal_at < CALLED_S
        is_at_rest = self._guard.state in AT_REST and not is_called
        self._beat.pace(self._rest_period if is_at_rest else self._time.stream_dt)

    def _tick_if_due(self) -> None:
        if self._lock_step is None:
            return
        due = self._lock_step.due(has_planner=self._node.count_publishers('planner/status') > 0)
        if due is None:
            return
        if due > self._ticked_at:
            self._ticked_at = due
            self._tick(due)
        elif due == self._ticked_at:
            self._output.repeat()

    def _tick(self, now: float) -> None:
        if self._output.is_open:
            if self._lock_step is None and self._clock_jumps is not None:
                self._clock_jumps.watch(self._guard, now)  # in lock-step time goes where it must
            self._output.watch(self._guard, now, self._ros_now())
        verdict = self._guard.tick(now)
        if verdict.command is not None and self._output.is_open:
            self._output.send(self._guard, verdict.command, now, self._ros_now())
        if self._is_fresh_plan and self._guard.proposal is not None:
            self._obs_to_command = self._age_ms(self._guard.proposal.stamp)
            self._latencies.append(self._obs_to_command)
            self._is_fresh_plan = False
        self._tell_change()

    def _tell_change(self) -> None:
        verdict = Verdict(None, self._guard.state, self._guard.reasons)
        if (verdict.state, verdict.reasons) != self._published:
            self._log_change(verdict)
            self._publish_status()

    def _log_change(self, verdict: Verdict) -> None:
        text = ': '.join([verdict.state.name, *verdict.reasons])
        is_wanted = verdict.reasons in ((), (RELEASED,))
        if not is_wanted:
            self._faulty_at = monotonic()
        if verdict.state in (GuardState.STOPPING, GuardState.LATCHED) and not is_wanted:
            self._node.get_logger().warning(text)
        else:
            self._node.get_logger().info(text)

    # What goes out beside commands.

    def _publish_status(self, refusal: Verdict | None = None) -> None:
        guard = self._guard
        reasons = guard.reasons if self._is_active else (NOT_ACTIVE,)
        if refusal is not None:
            reasons = tuple(dict.fromkeys((*reasons, *refusal.reasons)))
        else:
            self._published = (guard.state, guard.reasons)
        if self._is_active and guard.state is GuardState.INACTIVE and self._output.reason:
            reasons = (self._output.reason,)
        self._status_pub.publish(self._status(Verdict(None, guard.state, reasons)))
        self._jitter = 0.0

    def _status(self, verdict: Verdict) -> GuardStatus:
        guard = self._guard
        stamp = self._node.get_clock().now().to_msg()
        base, names = self._arm.config.base_link, self._arm.joint_names
        msg = convert.guard_status_to_msg(
            verdict, guard.command, guard.proposal, names, stamp, base
        )
        msg.accepted, msg.rejected = guard.accepted, guard.rejected
        msg.speed_scale = guard.most_speed
        msg.missed_ticks, msg.tick_jitter_ms = self._missed, self._jitter * 1000.0
        msg.obs_to_command_ms = float(self._obs_to_command)
        return msg

    def problems(self) -> list[str]:
        """What is wrong, for ``/diagnostics``."""
        problems = [*filter(None, [self._pause.reason]), *self._faults()]
        if not self._is_active:
            problems.append(NOT_ACTIVE)
        problems += [*self._output.problems(), *self._connections.problems()]
        return list(dict.fromkeys(problems))

    def _faults(self) -> list[str]:
        """Why the arm was stopped, for as long as it is so and ``TOLD_S`` longer."""
        is_over = monotonic() - self._faulty_at > TOLD_S
        if is_over and self._guard.is_ready(self._now()):
            return []
        return [reason for reason in self._guard.reasons if reason != RELEASED]

    def is_stuck(self) -> bool:
        """Whether it refuses every proposal."""
        return self._is_active and self._guard.is_blocked

    def values(self) -> dict[str, object]:
        """What else there is to know, for ``/diagnostics``."""
        return {
            'state': self._guard.state.name,
            'stopped for': '; '.join(self._guard.reasons) or '-',
            'accepted': self._guard.accepted,
            'rejected': self._guard.rejected,
            'joint states taken Hz': f'{self._joint_rate.hz():.0f}',
            'newest joint state ms ago': f'{self._joint_rate.ago_ms():.0f}',
            'proposals Hz': f'{self._proposal_rate.hz():.1f}',
            'newest proposal ms ago': f'{self._proposal_rate.ago_ms():.0f}',
            'image to command p50 / p99 ms': percentiles(self._latencies),
            'tick jitter p50 / p99 ms': percentiles([d * 1000.0 for d in self._deviations]),
            'speed scale': f'{self._guard.most_speed:.2f}',
            'missed ticks': self._missed,
            'tracking error rad': f'{self._guard.tracking_error():.4f}',
            **self._output.values(),
        }


def main() -> None:
    """Entry point of the executable."""
    prepare_ros(shares_memory=False)
    return_large_memory()
    run_managed('guard', GuardSettings.read, GuardPart)


if __name__ == '__main__':
    main()
