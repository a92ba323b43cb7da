"""Guard: the last code before the robot. It checks proposals, streams commands and stops the arm.

The guard uses neither ROS nor torch; the ROS node and the in-process loop share it. It never
clamps silently: a proposal is followed as it is, or rejected with a reason, and a rejection stops
the arm along a jerk-limited path. Reasons read 'code: text'; codes are stable, texts may change.

What stops the arm, and where it is checked:

============================================  ===================================================
a proposal that must not be followed          ``proposal_checks``, in ``Guard.submit``
no new proposal, e.g. because the camera or   ``plan_expired``, in ``Guard.tick``
the planner died
a command without a collision-free stop       ``command_stream``, before every command
missing, stale or implausible joint states    ``joint_monitor``, at every tick
an arm that does not follow its commands      ``tracking``, in ``Guard._check_tracking``
a clock that jumps back or stands still       ``clock_monitor``, at every tick
an operator or the node                       ``Guard.hold``, ``Guard.stop``, ``Guard.release``
============================================  ===================================================

There are two clocks. ``now`` is the caller's steady clock (simulated time in lock-step), on which
plans expire and joint states age. ``ros_now`` is the ROS clock, with which stamps are compared.
"""

from __future__ import annotations

import numpy as np

from jepa_arm.config import GuardConfig, TimeConfig
from jepa_arm.core.types import Command, FloatArray, GuardState, JointSample, Proposal, Verdict
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.trajectory import JointStreamer

from .back_off import BackOff
from .clock_monitor import ClockMonitor
from .command_stream import GuardedCommandStream
from .joint_monitor import JointMonitor
from .path_checker import PathChecker
from .proposal_checks import (
    CONTENT_CHECKS,
    EPSILON,
    FORM_CHECKS,
    CheckContext,
    as_double,
    first_reason,
)

MAX_REASON_LENGTH = 500
"""Characters. A reason may quote its input, which can be of any length."""
RELEASED = 'released: the goal is over'
LATCHING_CODES = ('non_finite',)
"""Codes of the reasons that latch the guard at once."""


class Guard:
    """A state machine that gives one command per tick.

    The guard is ``INACTIVE`` until the first ``reset``. At rest (``IDLE``, ``HOLDING``) it accepts
    a valid proposal and is then ``FOLLOWING``. ``STOPPING`` brings the arm to rest. ``LATCHED``
    waits for ``reset_latch``.

    Between two calls of ``reset`` the commands keep the arm's limits of position, velocity,
    acceleration and jerk; a stop may use the unscaled acceleration limit. An arm that was measured
    outside its position limits starts there and may only move inwards. If the arm is blocked, the
    commands back off to where it was measured, and a new proposal may then lead elsewhere; an
    arm that is blocked repeatedly latches the guard. Not checked: contact forces, undeclared
    obstacles, and clearances where the robot deviates from its commands.

    A velocity-controlled robot (``holds_position`` False) drifts from the commanded positions. At
    rest the command then becomes the measured position, and a blocked arm stops without
    retreating.
    """

    def __init__(
        self, arm: Arm, time: TimeConfig, config: GuardConfig, holds_position: bool = True
    ) -> None:
        """Create an inactive guard.

        Args:
            arm: kinematics and limits.
            time: control period and period of the commands.
            config: limits and declared obstacles.
            holds_position: whether the robot takes position commands and holds the last one.
        """
        self._arm, self._time, self.config = arm, time, config
        self._holds_position = holds_position
        self._path_checker = PathChecker(arm, config)
        streamer = JointStreamer(arm, time.stream_dt)
        self._stream = GuardedCommandStream(arm, streamer, self._path_checker, config)
        self._joints = JointMonitor(arm, time.stream_dt, config)
        self._clock = ClockMonitor(time.stream_dt, config.max_joint_age)
        self._back_off = BackOff(config)
        self._state = GuardState.INACTIVE
        self._reasons: tuple[str, ...] = ()
        self._proposal: Proposal | None = None
        self._ticks, self._expires_at, self._last_stamp = 0, -np.inf, -np.inf
        self._is_held = self._is_latched = False
        self._rejected_in_a_row = 0
        self.accepted = self.rejected = 0

    @property
    def state(self) -> GuardState:
        """The current state."""
        return self._state

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons for which the guard stops, holds or is latched; empty if there are none."""
        return self._reasons

    @property
    def command(self) -> Command | None:
        """The last command; None before the first ``reset``."""
        return None if self._state is GuardState.INACTIVE else self._stream.command

    @property
    def proposal(self) -> Proposal | None:
        """The proposal being followed, or None."""
        return self._proposal if self._state is GuardState.FOLLOWING else None

    @property
    def speed_scale(self) -> float:
        """Largest fraction of the velocity limits, in (0, 1]; a faster arm slows down to it."""
        return self._stream.speed_scale

    @speed_scale.setter
    def speed_scale(self, scale: float) -> None:
        if not 0.0 < scale <= 1.0:
            raise ValueError(f'speed_scale: expected a fraction in (0, 1], got {scale}')
        self._stream.speed_scale = scale

    @property
    def proximity_scale(self) -> float:
        """Fraction of the velocity limits allowed by the distance to limits and obstacles."""
        return self._stream.proximity_scale

    @property
    def is_locked_out(self) -> bool:
        """True if every proposal is rejected: inactive, held or latched."""
        return self._state is GuardState.INACTIVE or self._is_held or self._is_latched

    def is_ready(self, now: float) -> bool:
        """Return whether the arm rests and a valid proposal would be accepted at ``now`` (s)."""
        is_at_rest = self._state in (GuardState.IDLE, GuardState.HOLDING)
        return is_at_rest and not self.is_locked_out and not self._joints.check(now)

    def tracking_error(self) -> float:
        """Return the largest joint error (rad) relative to the nearest recent command."""
        return 0.0 if self._state is GuardState.INACTIVE else self._joints.tracking_error()

    def stopping_trajectory(self) -> FloatArray:
        """Return the stop after ``command``: (N, 2, J) rad and rad/s for N ticks, 0 at rest."""
        return self._stream.stopping_trajectory()

    def predict(self, ticks: int, now: float) -> tuple[FloatArray, FloatArray]:
        """Return the commands that would follow without further input; the guard is unchanged.

        The predicted commands have passed the same checks as those that are sent.

        Args:
            ticks: largest number of commands; there are fewer if the proposal expires first.
            now: s, steady clock.

        Returns:
            positions (rad) and velocities (rad/s): (N, 2, J) of the commands, and (M, 2, J) of the
            stop after them.
        """
        targets: list[FloatArray] = []
        if self._state is GuardState.FOLLOWING:
            left = int((self._expires_at - now + EPSILON) / self._time.stream_dt)
            targets = [self._waypoint(i) for i in range(1, min(ticks, left) + 1)]
        elif self._retreat is not None:
            targets = [self._retreat] * ticks
        return self._stream.predict(targets)

    # Inputs.

    def reset(self, joints: FloatArray, now: float) -> None:
        """Hold at the measured ``joints`` (J,) rad and forget all proposals, holds and latches.

        The command jumps to ``joints``: call this only while the robot is at rest there.

        Raises:
            ValueError: ``joints`` has the wrong shape, is not finite or is far outside the
                limits, or ``now`` (s) is not finite.
        """
        joints = np.array(joints, dtype=float)
        if not np.isfinite(now):
            raise ValueError(f'now: expected a finite time (s), got {now}')
        if not self._joints.is_plausible(joints):
            raise ValueError(
                f'joints: expected {len(self._arm.home)} finite positions (rad) near or within '
                f'the limits, got {joints}'
            )
        self._stream.reset(joints)
        self._joints.reset(joints, now)
        self._clock.reset(now)
        self._back_off = BackOff(self.config)
        self._state, self._reasons, self._proposal = GuardState.IDLE, (), None
        self._last_stamp = -np.inf
        self._is_held = self._is_latched = False
        self._rejected_in_a_row = 0

    def observe(self, sample: JointSample, now: float) -> None:
        """Record a joint state that arrived at ``now`` (s). Call this for every sample."""
        self._joints.observe(sample, now)

    def reject_joint_state(self, reason: str) -> None:
        """Stop the arm at the next tick, because an unusable joint state arrived."""
        self._joints.reject(reason)

    def submit(self, proposal: Proposal, now: float, ros_now: float | None = None) -> Verdict:
        """Check ``proposal``; follow it from the next tick on, or reject it and stop the arm.

        Args:
            proposal: joint waypoints of the planner.
            now: s, steady clock.
            ros_now: s, ROS clock; defaults to ``now``.

        Returns:
            the state after the decision and the reason for a rejection, without a command.
        """
        ros_now = now if ros_now is None else ros_now
        unavailable = self._check_available()
        if unavailable:
            return self._rejection(unavailable)
        context = CheckContext(
            self._arm,
            self._time,
            self.config,
            self._path_checker,
            self._stream.command.position,
            self._last_stamp,
            ros_now,
        )
        reason = first_reason(FORM_CHECKS, proposal, context)
        if reason:
            return self.reject(reason)
        reason = self._clock.check(now) or self._joints.check(now)
        if reason:
            return self.reject(reason, counts_towards_latch=False)
        proposal = as_double(proposal)
        reason = first_reason(CONTENT_CHECKS, proposal, context)
        if reason:
            return self.reject(reason)
        self.accepted += 1
        self._rejected_in_a_row = 0
        self._back_off.proposal_accepted()
        self._proposal, self._ticks = proposal, 0
        self._last_stamp = proposal.stamp
        self._expires_at = now + proposal.stamp + proposal.valid_for - ros_now
        self._state, self._reasons = GuardState.FOLLOWING, ()
        return self._verdict()

    def reject(self, reason: str, counts_towards_latch: bool = True) -> Verdict:
        """Reject a proposal for ``reason`` ('code: text') and stop the arm.

        Callers use it directly if they cannot even build a ``Proposal``, e.g. from a bad message.

        Args:
            reason: 'code: text'.
            counts_towards_latch: whether the planner is at fault; ``max_rejections`` of these
                without an accepted proposal in between latch the guard.
        """
        if self.is_locked_out:
            return self._rejection(reason)
        self._begin_stop(reason)
        self._rejected_in_a_row += counts_towards_latch
        if self._rejected_in_a_row >= self.config.max_rejections:
            self._latch(f'repeated: {self._rejected_in_a_row} proposals in a row were refused')
        return self._rejection(reason)

    def stop(self, reason: str) -> None:
        """Stop the arm for ``reason`` ('code: text'); the next valid proposal is followed."""
        if self._state is not GuardState.INACTIVE:
            self._begin_stop(reason)

    def release(self) -> Verdict:
        """Stop the arm because the goal is over; once it is at rest, the guard is ``IDLE``."""
        if self._state is GuardState.FOLLOWING:
            self._begin_stop(RELEASED)
        return self._verdict()

    def hold(self, reason: str = 'held: hold was requested') -> Verdict:
        """Stop the arm and reject all proposals until ``resume``."""
        if self._state is not GuardState.INACTIVE:
            self._is_held = True
            self._begin_stop(reason)
        return self._verdict()

    def resume(self) -> Verdict:
        """End a hold, so that the next valid proposal is followed; a latch remains."""
        if self._state is GuardState.INACTIVE or self._is_latched:
            return self._verdict()
        self._is_held = False
        if self._state is GuardState.HOLDING:
            self._state, self._reasons = GuardState.IDLE, ()
        return self._verdict()

    def reset_latch(self, now: float) -> Verdict:
        """Start again at the measured joints, if they are known and the arm is at rest.

        Returns:
            state ``IDLE``, or the unchanged state with the reason for refusing the reset.
        """
        if self._state is GuardState.INACTIVE:
            return self._verdict(reasons=('inactive: no joint state has come yet',))
        fault = self._clock.check(now) or self._joints.check(now)
        if fault:
            return self._verdict(reasons=(fault,))
        if not self._stream.is_at_rest:
            return self._verdict(reasons=('moving: the arm has not come to rest yet',))
        self.reset(self._joints.position, now)
        return self._verdict()

    # Output.

    def tick(self, now: float) -> Verdict:
        """Check everything that can stop the arm at ``now`` (s), then advance the stream.

        Returns:
            the command to send, the state and the reasons.
        """
        if self._state is GuardState.INACTIVE:
            return self._verdict()
        self._check_inputs(now)
        if self._state is GuardState.FOLLOWING and now > self._expires_at + EPSILON:
            self._begin_stop('plan_expired: no newer proposal came in time')
        if self._state is GuardState.FOLLOWING:
            self._ticks += 1
            command = self._step_towards(self._waypoint())
        elif self._retreat is not None:
            command = self._step_towards(self._retreat)
        else:
            command = self._stream.stop()
        self._joints.record(command.position)
        if self._state is GuardState.STOPPING and self._stream.is_at_rest:
            self._come_to_rest()
        if not self._holds_position and self._state in (GuardState.IDLE, GuardState.HOLDING):
            command = self._adopt_measured_position(now)
        return self._verdict(command)

    def _check_available(self) -> str:
        """Return why the guard accepts no proposal now, whatever its content, or ''."""
        if self._state is GuardState.INACTIVE:
            return 'inactive: no joint state has come yet'
        if self._is_latched:
            return 'latched: refused until reset'
        if self._is_held:
            return 'held: refused until resume'
        if self._back_off.is_active:
            return 'tracking: backing off from what blocks the arm'
        return ''

    def _check_inputs(self, now: float) -> None:
        """Stop for a fault of clock or joint states; react to a tracking error."""
        fault = self._clock.check_tick(now) or self._joints.check(now)
        if fault:
            self._back_off.end()
            self._begin_stop(fault)
        elif not self._is_latched:
            self._check_tracking(now)

    def _check_tracking(self, now: float) -> None:
        """Back off if the arm does not follow its commands; latch if the error is fatal.

        During a back-off, an arm that is still where it was blocked has no tracking error.
        """
        error = self._joints.tracking_error(self._back_off.measured)
        limit = self.config.max_tracking_error
        reason = f'tracking: {error:.3f} rad from the commands, expected <= {limit}'
        if error > self.config.fatal_tracking_error:
            self._latch(reason)
        elif error > limit and (self._holds_position or not self._back_off.is_active):
            self._begin_back_off(reason, now)

    def _begin_back_off(self, reason: str, now: float) -> None:
        """Stop and retreat to the measured joints, or latch after too many back-offs."""
        if self._back_off.is_exhausted(now):
            self._latch(reason)
            return
        measured = self._joints.position
        target = np.clip(measured, self._arm.lower, self._arm.upper)
        if self._holds_position and np.any(target != measured):
            reason += '; measured outside the joint limits, backing off to the limits'
        self._begin_stop(reason)
        if self._state is GuardState.HOLDING:
            self._state = GuardState.STOPPING
        self._back_off.begin(target, measured, now)

    @property
    def _retreat(self) -> FloatArray | None:
        """(J,) rad, the target of the commands while backing off, or None."""
        is_retreating = self._state is GuardState.STOPPING and self._holds_position
        return self._back_off.target if is_retreating else None

    def _waypoint(self, later: int = 0) -> FloatArray:
        """Return the waypoint (J,) rad to move to at this tick, or ``later`` ticks after it."""
        elapsed = (self._ticks + later) * self._time.stream_dt - EPSILON
        assert self._proposal is not None
        times = self._proposal.times
        index = int(np.searchsorted(times, elapsed))
        return self._proposal.positions[min(index, len(times) - 1)]

    def _step_towards(self, target: FloatArray) -> Command:
        """Advance one tick towards ``target`` (J,) rad, or begin a stop if its path is blocked."""
        command, violation = self._stream.step(target)
        if violation:
            self._back_off.end()
            self._begin_stop(violation)
        return command

    def _come_to_rest(self) -> None:
        """Leave ``STOPPING``, because the arm has come to rest."""
        self._back_off.end()
        self._state = GuardState.LATCHED if self._is_latched else GuardState.HOLDING
        if self._reasons == (RELEASED,):
            self._state, self._reasons = GuardState.IDLE, ()

    def _adopt_measured_position(self, now: float) -> Command:
        """Command the measured position of a velocity-controlled arm at rest, if it is known."""
        if not self._joints.check(now):
            self._stream.reset(self._joints.position)
            self._joints.align_commands()
        return self._stream.command

    def _latch(self, reason: str) -> None:
        self._is_latched = True
        self._back_off.end()
        self._begin_stop(reason)
        if self._state is GuardState.HOLDING:
            self._state = GuardState.LATCHED

    def _begin_stop(self, reason: str) -> None:
        """Stop from the next tick on; of several reasons with the same code, keep the first."""
        reason = reason[:MAX_REASON_LENGTH]
        code = reason.split(':')[0]
        if self._state in (GuardState.IDLE, GuardState.FOLLOWING):
            self._state, self._reasons = GuardState.STOPPING, ()
        if all(known.split(':')[0] != code for known in self._reasons):
            self._reasons = (*self._reasons, reason)
        if code in LATCHING_CODES and not self._is_latched:
            self._latch(reason)

    def _rejection(self, reason: str) -> Verdict:
        self.rejected += 1
        return self._verdict(reasons=(reason[:MAX_REASON_LENGTH],))

    def _verdict(
        self, command: Command | None = None, reasons: tuple[str, ...] | None = None
    ) -> Verdict:
        return Verdict(command, self._state, self._reasons if reasons is None else reasons)
