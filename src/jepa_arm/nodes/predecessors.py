"""Whether others publish already what a node is about to publish, and it must be the only one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic

from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node

from ..config import ConfigError
from .compat import TopicEndpointInfo
from .graph import LEASE_S
from .parameters import SENSOR

LISTEN_S = 1.5
"""Without another publisher before the node begins; on a busy machine one was found in 0.8 s,
seldom later than 1 s."""
YOUNG_S = 5.0
"""How long a node that has begun still yields to one of its name: a lost datagram of discovery is
repeated after 3 s, and two may start at once."""
LOOK_EVERY_S = 0.05
UNKNOWN = 'UNKNOWN'
"""Part of the name that rmw gives a node of which it knows a topic already, but no more."""


class Predecessors:
    """Other publishers: one that is heard ends the node, one that is silent is waited for.

    A node that was killed is listed for a while, ``LEASE_S`` at most, and says nothing.
    """

    def __init__(self, node: Node, topics: Mapping[str, type], begin: Callable[[], None]) -> None:
        """Looks around from now on, while the node is spun.

        The node's executor raises a ConfigError where another publisher is there.

        Args:
            node: that publishes none of the topics yet.
            topics: type of message by topic.
            begin: makes the publishers; called once, when others were absent for ``LISTEN_S``.
        """
        self._node, self._begin, self._began = node, begin, monotonic()
        self._names = [node.resolve_topic_name(topic) for topic in topics]
        self._listeners = [
            node.create_subscription(kind, topic, partial(self._on_other, name), SENSOR)
            for (topic, kind), name in zip(topics.items(), self._names, strict=True)
        ]
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._look: Callable[[], None] = self._look_before
        self._timer = node.create_timer(LOOK_EVERY_S, lambda: self._look(), clock=clock)
        self._has_said = False

    def _look_before(self) -> None:
        listed = [name for name in self._names if self._publishers(name)]
        passed = monotonic() - self._began
        if passed < LISTEN_S:
            return
        if not listed:
            for listener in self._listeners:
                self._node.destroy_subscription(listener)
            self._look, self._began = self._look_after, monotonic()
            self._begin()
        elif passed > LEASE_S:
            self._refuse(listed[0])
        elif not self._has_said:
            self._has_said = True
            self._node.get_logger().info(
                f'waits for up to {LEASE_S:.0f} s: {listed[0]} has a publisher, which is silent; '
                'it may have died'
            )

    def _look_after(self) -> None:
        own = self._node.get_name()
        for name in self._names:
            if sum(info.node_name == own for info in self._publishers(name)) > 1:
                self._refuse(name)
        if monotonic() - self._began > YOUNG_S:
            self._timer.cancel()
            self._node.destroy_timer(self._timer)

    def _publishers(self, name: str) -> list[TopicEndpointInfo]:
        return self._node.get_publishers_info_by_topic(name)

    def _on_other(self, name: str, msg: object) -> None:
        self._refuse(name)

    def _refuse(self, name: str) -> None:
        known = [i for i in self._publishers(name) if UNKNOWN not in i.node_name]
        who = sorted({f'{i.node_namespace.rstrip("/")}/{i.node_name}' for i in known})
        raise ConfigError(
            f'expected to be the only publisher of {name}, which {" and ".join(who) or "another"} '
            f'publishes on ROS domain {os.environ.get("ROS_DOMAIN_ID", "0")}: is another graph '
            'up? End it, or choose another namespace (namespace:=..., which has a clock of its '
            'own) or ROS_DOMAIN_ID'
        )
