"""The last code before the robot: checks every proposal, streams smooth commands, stops.

Pure: no ROS, no torch. Used alike in process and by the node.
Nothing is clamped silently: a proposal is followed as it is or refused with a reason, and a
refusal stops the arm along a jerk-limited path. The code before the colon of a reason is
stable; the text behind it is for people.

Two clocks: ``now`` is the caller's steady clock (simulated time in lock-step), by which plans
run out and joint states grow old; ``ros_now`` is the ROS clock, by which stamps are judged. Where
``now`` goes back, stands still or is no number, the arm stops: nothing can be judged by it.
"""

from __future__ import annotations

import numpy as np

from .arm import Arm
from .config import GuardConfig, TimeConfig
from .joint_watch import JointWatch
from .proposals import EPSILON, ProposalCheck, in_floats
from .stream import GuardedStream
from .sweep import Sweep
from .types import Command, FloatArray, GuardState, JointSample, Proposal, Verdict

LONGEST_REASON = 500
"""Characters; what came may be quoted in a reason, and anything may come."""
RELEASED = 'released: the goal is over'
SEVERE = ('non_finite',)
"""Codes of reasons that latch at once."""


class Guard:
    """Decides what reaches the robot, one command a tick.

    Limits on the output: position, velocity, acceleration and jerk of the arm's configuration,
    between one ``reset`` and the next; a stop may use all of the arm's acceleration. An arm that
    was measured outside its limits starts there and may only come in. ``IDLE`` and ``HOLDING``
    take a valid proposal, ``LATCHED`` waits for ``reset_latch``. Where the arm is blocked it
    yields: the commands go back to where it was measured, once, and then a new proposal may lead
    elsewhere; a guard that finds it blocked again and again latches. Not checked here: contact
    forces, obstacles that nobody declared, and that the robot follows within
    ``max_tracking_error``.

    A robot that takes velocities alone drifts from the commanded positions, and no command leads
    it back (``holds_position`` False): at rest the command is then where the arm is measured, and
    to yield is to stop.
    """

    def __init__(
        self, arm: Arm, time: TimeConfig, config: GuardConfig, holds_position: bool = True
    ) -> None:
        self._arm, self._time, self.config = arm, time, config
        self._holds_position = holds_position
        sweep = Sweep(arm, config)
        self._check = ProposalCheck(arm, time, config, sweep)
        self._stream = GuardedStream(arm, time.stream_dt, sweep, config)
        self._joints = JointWatch(arm, time.stream_dt, config)
        self._state = GuardState.INACTIVE
        self._reasons: tuple[str, ...] = ()
        self._proposal: Proposal | None = None
        self.accepted = self.rejected = 0

    @property
    def state(self) -> GuardState:
        """What the guard is doing."""
        return self._state

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it stops, holds or is latched; empty if all is well."""
        return self._reasons

    @property
    def command(self) -> Command | None:
        """The newest command; None before the first ``reset``."""
        return None if self._state is GuardState.INACTIVE else self._stream.command

    def stop_ahead(self) -> FloatArray:
        """(N, 2, J) rad and rad/s: the stop behind ``command``, tick by tick; N is 0 at rest."""
        return self._stream.stop_ahead()

    def ahead(self, ticks: int, now: float) -> tuple[FloatArray, FloatArray]:
        """The commands behind ``command``, if nothing comes in and nothing happens.

        Each was checked like one that is given. Changes nothing.

        Args:
            ticks: how many commands on the way, at most; fewer where the proposal runs out.
            now: s, steady clock.

        Returns:
            (N, 2, J) rad and rad/s, those on the way; (M, 2, J), the stop behind them.
        """
        targets: list[FloatArray] = []
        if self._state is GuardState.FOLLOWING:
            left = int((self._expires_at - now + EPSILON) / self._time.stream_dt)
            targets = [self._target(i) for i in range(1, min(ticks, left) + 1)]
        elif self._yields_to is not None:
            targets = [self._yields_to] * ticks
        return self._stream.ahead(targets)

    @property
    def proposal(self) -> Proposal | None:
        """The proposal in force, or None."""
        return self._proposal if self._state is GuardState.FOLLOWING else None

    @property
    def speed_scale(self) -> float:
        """Share of the velocity limits that the distance to limits and obstacles leaves."""
        return self._stream.speed_scale

    @property
    def most_speed(self) -> float:
        """The same at most, in (0, 1]; a faster arm slows down within its limits."""
        return self._stream.most_speed

    @most_speed.setter
    def most_speed(self, share: float) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f'most_speed: expected a share in (0, 1], got {share}')
        self._stream.most_speed = share

    def is_ready(self, now: float) -> bool:
        """Whether the arm stands and, at ``now`` (s), nothing is in the way of a proposal."""
        stands = self._state in (GuardState.IDLE, GuardState.HOLDING)
        return stands and not self.is_blocked and not self._joints.fault(now)

    @property
    def is_blocked(self) -> bool:
        """Whether every proposal is refused: held, latched, or not started."""
        return self._state is GuardState.INACTIVE or self._is_held or self._is_latched

    def reset(self, joints: FloatArray, now: float) -> None:
        """Holds at the measured ``joints`` (J,) rad and forgets every proposal and latch.

        The command jumps there: call it only while the robot stands at ``joints``.

        Raises:
            ValueError: wrong number of joints, not finite, or far outside the limits; ``now``
                not finite.
        """
        joints = np.array(joints, dtype=float)
        if not np.isfinite(now):
            raise ValueError(f'now: expected a finite time (s), got {now}')
        if not self._joints.can_be(joints):
            raise ValueError(
                f'joints: expected {len(self._arm.home)} finite positions (rad) near or within '
                f'the limits, got {joints}'
            )
        self._stream.reset(joints)
        self._joints.reset(joints, now)
        self._now, self._ticks_at_now = now, 0
        self._state, self._reasons, self._proposal = GuardState.IDLE, (), None
        self._last_stamp = -np.inf
        self._refused_in_a_row = 0
        self._is_held = self._is_latched = False
        self._yield_to: FloatArray | None = None
        self._found_at: FloatArray | None = None
        self._yields: list[float] = []
        self._yields_in_a_row = 0

    def observe(self, sample: JointSample, now: float) -> None:
        """Takes the newest measured joints, arrived at ``now``. Call it for every sample."""
        self._joints.observe(sample, now)

    def lose_joints(self, reason: str) -> None:
        """Stops the arm at the next tick: the measured joints that came cannot be used."""
        self._joints.lose(reason)

    def submit(self, proposal: Proposal, now: float, ros_now: float | None = None) -> Verdict:
        """Checks ``proposal``; follows it from the next tick on, or refuses it and stops.

        Args:
            proposal: what the planner wants.
            now: s, steady clock.
            ros_now: s, ROS clock; the same as ``now`` if left out.

        Returns:
            the state after the decision and why the proposal was refused; no command.
        """
        ros_now = now if ros_now is None else ros_now
        if self._state is GuardState.INACTIVE:
            return self._refuse('inactive: no joint state has come yet')
        if self._is_latched:
            return self._refuse('latched: refused until reset')
        if self._is_held:
            return self._refuse('held: refused until resume')
        if self._yield_to is not None:  # not the planner's fault: does not count towards a latch
            return self._refuse('tracking: the arm yields to what blocks it')
        malformed = self._check.form(proposal)
        if malformed:
            return self.refuse(malformed)
        not_his = self._time_fault(now) or self._joints.fault(now)
        if not_his:  # not the planner's fault: does not count towards a latch
            return self.refuse(not_his, is_blamed=False)
        proposal, start = in_floats(proposal), self._stream.command.position
        fault = self._check.content(proposal, start, self._last_stamp, ros_now)
        if fault:
            return self.refuse(fault)
        self.accepted += 1
        self._refused_in_a_row = self._yields_in_a_row = 0
        self._proposal, self._ticks = proposal, 0
        self._last_stamp = proposal.stamp
        self._expires_at = now + proposal.stamp + proposal.valid_for - ros_now
        self._state, self._reasons = GuardState.FOLLOWING, ()
        return self._verdict()

    def refuse(self, reason: str, is_blamed: bool = True) -> Verdict:
        """Refuses a proposal for ``reason`` ('code: text') and stops the arm.

        For callers that cannot even build the ``Proposal``; ``submit`` uses it too.

        Args:
            reason: why.
            is_blamed: the planner is to blame; too many of these in a row latch.
        """
        if self.is_blocked:
            return self._refuse(reason)
        self._stop(reason)
        self._refused_in_a_row += is_blamed
        if self._refused_in_a_row >= self.config.max_rejections:
            self._latch(f'repeated: {self._refused_in_a_row} proposals in a row were refused')
        return self._refuse(reason)

    def halt(self, reason: str) -> None:
        """Stops the arm for ``reason`` ('code: text'), for which no proposal is to blame.

        It counts towards no latch, and the next valid proposal is followed.
        """
        if self._state is not GuardState.INACTIVE:
            self._stop(reason)

    def tick(self, now: float) -> Verdict:
        """Advances the stream by ``stream_dt``; the command in the verdict is to be sent."""
        if self._state is GuardState.INACTIVE:
            return self._verdict()
        self._watch(now)
        if self._state is GuardState.FOLLOWING:
            self._ticks += 1
            command = self._go_towards(self._target())
        elif self._yields_to is not None:
            command = self._go_towards(self._yields_to)
        else:
            command = self._stream.stop()
        self._joints.record(command.position)
        if self._state is GuardState.STOPPING and self._stream.is_at_rest:
            self._end_yield()
            self._state = GuardState.LATCHED if self._is_latched else GuardState.HOLDING
            if self._reasons == (RELEASED,):
                self._state, self._reasons = GuardState.IDLE, ()
        if not self._holds_position and self._state in (GuardState.IDLE, GuardState.HOLDING):
            command = self._settle(now)
        return self._verdict(command)

    def release(self) -> Verdict:
        """Stops the arm as nothing is wanted of it any more; at rest it is ``IDLE`` again."""
        if self._state is GuardState.FOLLOWING:
            self._stop(RELEASED)
        return self._verdict()

    def hold(self, reason: str = 'held: hold was requested') -> Verdict:
        """Stops the arm; proposals are refused until ``resume``."""
        if self._state is not GuardState.INACTIVE:
            self._is_held = True
            self._stop(reason)
        return self._verdict()

    def resume(self) -> Verdict:
        """Ends a hold: the next valid proposal is followed. A latch stays."""
        if self._state is GuardState.INACTIVE or self._is_latched:
            return self._verdict()
        self._is_held = False
        if self._state is GuardState.HOLDING:
            self._state, self._reasons = GuardState.IDLE, ()
        return self._verdict()

    def reset_latch(self, now: float) -> Verdict:
        """Starts anew at the measured joints, if the arm rests and its joints are known.

        Returns:
            state ``IDLE``, or the unchanged state with the reasons why not.
        """
        if self._state is GuardState.INACTIVE:
            return self._verdict(reasons=('inactive: no joint state has come yet',))
        fault = self._time_fault(now) or self._joints.fault(now)
        if fault:
            return self._verdict(reasons=(fault,))
        if not self._stream.is_at_rest:
            return self._verdict(reasons=('moving: the arm has not come to rest yet',))
        self.reset(self._joints.position, now)
        return self._verdict()

    def tracking_error(self) -> float:
        """rad, from the measured joints to the nearest command of the tracking window."""
        return 0.0 if self._state is GuardState.INACTIVE else self._joints.error()

    @property
    def _yields_to(self) -> FloatArray | None:
        """(J,) rad, where the commands go to give way; None if they do not."""
        is_led_back = self._state is GuardState.STOPPING and self._holds_position
        return self._yield_to if is_led_back else None

    def _target(self, later: int = 0) -> FloatArray:
        """(J,) rad, the waypoint in force at the tick being made, or ``later`` ticks after it.

        At the end the last one.
        """
        elapsed = (self._ticks + later) * self._time.stream_dt - EPSILON
        assert self._proposal is not None
        times = self._proposal.times
        index = int(np.searchsorted(times, elapsed))
        return self._proposal.positions[min(index, len(times) - 1)]

    def _watch(self, now: float) -> None:
        """Stops or latches for what no proposal can be blamed for."""
        fault = self._clock_fault(now) or self._joints.fault(now)
        if fault:
            self._end_yield()
            self._stop(fault)
        elif not self._is_latched:
            self._watch_tracking(now)
        if self._state is GuardState.FOLLOWING and now > self._expires_at + EPSILON:
            self._stop('plan_expired: no newer proposal came in time')

    def _watch_tracking(self, now: float) -> None:
        """Yields where the arm is away from its commands, latches where that cannot help.

        While it yields, the arm may also still be where it was found.
        """
        error, limit = self._joints.error(self._found_at), self.config.max_tracking_error
        reason = f'tracking: {error:.3f} rad from the commands, expected <= {limit}'
        if error > self.config.lost_tracking_error:
            self._latch(reason)
        elif error > limit and (self._holds_position or self._yield_to is None):
            self._give_way(reason, now)

    def _give_way(self, reason: str, now: float) -> None:
        """Stops and goes back to where the arm was when it was found blocked, or latches."""
        self._yields = [t for t in self._yields if now - t < self.config.yield_memory]
        if max(len(self._yields), self._yields_in_a_row) >= self.config.max_yields:
            self._latch(reason)
            return
        measured = self._joints.position
        target = np.clip(measured, self._arm.lower, self._arm.upper)
        if self._holds_position and np.any(target != measured):
            reason += '; measured outside the joint limits, the arm yields to the limits'
        self._stop(reason)
        if self._state is GuardState.HOLDING:
            self._state = GuardState.STOPPING
        self._yields.append(now)
        self._yields_in_a_row += 1
        self._yield_to, self._found_at = target, measured

    def _settle(self, now: float) -> Command:
        """At rest: the command is where the arm was measured, if that is known."""
        if not self._joints.fault(now):
            self._stream.reset(self._joints.position)
            self._joints.anchor()
        return self._stream.command

    def _end_yield(self) -> None:
        self._yield_to = self._found_at = None

    def _go_towards(self, target: FloatArray) -> Command:
        """One tick towards ``target`` (J,), or of a stop if there is danger on the way."""
        command, fault = self._stream.step(target)
        if fault:
            self._end_yield()
            self._stop(fault)
        return command

    def _time_fault(self, now: float) -> str:
        """Why ``now`` cannot be the time: 'code: text', or ''."""
        if not np.isfinite(now):
            return f'clock: expected a finite time, got {now}'
        if now < self._now - EPSILON:
            return f'clock: went back by {self._now - now:.3f} s'
        return ''

    def _clock_fault(self, now: float) -> str:
        """The same at a tick; goes on from ``now``."""
        fault = self._time_fault(now)
        if np.isfinite(now):
            self._ticks_at_now = self._ticks_at_now + 1 if now == self._now else 0
            self._now = now
        limit = self.config.max_joint_age
        if not fault and self._ticks_at_now * self._time.stream_dt > limit + EPSILON:
            return f'clock: stands still at {now:.3f} s for more than {limit} s of ticks'
        return fault

    def _latch(self, reason: str) -> None:
        self._is_latched = True
        self._end_yield()
        self._stop(reason)
        if self._state is GuardState.HOLDING:
            self._state = GuardState.LATCHED

    def _stop(self, reason: str) -> None:
        reason = reason[:LONGEST_REASON]
        code = reason.split(':')[0]
        if self._state in (GuardState.IDLE, GuardState.FOLLOWING):
            self._state, self._reasons = GuardState.STOPPING, ()
        if all(known.split(':')[0] != code for known in self._reasons):
            self._reasons = (*self._reasons, reason)
        if code in SEVERE and not self._is_latched:
            self._latch(reason)

    def _refuse(self, reason: str) -> Verdict:
        self.rejected += 1
        return self._verdict(reasons=(reason[:LONGEST_REASON],))

    def _verdict(
        self, command: Command | None = None, reasons: tuple[str, ...] | None = None
    ) -> Verdict:
        return Verdict(command, self._state, self._reasons if reasons is None else reasons)
