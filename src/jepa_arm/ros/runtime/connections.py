"""Connection monitor: problems of a node's topics, for ``/diagnostics`` and the log.

Reports missing publishers, incompatible quality of service and, for topics between our own nodes
(``GUARD_STATUS_QOS``), missed deadlines and lost publishers. Deadlines and liveliness are not
requested from drivers, which rarely offer them: such a subscription would not connect. The age of
their messages is watched instead.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from time import monotonic
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible

from .compat import PublisherEventCallbacks, SubscriptionEventCallbacks

MISSING_LOG_DELAY_S = 3.0
"""Time before a missing publisher is logged; it may still be starting."""
DEADLINE_REPORT_S = 3.0
"""Time for which a missed deadline is reported."""


class ConnectionMonitor:
    """Monitor of the publishers and subscriptions that a node registers."""

    def __init__(self, node: Node) -> None:
        """Start without topics to monitor."""
        self._node = node
        self._required: list[str] = []
        self._mismatched: set[str] = set()
        self._missing_since: dict[str, float] = {}
        self._logged: set[str] = set()
        self._deadline_missed_at: dict[str, float] = {}
        self._lost: set[str] = set()

    def require(self, *topics: str) -> None:
        """Report a problem while one of ``topics`` has no publisher."""
        self._required += [self._node.resolve_topic_name(topic) for topic in topics]

    def subscription_events(self, topic: str) -> SubscriptionEventCallbacks:
        """Return the event callbacks for a subscription to ``topic``."""
        name = self._node.resolve_topic_name(topic)
        return SubscriptionEventCallbacks(
            incompatible_qos=partial(self._on_mismatch, name),
            deadline=partial(self._on_missed_deadline, name),
            liveliness=partial(self._on_liveliness, name),
        )

    def publisher_events(self, topic: str) -> PublisherEventCallbacks:
        """Return the event callbacks for a publisher of ``topic``."""
        name = self._node.resolve_topic_name(topic)
        return PublisherEventCallbacks(
            incompatible_qos=partial(self._on_mismatch, name),
            deadline=partial(self._on_missed_deadline, name),
        )

    def problems(self) -> list[str]:
        """Return one sentence per current problem; call it periodically."""
        missing = [name for name in self._required if not self._node.count_publishers(name)]
        self._log_missing(missing)
        problems = [f'{name}: nobody publishes it' for name in missing]
        problems += [
            f'{name}: its publisher was lost: did its process or network stop?'
            for name in sorted(self._lost - set(missing))
        ]
        problems += [
            f'{name}: no message within its deadline'
            for name, at in self._deadline_missed_at.items()
            if monotonic() - at < DEADLINE_REPORT_S
        ]
        for name in sorted(self._mismatched):
            found = self._mismatches(name)
            problems += found
            if not found:
                self._mismatched.discard(name)
        return problems

    def _log_missing(self, missing: list[str]) -> None:
        """Log each missing publisher once, and again when it appears."""
        now, logger = monotonic(), self._node.get_logger()
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        for name, since in self._missing_since.items():
            if name not in self._logged and now - since >= MISSING_LOG_DELAY_S:
                self._logged.add(name)
                logger.warning(
                    f'waiting for {name}: nobody publishes it; start its publisher, or remap it'
                )
        for name in sorted(self._logged - set(missing)):
            self._logged.discard(name)
            logger.info(f'{name} is published now')

    def _on_mismatch(self, name: str, event: object) -> None:
        self._mismatched.add(name)
        for problem in self._mismatches(name):
            self._node.get_logger().warning(problem)

    def _on_missed_deadline(self, name: str, event: object) -> None:
        self._deadline_missed_at[name] = monotonic()

    def _on_liveliness(self, name: str, event: Any) -> None:
        if event.alive_count:
            self._lost.discard(name)
        elif event.alive_count_change < 0:
            self._lost.add(name)

    def _mismatches(self, name: str) -> list[str]:
        """Return one sentence per remote endpoint with an incompatible quality of service.

        Profiles are compared as discovered: those given to rclpy leave the deadline unset, which
        means infinite but is not compared as such.
        """
        node, problems = self._node, []
        own = node.get_name(), node.get_namespace()
        publishers = node.get_publishers_info_by_topic(name)
        for pub, sub in product(publishers, node.get_subscriptions_info_by_topic(name)):
            if (pub.node_name, pub.node_namespace) == own:
                remote = f'at {sub.node_name}'
            elif (sub.node_name, sub.node_namespace) == own:
                remote = f'from {pub.node_name}'
            else:
                continue
            verdict, reason = qos_check_compatible(pub.qos_profile, sub.qos_profile)
            if verdict == QoSCompatibility.ERROR:  # 'ERROR: Best effort publisher and ...;'
                text = reason.replace('ERROR: ', '').strip('; ').replace(';', ', ')
                problems.append(
                    f'{name}: nothing arrives {remote} ({text}): change its quality of service'
                )
        return problems
