"""Duplicate-node check: refuse to publish on topics that another node already publishes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic

from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node

from jepa_arm.config import ConfigError

from .node_contract import DISCOVERY_LEASE_S
from .qos import SENSOR_QOS

LISTEN_S = 1.5
"""Time without another publisher after which the node starts; on a busy machine discovery took
0.8 s, rarely more than 1 s."""
RECHECK_S = 5.0
"""Time after its start during which the node still yields to another of the same name: discovery
repeats a lost datagram after 3 s, and two nodes may start at the same time."""
CHECK_PERIOD_S = 0.05
UNKNOWN = 'UNKNOWN'
"""Part of the placeholder name that rmw reports for a node that is only partly discovered."""


class DuplicateNodeCheck:
    """Check for other publishers of a node's exclusive topics.

    If another publisher sends messages, the node ends. It waits for a silent one to disappear: a
    killed node stays listed for up to ``DISCOVERY_LEASE_S``.
    """

    def __init__(self, node: Node, topics: Mapping[str, type], begin: Callable[[], None]) -> None:
        """Start the check, which runs while ``node`` is spun.

        The executor of the node raises a ConfigError if another publisher exists.

        Args:
            node: node that does not publish any of the topics yet.
            topics: message type by topic.
            begin: creates the publishers; called once, after ``LISTEN_S`` without others.
        """
        self._node, self._begin, self._began = node, begin, monotonic()
        self._publishers = node.get_publishers_info_by_topic
        self._names = [node.resolve_topic_name(topic) for topic in topics]
        self._listeners = [
            node.create_subscription(kind, topic, partial(self._refuse, name), SENSOR_QOS)
            for (topic, kind), name in zip(topics.items(), self._names, strict=True)
        ]
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._has_begun = self._has_logged = False
        self._timer = node.create_timer(CHECK_PERIOD_S, self._check, clock=clock)

    def _check(self) -> None:
        if self._has_begun:
            self._check_after_start()
        else:
            self._check_before_start()

    def _check_before_start(self) -> None:
        listed = [name for name in self._names if self._publishers(name)]
        passed = monotonic() - self._began
        if passed < LISTEN_S:
            return
        if not listed:
            for listener in self._listeners:
                self._node.destroy_subscription(listener)
            self._has_begun, self._began = True, monotonic()
            self._begin()
        elif passed > DISCOVERY_LEASE_S:
            self._refuse(listed[0])
        elif not self._has_logged:
            self._has_logged = True
            self._node.get_logger().info(
                f'waiting up to {DISCOVERY_LEASE_S:.0f} s: {listed[0]} has a silent publisher; '
                'it may have died'
            )

    def _check_after_start(self) -> None:
        own = self._node.get_name()
        for name in self._names:
            if sum(info.node_name == own for info in self._publishers(name)) > 1:
                self._refuse(name)
        if monotonic() - self._began > RECHECK_S:
            self._timer.cancel()
            self._node.destroy_timer(self._timer)

    def _refuse(self, name: str, msg: object = None) -> None:
        """Raise a ConfigError that names the other publishers of topic ``name``."""
        known = [i for i in self._publishers(name) if UNKNOWN not in i.node_name]
        nodes = sorted({f'{i.node_namespace.rstrip("/")}/{i.node_name}' for i in known})
        raise ConfigError(
            f'expected to be the only publisher of {name}, but {" and ".join(nodes) or "another"} '
            f'publishes on ROS domain {os.environ.get("ROS_DOMAIN_ID", "0")}: is another graph '
            'running? End it, or choose another namespace (namespace:=..., which has its own '
            'clock) or ROS_DOMAIN_ID'
        )
