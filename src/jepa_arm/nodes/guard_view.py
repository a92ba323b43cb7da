"""What the planner hears of the guard."""

from __future__ import annotations

from time import monotonic

import numpy as np
from jepa_arm_msgs.msg import GuardStatus

from ..types import FloatArray
from .diagnostics import Rate

LATENCY_SHARE = 0.05
"""Of a new value in the running mean."""
MAX_LATENCY_MS = 1000.0
"""A longer one is no measurement."""
NEWS = 2
"""Statuses since a goal began that are sure to tell of the guard since then: the first may have
been on its way before."""


class GuardView:
    """What the guard said last, and whether it follows what it is sent."""

    def __init__(self, width: int) -> None:
        """Expects commands of ``width`` joints."""
        self._width = width
        self.status: GuardStatus | None = None
        self._heard_at = self._active_at = monotonic()
        self._counts: tuple[int, int] | None = None
        self._is_another = False
        self._latency, self._news = 0.0, NEWS
        self.rate = Rate()

    def put(self, msg: GuardStatus) -> None:
        """Takes a status; one that cannot be this guard's is as good as none."""
        self.rate.count()
        count = len(msg.command)
        is_whole = count == self._width or (count == 0 and msg.state == GuardStatus.INACTIVE)
        if not (is_whole and np.all(np.isfinite(msg.command))):
            return
        before = sum(self._counted())
        if self._counts is not None and msg.accepted + msg.rejected < before:
            self._is_another = True
        self.status, self._heard_at = msg, monotonic()
        self._news += 1
        if 0.0 <= msg.obs_to_command_ms <= MAX_LATENCY_MS:
            share = LATENCY_SHARE if self._latency else 1.0
            self._latency += share * (msg.obs_to_command_ms / 1000.0 - self._latency)
        if msg.state != GuardStatus.INACTIVE:
            self._active_at = monotonic()

    def stopped(self, timeout: float) -> str:
        """Why no proposal will be followed until somebody acts; empty if the guard takes them.

        Args:
            timeout: s without a word from an active guard.
        """
        status, now = self.status, monotonic()
        if self._is_another:
            return 'the guard was started anew: send the goal again when the arm may move'
        if now - self._heard_at > timeout:
            return f'no guard/status for {now - self._heard_at:.1f} s: is the guard up?'
        if now - self._active_at > timeout:
            return 'the guard is not active: does it get joint_states?'
        if status is None or self._news < NEWS:
            return ''
        reasons = '; '.join(status.reasons)
        if status.state == GuardStatus.LATCHED:
            return f'the guard is latched ({reasons}): call guard/reset when it is safe'
        if any(reason.startswith('held') for reason in status.reasons):
            return f'the guard holds ({reasons}): call guard/resume'
        return ''

    @property
    def latency(self) -> float:
        """s from the stamp of an observation to the robot's first command, a running mean."""
        return self._latency

    @property
    def speed(self) -> float:
        """Share of the velocity limits that the guard lets the arm use; 1 before it is heard."""
        share = 1.0 if self.status is None else self.status.speed_scale
        return share if 0.0 < share <= 1.0 else 1.0

    def begin(self) -> None:
        """A goal begins: what stopped the one before it may be over."""
        self._news = 0

    def sent(self) -> None:
        """Notes that a proposal is on its way: only what the guard says later is about it."""
        self._counts = self._counted()

    def forget(self) -> None:
        """Nothing that was sent matters any more."""
        self._counts, self._is_another = None, False

    def lost_track(self) -> FloatArray | None:
        """(J,) rad where the arm is, if the guard refused or let lapse what it was sent."""
        status = self.status
        if self._counts is None or status is None or status.state == GuardStatus.INACTIVE:
            return None
        accepted, rejected = self._counted()
        has_heard = accepted + rejected > sum(self._counts)
        has_dropped = has_heard and status.state != GuardStatus.FOLLOWING
        if rejected > self._counts[1] or has_dropped:
            return np.array(status.command)
        return None

    def resting_at(self) -> FloatArray | None:
        """(J,) rad, the commanded joints while the guard follows nothing; else None."""
        status = self.status
        if status is None or status.state in (GuardStatus.INACTIVE, GuardStatus.FOLLOWING):
            return None
        return np.array(status.command)

    def _counted(self) -> tuple[int, int]:
        status = self.status
        return (0, 0) if status is None else (status.accepted, status.rejected)
