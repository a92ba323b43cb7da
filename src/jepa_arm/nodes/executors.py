"""What runs a node's callbacks: rclpy's executors, at less processor time.

rclpy's usual one makes a wait set anew each time that it waits, 200 to 300 times a second here, of
all that a node has. ``SparingExecutor`` leaves out what is seldom needed, and what comes often is
taken at a ``Beat``, without one.

rclpy's ``EventsExecutor`` needs none either, but is not for a robot. In rclpy 9.1 it keeps an
event for every message that came, also for those that newer ones have replaced: under a flood of
joint states a guard did not tick for 0.9 s. It crashes when a coroutine or an event handler
raises.
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

SERVE_EVERY_S, SLOW_SERVE_EVERY_S = 0.02, 0.075
"""After which what no ``Beat`` takes is served at the next one, a fast and a slow one."""
SLOW_S = 0.05
"""Period of a slow beat, at least."""
LONGEST_REST_S = 0.05
"""After which messages are taken again, whatever another thread still has to do."""
LONGEST_WAIT_S = 0.2
"""What seems to have waited longer was received before the system's clock was set."""
LOOK_EVERY_S = 0.1
"""Longest wait of a call for parameters or the lifecycle, while the node is busy."""
OF_EVERY_NODE = ('rcl_interfaces.', 'lifecycle_msgs.', 'type_description_interfaces.')
"""Where the types of services are from that come with every node."""


class ByHand(CallbackGroup):
    """Subscriptions whose messages no executor takes by itself; their events it does."""

    def can_execute(self, entity: Any) -> bool:
        """Whether it is no subscription."""
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: Any) -> bool:
        """Always."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Nothing to note."""


class Beat(ByHand):
    """Subscriptions that a ``SparingExecutor`` takes at a steady beat, and what follows.

    Where rclpy listens to ``/clock``, that is taken with them. Between two beats the process
    sleeps. Of each subscription as many messages are taken as it keeps: a flood delays no beat for
    long. What else the node has waits for ``SERVE_EVERY_S`` or ``SLOW_SERVE_EVERY_S``.

    Attributes:
        period: s; see ``pace``.
        late: s, how long after it was due the newest one began.
        waited: s, between the arrival of the message called back with and its being taken; 0
            where the middleware does not tell.
    """

    def __init__(
        self, period: float, phase: float, act: Callable[[Callable[[], None]], None]
    ) -> None:
        """Beats when the steady clock is ``phase`` s past whole periods.

        Args:
            period, phase: s.
            act: called with what takes the messages, which it must call once.
        """
        super().__init__()
        self.period, self._usual_phase, self._phase = period, phase, phase
        self.act, self.late, self.waited = act, 0.0, 0.0
        self._due, self._rests_until = self._after(monotonic()), 0.0

    def time_left(self) -> float:
        """s until the next beat; zero or less when it is due."""
        return self._due - monotonic()

    def pace(self, period: float, phase: float | None = None) -> None:
        """From now on it beats every ``period`` s, with another ``phase`` (s) if there is one."""
        phase = self._usual_phase if phase is None else phase
        if (period, phase) != (self.period, self._phase):
            self.period, self._phase = period, phase
            self._due = self._after(monotonic())

    @contextmanager
    def rest(self) -> Iterator[None]:
        """While in it nothing is taken or served, for ``LONGEST_REST_S`` at most.

        For what another thread does in a hurry: of an interpreter's threads one runs at a time.
        """
        self._rests_until = monotonic() + LONGEST_REST_S
        try:
            yield
        finally:
            self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """Whether nothing is to be taken or served now."""
        return monotonic() < self._rests_until

    def begin(self) -> None:
        """The next beat is the first one after now: those that were missed are left out."""
        self.late = -self.time_left()
        self._due = self._after(monotonic())

    def _after(self, now: float) -> float:
        return now + self.period - (now - self._phase) % self.period


class SparingExecutor(SingleThreadedExecutor):
    """Runs callbacks in the thread that spins; looks at what every node has now and then.

    That is services for parameters and the lifecycle, and events of the middleware: more than half
    of what would be waited for. Subscriptions of a ``Beat`` are waited for by no wait set.
    """

    def __init__(self, context: Context | None = None) -> None:
        """Of ``context``; None: the process's."""
        super().__init__(context=context)
        self._looks, self._has_looked, self._looked_at = True, False, 0.0
        self._has_beat, self._served_at = False, 0.0

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Runs one callback, or one beat, after waiting for ``timeout_sec`` s; None: for ever."""
        beat = self._beat()
        self._has_beat = beat is not None
        if beat is None:
            self._run_one(timeout_sec)
            return
        left = beat.time_left()
        sleep(max(0.0, left if timeout_sec is None else min(left, timeout_sec)))
        if beat.time_left() <= 0.0:
            beat.begin()
            if not beat.rests:
                beat.act(lambda: self._take(beat))
        if beat.rests:
            return
        serve_every = SERVE_EVERY_S if beat.period < SLOW_S else SLOW_SERVE_EVERY_S
        if monotonic() - self._served_at >= serve_every:
            self._served_at = monotonic()
            while self._run_one(0.0) and beat.time_left() > 0.0:
                pass

    def _run_one(self, timeout: float | None) -> bool:
        """Whether a callback came within ``timeout`` s; it was run."""
        now = monotonic()
        if self._has_looked:
            self._looked_at, self._has_looked = now, False
        self._looks = now - self._looked_at >= LOOK_EVERY_S
        try:
            handler, _, _ = self.wait_for_ready_callbacks(timeout_sec=timeout)
        except (ShutdownException, TimeoutException, ConditionReachedException):
            return False
        handler()
        error = handler.exception()
        if error is not None:
            raise error
        return True

    def _beat(self) -> Beat | None:
        groups = (s.callback_group for node in self.get_nodes() for s in node.subscriptions)
        return next((group for group in groups if isinstance(group, Beat)), None)

    def _take(self, beat: Beat) -> None:
        """Calls back with the messages that wait for ``beat``."""
        for node in self.get_nodes():
            for subscription in list(node.subscriptions):
                if subscription.callback_group is beat or _is_clock(subscription):
                    _take_all(subscription, beat)

    def can_execute(self, entity: Any) -> bool:
        """Whether rclpy may wait for ``entity`` now; asked for each of them before it waits."""
        if self._has_beat and _is_clock(entity):
            return False
        if _is_seldom(entity):
            if not self._looks:
                return False
            self._has_looked = True
        return super().can_execute(entity)


def _is_seldom(entity: Any) -> bool:
    if isinstance(entity, Service):
        return entity.srv_type.__module__.startswith(OF_EVERY_NODE)
    return isinstance(entity, EventHandler)


def _is_clock(entity: Any) -> bool:
    return isinstance(entity, Subscription) and entity.msg_type is Clock


def _take_all(subscription: Any, beat: Beat) -> None:
    for _ in range(subscription.qos_profile.depth):
        try:
            taken = take(subscription)
        except InvalidHandle:
            return  # a callback destroyed it
        if taken is None:
            return
        beat.waited = _waited(taken[1]['received_timestamp'])
        subscription.callback(taken[0])


def _waited(received: int) -> float:
    """s since ``received`` (ns of the system's clock)."""
    waited = time() - received / 1e9
    return waited if 0.0 <= waited <= LONGEST_WAIT_S else 0.0
