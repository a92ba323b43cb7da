"""Clock monitor: detects a clock that goes back, stands still or is not finite."""

from __future__ import annotations

import numpy as np

EPSILON_S = 1e-6
"""Rounding error that is tolerated when times are compared."""


class ClockMonitor:
    """Monitor of the caller's clock, which is read once per tick."""

    def __init__(self, dt: float, max_standstill: float) -> None:
        """Create a monitor at time 0.

        Args:
            dt: s, period of the ticks.
            max_standstill: s of ticks for which the clock may stand still.
        """
        self._dt, self._max_standstill = dt, max_standstill
        self._now, self._ticks_at_now = 0.0, 0

    def reset(self, now: float) -> None:
        """Start at ``now`` (s, finite)."""
        self._now, self._ticks_at_now = now, 0

    def check(self, now: float) -> str:
        """Return a fault ('code: text') if ``now`` (s) is not finite or goes back, else ''."""
        if not np.isfinite(now):
            return f'clock: expected a finite time, got {now}'
        if now < self._now - EPSILON_S:
            return f'clock: went back by {self._now - now:.3f} s'
        return ''

    def check_tick(self, now: float) -> str:
        """Return the clock's fault at this tick, or ''; record ``now`` (s) in either case."""
        fault = self.check(now)
        if np.isfinite(now):
            self._ticks_at_now = self._ticks_at_now + 1 if now == self._now else 0
            self._now = now
        limit = self._max_standstill
        if not fault and self._ticks_at_now * self._dt > limit + EPSILON_S:
            return f'clock: stands still at {now:.3f} s for more than {limit} s of ticks'
        return fault
