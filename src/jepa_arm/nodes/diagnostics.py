"""What every node tells of itself on ``/diagnostics``, once a second."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node

from .parameters import STATUS
from .process import resident_mb

PERIOD_S = 1.0


class Diagnostics:
    """Publishes one status a second: OK, WARN with problems, ERROR where nothing goes on."""

    def __init__(
        self,
        node: Node,
        problems: Callable[[], Sequence[str]],
        values: Callable[[], Mapping[str, object]],
        is_stuck: Callable[[], bool] = lambda: False,
        hardware: Callable[[], str] = str,
    ) -> None:
        """Publishes from now on.

        Args:
            node: that tells of itself.
            problems: what is wrong; nothing if all is well.
            values: what else there is to know, by name; the process's memory is added.
            is_stuck: whether the node does not do its work now.
            hardware: what the node is for, of those of its kind: the arm.
        """
        self._hardware = hardware
        self._node, self._problems, self._values, self._is_stuck = node, problems, values, is_stuck
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', STATUS)
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
            hardware_id=self._hardware(),
            message='; '.join(problems) or 'ok',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(msg)


class Rate:
    """How often something comes, over the last ``span`` s."""

    def __init__(self, span: float = 2.0) -> None:
        self._span, self._times, self._came_at = span, deque[float](), -np.inf

    def count(self) -> None:
        """It came."""
        self._came_at = monotonic()
        self._times.append(self._came_at)
        self._forget()

    def hz(self) -> float:
        """1/s, of late."""
        self._forget()
        return len(self._times) / self._span

    def ago_ms(self) -> float:
        """ms since it came last; infinite before."""
        return (monotonic() - self._came_at) * 1000.0

    def _forget(self) -> None:
        while self._times and self._times[0] < monotonic() - self._span:
            self._times.popleft()


def percentiles(values: Iterable[float]) -> str:
    """Median and 99th percentile as text; '-' without values."""
    known = list(values)
    if not known:
        return '-'
    p50, p99 = np.quantile(known, [0.5, 0.99])
    return f'{p50:.1f} / {p99:.1f}'
