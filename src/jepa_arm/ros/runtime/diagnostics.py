"""Diagnostics: the status that each node publishes on ``/diagnostics`` once a second."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node

from .process import resident_mb
from .qos import STATUS_QOS

PERIOD_S = 1.0
RATE_WINDOW_S = 2.0


class Diagnostics:
    """Periodic diagnostic status: OK, WARN on problems, ERROR if the node is then also stuck."""

    def __init__(
        self,
        node: Node,
        problems: Callable[[], Sequence[str]],
        values: Callable[[], Mapping[str, object]],
        is_stuck: Callable[[], bool] = lambda: False,
        hardware_id: Callable[[], str] = str,
    ) -> None:
        """Start to publish.

        Args:
            node: node that reports.
            problems: returns one sentence per current problem.
            values: returns further values by name; the memory use is added.
            is_stuck: returns whether the node cannot do its work.
            hardware_id: returns the ``hardware_id`` of the status: the name of the arm.
        """
        self._node, self._problems, self._values = node, problems, values
        self._is_stuck, self._hardware_id = is_stuck, hardware_id
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', STATUS_QOS)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(PERIOD_S, self._publish, clock=clock)

    def _publish(self) -> None:
        problems = self._problems()
        level = DiagnosticStatus.OK
        if problems:
            level = DiagnosticStatus.ERROR if self._is_stuck() else DiagnosticStatus.WARN
        values = {**self._values(), 'memory MB': f'{resident_mb(os.getpid()) or np.nan:.0f}'}
        status = DiagnosticStatus(
            name=self._node.get_fully_qualified_name().lstrip('/'),
            level=level,
            hardware_id=self._hardware_id(),
            message='; '.join(problems) or 'ok',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(msg)


class RateMeter:
    """Rate of an event over the last ``RATE_WINDOW_S``."""

    def __init__(self) -> None:
        """Start without events."""
        self._times, self._last = deque[float](), -np.inf

    def count(self) -> None:
        """Record one event."""
        self._last = monotonic()
        self._times.append(self._last)
        self._drop_old()

    def hz(self) -> float:
        """Return the mean rate in 1/s."""
        self._drop_old()
        return len(self._times) / RATE_WINDOW_S

    def age_ms(self) -> float:
        """Return the time since the last event in ms; infinite before the first event."""
        return (monotonic() - self._last) * 1000.0

    def _drop_old(self) -> None:
        while self._times and self._times[0] < monotonic() - RATE_WINDOW_S:
            self._times.popleft()


def percentiles(values: Iterable[float]) -> str:
    """Return median and 99th percentile as text, '-' without values."""
    known = list(values)
    if not known:
        return '-'
    p50, p99 = np.quantile(known, [0.5, 0.99])
    return f'{p50:.1f} / {p99:.1f}'
