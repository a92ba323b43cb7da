"""Statistics of the guard's node: message rates, latencies and tick jitter."""

from __future__ import annotations

from collections import deque

import numpy as np

from jepa_arm.ros.runtime.diagnostics import RateMeter, percentiles


class GuardStatistics:
    """Measurements since the guard was activated.

    Attributes:
        joint_rate, proposal_rate: rates of received messages.
        missed_ticks: number of skipped ticks.
        max_jitter: s, largest delay of a tick since the last status.
        image_to_command_ms: time from the observation of the last followed proposal to the first
            command of that proposal; NaN before the first.
    """

    def __init__(self) -> None:
        self.joint_rate, self.proposal_rate = RateMeter(), RateMeter()
        self.missed_ticks, self.max_jitter = 0, 0.0
        self.image_to_command_ms = np.nan
        self._jitters_ms: deque[float] = deque(maxlen=1000)
        self._latencies_ms: deque[float] = deque(maxlen=100)

    def record_tick(self, late: float, period: float) -> None:
        """Record a tick that began ``late`` s after it was due, with ticks every ``period`` s."""
        self._jitters_ms.append(late * 1000.0)
        self.max_jitter = max(self.max_jitter, late)
        self.missed_ticks += round(late / period)

    def record_latency(self, latency_ms: float) -> None:
        """Record the time from an observation to the first command planned from it."""
        self.image_to_command_ms = latency_ms
        self._latencies_ms.append(latency_ms)

    def values(self) -> dict[str, object]:
        """Return the measurements by name, for ``/diagnostics``."""
        return {
            'joint states taken Hz': f'{self.joint_rate.hz():.0f}',
            'newest joint state ms ago': f'{self.joint_rate.age_ms():.0f}',
            'proposals Hz': f'{self.proposal_rate.hz():.1f}',
            'newest proposal ms ago': f'{self.proposal_rate.age_ms():.0f}',
            'image to command p50 / p99 ms': percentiles(self._latencies_ms),
            'tick jitter p50 / p99 ms': percentiles(self._jitters_ms),
            'missed ticks': self.missed_ticks,
        }
