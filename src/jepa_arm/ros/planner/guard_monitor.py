"""Guard monitor: state of the guard, and whether it follows the planner's proposals."""

from __future__ import annotations

from time import monotonic

import numpy as np
from jepa_arm_msgs.msg import GuardStatus

from jepa_arm.core.types import FloatArray
from jepa_arm.ros.runtime.diagnostics import RateMeter

DELAY_WEIGHT = 0.05
"""Weight of a new value in the running mean of the delay."""
MAX_DELAY_MS = 1000.0
"""Longer delays are ignored as measurement errors."""
MIN_STATUSES = 2
"""Statuses to receive before the guard's state applies to a new goal; the first may be old."""


class GuardMonitor:
    """Monitor of ``guard/status``.

    Attributes:
        status: newest valid status; an empty one, of an inactive guard, before the first.
        rate: rate of the statuses.
        delay: s, running mean of the time from an observation to its first command.
    """

    def __init__(self, width: int) -> None:
        """Start without a status; the guard commands ``width`` joints."""
        self._width = width
        self.status = GuardStatus()
        self._received_at = self._active_at = monotonic()
        self._counts_when_sent: tuple[int, int] | None = None
        self._has_restarted = False
        self.delay, self._statuses_since_goal = 0.0, MIN_STATUSES
        self.rate = RateMeter()

    def put(self, msg: GuardStatus) -> None:
        """Process a status; one that does not fit the arm is ignored."""
        self.rate.count()
        count = len(msg.command)
        is_complete = count == self._width or (count == 0 and msg.state == GuardStatus.INACTIVE)
        if not (is_complete and np.all(np.isfinite(msg.command))):
            return
        has_fewer = msg.accepted + msg.rejected < self.status.accepted + self.status.rejected
        if self._counts_when_sent is not None and has_fewer:
            self._has_restarted = True
        self.status, self._received_at = msg, monotonic()
        self._statuses_since_goal += 1
        if 0.0 <= msg.obs_to_command_ms <= MAX_DELAY_MS:
            weight = DELAY_WEIGHT if self.delay else 1.0
            self.delay += weight * (msg.obs_to_command_ms / 1000.0 - self.delay)
        if msg.state != GuardStatus.INACTIVE:
            self._active_at = monotonic()

    def stop_reason(self, timeout: float) -> str:
        """Return why somebody must act before the guard follows proposals again; empty if not.

        Args:
            timeout: longest silence (s) of an active guard.
        """
        status, now = self.status, monotonic()
        if self._has_restarted:
            return 'the guard was restarted: send the goal again when the arm may move'
        if now - self._received_at > timeout:
            return f'no guard/status for {now - self._received_at:.1f} s: is the guard up?'
        if now - self._active_at > timeout:
            return 'the guard is not active: does it get joint_states?'
        if self._statuses_since_goal < MIN_STATUSES:
            return ''
        reasons = '; '.join(status.reasons)
        if status.state == GuardStatus.LATCHED:
            return f'the guard is latched ({reasons}): call guard/reset when it is safe'
        if any(reason.startswith('held') for reason in status.reasons):
            return f'the guard holds ({reasons}): call guard/resume'
        return ''

    @property
    def speed_scale(self) -> float:
        """Fraction of the velocity limits that the guard allows; 1 before the first status."""
        scale = self.status.speed_scale
        return scale if 0.0 < scale <= 1.0 else 1.0

    def begin_goal(self) -> None:
        """Ignore the guard's state until a status is surely newer than the goal that begins."""
        self._statuses_since_goal = 0

    def record_proposal(self) -> None:
        """Record that a proposal was sent, and the guard's proposal counts at that time."""
        self._counts_when_sent = self.status.accepted, self.status.rejected

    def forget_proposals(self) -> None:
        """Forget the proposals of a goal that has ended, so that the next goal starts afresh."""
        self._counts_when_sent, self._has_restarted = None, False

    def dropped_setpoint(self) -> FloatArray | None:
        """Return the commanded joints (J,) rad if the guard dropped the last proposal, else None.

        A proposal is dropped if it was rejected or has expired.
        """
        status, sent = self.status, self._counts_when_sent
        if sent is None or status.state == GuardStatus.INACTIVE:
            return None
        is_answered = status.accepted + status.rejected > sum(sent)
        has_expired = is_answered and status.state != GuardStatus.FOLLOWING
        if status.rejected > sent[1] or has_expired:
            return np.array(status.command)
        return None

    def resting_setpoint(self) -> FloatArray | None:
        """Return the commanded joints (J,) rad while the guard follows no proposal, else None."""
        if self.status.state in (GuardStatus.INACTIVE, GuardStatus.FOLLOWING):
            return None
        return np.array(self.status.command)
