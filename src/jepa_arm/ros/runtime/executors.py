"""Executors: rclpy's single-threaded executor at a lower processor load.

rclpy builds a new wait set of all entities of a node for every wait, here 200 to 300 times a
second. ``PollingExecutor`` leaves out entities that are rarely needed, and polls the subscriptions
of a ``PollingGroup`` at a fixed period without a wait set.

rclpy's ``EventsExecutor`` needs no wait sets either but does not suit a robot. In rclpy 9.1 it
queues an event for every message, including those that newer messages have replaced: under a flood
of joint states the guard missed its ticks for 0.9 s. It also crashes when a coroutine or an event
handler raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep, time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import (
    ConditionReachedException,
    ShutdownException,
    SingleThreadedExecutor,
    TimeoutException,
)
from rclpy.service import Service
from rclpy.subscription import Subscription
from rosgraph_msgs.msg import Clock

from .compat import EventHandler, take

SERVICE_PERIOD_S, SLOW_SERVICE_PERIOD_S = 0.02, 0.075
"""Periods at which a node with a fast or a slow ``PollingGroup`` serves its other entities."""
SLOW_S = 0.05
"""Polling period from which a group counts as slow."""
MAX_PAUSE_S = 0.05
"""Longest pause of a group, even if the other thread has not finished."""
MAX_QUEUE_DELAY_S = 0.2
"""Longer queue delays are ignored: the system clock was set in between."""
RARE_PERIOD_S = 0.1
"""Period at which a busy node serves parameters, its lifecycle and middleware events."""
RARE_SERVICE_PACKAGES = ('rcl_interfaces.', 'lifecycle_msgs.', 'type_description_interfaces.')
"""Packages of the services that every node has."""


class ManualGroup(CallbackGroup):
    """Callback group whose messages no executor takes; events are handled as usual."""

    def can_execute(self, entity: Any) -> bool:
        """Return whether ``entity`` is not a subscription."""
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: Any) -> bool:
        """Return True: callbacks of this group may always be executed."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Do nothing: executions are not tracked."""


class PollingGroup(ManualGroup):
    """Callback group whose subscriptions a ``PollingExecutor`` polls at a fixed period.

    rclpy's subscription to ``/clock`` is polled with them. The process sleeps between polls. Each
    poll takes at most QoS ``depth`` messages per subscription, so that a flood of messages cannot
    delay the next poll for long. Other entities of the node are served every
    ``SERVICE_PERIOD_S`` or ``SLOW_SERVICE_PERIOD_S``.

    Attributes:
        period: s, see ``set_period``.
        on_poll: callback of each poll, see ``__init__``.
        lateness: s, delay of the latest poll.
        queue_delay: s between arrival and callback of the current message; 0 if the middleware
            does not report arrival times.
    """

    def __init__(
        self, period: float, phase: float, on_poll: Callable[[Callable[[], None]], None]
    ) -> None:
        """Schedule polls at times when the steady clock modulo ``period`` equals ``phase``.

        Args:
            period, phase: s.
            on_poll: called at each poll with a function that takes the messages; it must call
                that function exactly once.
        """
        super().__init__()
        self.period, self._default_phase, self._phase = period, phase, phase
        self.on_poll, self.lateness, self.queue_delay = on_poll, 0.0, 0.0
        self._due, self._paused_until = self._next_after(monotonic()), 0.0

    def time_left(self) -> float:
        """Return the time until the next poll in s; zero or negative if it is due."""
        return self._due - monotonic()

    def set_period(self, period: float, phase: float | None = None) -> None:
        """Change the period and the phase, both in s; None restores the initial phase."""
        phase = self._default_phase if phase is None else phase
        if (period, phase) != (self.period, self._phase):
            self.period, self._phase = period, phase
            self._due = self._next_after(monotonic())

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Suspend polling and services while the context is open, at most ``MAX_PAUSE_S``.

        This leaves the interpreter lock (GIL) to urgent work in another thread.
        """
        self._paused_until = monotonic() + MAX_PAUSE_S
        try:
            yield
        finally:
            self._paused_until = 0.0

    @property
    def is_paused(self) -> bool:
        """Return whether polling is suspended."""
        return monotonic() < self._paused_until

    def start_cycle(self) -> None:
        """Record the lateness of the poll that is due and schedule the next; skip missed polls."""
        self.lateness = -self.time_left()
        self._due = self._next_after(monotonic())

    def _next_after(self, now: float) -> float:
        return now + self.period - (now - self._phase) % self.period


class PollingExecutor(SingleThreadedExecutor):
    """Single-threaded executor that polls a ``PollingGroup`` and serves rare entities less often.

    Rare entities are the parameter and lifecycle services and the events of the middleware,
    together more than half of a node's entities.
    """

    def __init__(self, context: Context | None = None) -> None:
        """Create an executor for ``context``; None: the default context."""
        super().__init__(context=context)
        self._is_rare_due, self._has_served_rare, self._rare_served_at = True, False, 0.0
        self._has_group, self._served_at = False, 0.0

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback or one poll within ``timeout_sec`` s; None waits without a limit."""
        group = self._polling_group()
        self._has_group = group is not None
        if group is None:
            self._run_callback(timeout_sec)
            return
        left = group.time_left()
        sleep(max(0.0, left if timeout_sec is None else min(left, timeout_sec)))
        if group.time_left() <= 0.0:
            group.start_cycle()
            if not group.is_paused:
                group.on_poll(lambda: self._take_messages(group))
        if group.is_paused:
            return
        period = SERVICE_PERIOD_S if group.period < SLOW_S else SLOW_SERVICE_PERIOD_S
        if monotonic() - self._served_at >= period:
            self._served_at = monotonic()
            while self._run_callback(0.0) and group.time_left() > 0.0:
                pass

    def can_execute(self, entity: Any) -> bool:
        """Return whether the next wait set shall contain ``entity``."""
        if self._has_group and _is_clock(entity):
            return False
        if _is_rare(entity):
            if not self._is_rare_due:
                return False
            self._has_served_rare = True
        return super().can_execute(entity)

    def _run_callback(self, timeout: float | None) -> bool:
        """Run the next callback; return False if none was ready within ``timeout`` s."""
        now = monotonic()
        if self._has_served_rare:
            self._rare_served_at, self._has_served_rare = now, False
        self._is_rare_due = now - self._rare_served_at >= RARE_PERIOD_S
        try:
            handler, _, _ = self.wait_for_ready_callbacks(timeout_sec=timeout)
        except (ShutdownException, TimeoutException, ConditionReachedException):
            return False
        handler()
        error = handler.exception()
        if error is not None:
            raise error
        return True

    def _polling_group(self) -> PollingGroup | None:
        groups = (s.callback_group for node in self.get_nodes() for s in node.subscriptions)
        return next((group for group in groups if isinstance(group, PollingGroup)), None)

    def _take_messages(self, group: PollingGroup) -> None:
        """Take the waiting messages of ``group`` and of ``/clock`` and run their callbacks."""
        for node in self.get_nodes():
            for subscription in list(node.subscriptions):
                if subscription.callback_group is group or _is_clock(subscription):
                    _take_all(subscription, group)


def _is_rare(entity: Any) -> bool:
    if isinstance(entity, Service):
        return entity.srv_type.__module__.startswith(RARE_SERVICE_PACKAGES)
    return isinstance(entity, EventHandler)


def _is_clock(entity: Any) -> bool:
    return isinstance(entity, Subscription) and entity.msg_type is Clock


def _take_all(subscription: Any, group: PollingGroup) -> None:
    for _ in range(subscription.qos_profile.depth):
        try:
            taken = take(subscription)
        except InvalidHandle:
            return  # a callback destroyed the subscription
        if taken is None:
            return
        group.queue_delay = _queue_delay(taken[1]['received_timestamp'])
        subscription.callback(taken[0])


def _queue_delay(received: int) -> float:
    """Return the time in s since ``received`` (ns of the system clock)."""
    delay = time() - received / 1e9
    return delay if 0.0 <= delay <= MAX_QUEUE_DELAY_S else 0.0
