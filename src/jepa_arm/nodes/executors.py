"""What runs a node's callbacks: rclpy's executors, at less processor time.

rclpy's usual one makes a wait set anew each time that it waits, 200 to 300 times a second here, of
all that a node has. ``SparingExecutor`` leaves out what is seldom needed; ``light_executor`` gives
one that needs no wait sets.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from rclpy.context import Context
from rclpy.event_handler import EventHandler
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.service import Service

LOOK_EVERY_S = 0.05
"""Longest wait of a call for parameters or the lifecycle, while the node is busy."""
OF_EVERY_NODE = ('rcl_interfaces.', 'lifecycle_msgs.', 'type_description_interfaces.')
"""Where the types of services are from that come with every node."""


def light_executor(context: Context | None = None) -> Executor:
    """rclpy's ``EventsExecutor``, or a ``SparingExecutor`` where there is none (before Kilted).

    For a simulator, not for a robot's side. In rclpy 9.1 it keeps an event for every message that
    came, also for those that newer ones have replaced: under a flood of joint states a guard did
    not tick for 0.9 s. It crashes when a coroutine or an event handler raises, and when a
    publisher with event handlers is destroyed while it runs, as managed nodes do. A timer's
    callback that could take an argument is given one, and without a time-out ``spin_once`` is busy
    for ever.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SparingExecutor(context)
    return EventsExecutor(context=context)


class SparingExecutor(SingleThreadedExecutor):
    """Runs callbacks in the thread that spins; looks at what every node has now and then.

    That is services for parameters and the lifecycle, and events of the middleware: more than half
    of what would be waited for.
    """

    def __init__(self, context: Context | None = None) -> None:
        """Of ``context``; None: the process's."""
        super().__init__(context=context)
        self._looks, self._has_looked, self._looked_at = True, False, 0.0

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Runs one callback, after waiting for it for ``timeout_sec`` s; None: for ever."""
        now = monotonic()
        if self._has_looked:
            self._looked_at, self._has_looked = now, False
        self._looks = now - self._looked_at >= LOOK_EVERY_S
        super().spin_once(timeout_sec)

    def can_execute(self, entity: Any) -> bool:
        """Whether rclpy may wait for ``entity`` now; asked for each of them before it waits."""
        if _is_seldom(entity):
            if not self._looks:
                return False
            self._has_looked = True
        return super().can_execute(entity)


def _is_seldom(entity: Any) -> bool:
    if isinstance(entity, Service):
        return entity.srv_type.__module__.startswith(OF_EVERY_NODE)
    return isinstance(entity, EventHandler)
