"""Who is at the other end of a node's topics, for ``/diagnostics`` and the log.

Told is that nobody publishes, that the two ends cannot agree on their quality of service, and,
where both ends are ours (``GUARD_STATUS``), that a deadline passed or a publisher lives no more.
From drivers neither is asked for, since a subscription that does is not connected to a publisher
that offers none, and they offer none; ages are watched instead.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from time import monotonic
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible

from .compat import PublisherEventCallbacks, SubscriptionEventCallbacks, TopicEndpointInfo

PATIENCE_S = 3.0
"""How long a publisher may be missing before the log says so: others may still be starting."""
TOLD_S = 3.0
"""How long a deadline that passed is told."""


class Connections:
    """The ends that a node has told it of."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._needed: list[str] = []
        self._mismatched: set[str] = set()
        self._missing: dict[str, float] = {}
        self._awaited: set[str] = set()
        self._passed: dict[str, float] = {}
        self._dead: set[str] = set()

    def need(self, *topics: str) -> None:
        """Without a publisher of each of these the node cannot do its work."""
        self._needed += [self._node.resolve_topic_name(topic) for topic in topics]

    def hear(self, topic: str) -> SubscriptionEventCallbacks:
        """For a subscription that is about to be made."""
        return SubscriptionEventCallbacks(
            incompatible_qos=self._noting(topic),
            deadline=self._noting_deadline(topic),
            liveliness=self._noting_life(topic),
        )

    def say(self, topic: str) -> PublisherEventCallbacks:
        """For a publisher that is about to be made."""
        return PublisherEventCallbacks(
            incompatible_qos=self._noting(topic), deadline=self._noting_deadline(topic)
        )

    def problems(self) -> list[str]:
        """What is wrong now, a sentence each; called again and again."""
        missing = [name for name in self._needed if not self._node.count_publishers(name)]
        self._log_waiting(missing)
        problems = [f'{name}: nobody publishes it' for name in missing]
        problems += [
            f'{name}: its publisher is not heard any more: did its process or network stop?'
            for name in sorted(self._dead - set(missing))
        ]
        problems += [
            f'{name}: nothing came within its deadline'
            for name, at in self._passed.items()
            if monotonic() - at < TOLD_S
        ]
        for name in sorted(self._mismatched):
            found = self._mismatches(name)
            problems += found
            if not found:
                self._mismatched.discard(name)
        return problems

    def _log_waiting(self, missing: list[str]) -> None:
        """Says once for whom the node waits, and when they are there."""
        now, logger = monotonic(), self._node.get_logger()
        self._missing = {name: self._missing.get(name, now) for name in missing}
        for name, since in self._missing.items():
            if name not in self._awaited and now - since >= PATIENCE_S:
                self._awaited.add(name)
                logger.warning(f'waits for {name}: nobody publishes it; start that, or remap')
        for name in sorted(self._awaited - set(missing)):
            self._awaited.discard(name)
            logger.info(f'{name} is published now')

    def _noting(self, topic: str) -> Callable[[object], None]:
        name = self._node.resolve_topic_name(topic)

        def note(event: object) -> None:
            self._mismatched.add(name)
            for problem in self._mismatches(name):
                self._node.get_logger().warning(problem)

        return note

    def _noting_deadline(self, topic: str) -> Callable[[object], None]:
        name = self._node.resolve_topic_name(topic)

        def note(event: object) -> None:
            self._passed[name] = monotonic()

        return note

    def _noting_life(self, topic: str) -> Callable[[Any], None]:
        name = self._node.resolve_topic_name(topic)

        def note(event: Any) -> None:
            if event.alive_count:
                self._dead.discard(name)
            elif event.alive_count_change < 0:
                self._dead.add(name)

        return note

    def _mismatches(self, name: str) -> list[str]:
        """A sentence for each end of another node with which one of this node's has no connection.

        Profiles as discovered: one that was given to rclpy has no deadline, where these have an
        infinite one, which is no match.
        """
        publishers = self._node.get_publishers_info_by_topic(name)
        subscriptions = self._node.get_subscriptions_info_by_topic(name)
        problems = []
        for publisher, subscription in product(publishers, subscriptions):
            mine = [self._is_mine(end) for end in (publisher, subscription)]
            profiles = publisher.qos_profile, subscription.qos_profile
            verdict, reason = qos_check_compatible(*profiles)
            if any(mine) and verdict == QoSCompatibility.ERROR:
                where = (
                    f'at {subscription.node_name}' if mine[0] else f'from {publisher.node_name}'
                )
                problems.append(_sentence(name, where, reason))
        return problems

    def _is_mine(self, end: TopicEndpointInfo) -> bool:
        node = self._node
        return (end.node_name, end.node_namespace) == (node.get_name(), node.get_namespace())


def _sentence(name: str, where: str, reason: str) -> str:
    """``reason`` is rmw's: 'ERROR: Best effort publisher and reliable subscription;'."""
    text = reason.replace('ERROR: ', '').strip('; ').replace(';', ', ')
    return f'{name}: nothing arrives {where} ({text}): change its quality of service'
