"""Compatibility: differences between ROS 2 distributions, and private names of rclpy.

Written from the sources of rclpy 3.3 (Humble), 7.1 (Jazzy), 9.1 (Kilted) and of Rolling in 2026,
from which Lyrical branches. Differences in environment variables are in ``environment``, which
must run before rclpy is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.client import Client
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.subscription import Subscription

try:  # Jazzy, Kilted, Lyrical
    from rclpy.event_handler import EventHandler as EventHandler
    from rclpy.event_handler import PublisherEventCallbacks as PublisherEventCallbacks
    from rclpy.event_handler import SubscriptionEventCallbacks as SubscriptionEventCallbacks
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks as PublisherEventCallbacks
    from rclpy.qos_event import SubscriptionEventCallbacks as SubscriptionEventCallbacks


def count_clients(node: Node, service: str) -> int:
    """Return the number of clients of a service; 0 on Humble, which cannot count them."""
    return node.count_clients(service) if hasattr(node, 'count_clients') else 0


def service_name(client: Client) -> str:
    """Return the service name of ``client``: resolved, except on Humble."""
    return client.service_name if hasattr(client, 'service_name') else client.srv_name


def parameter_overrides(node: Node) -> set[str]:
    """Return the names of the parameters given by command line and files (private in rclpy)."""
    return set(node._parameter_overrides)


def declared_parameters(node: Node) -> set[str]:
    """Return the names of the declared parameters; Humble lacks ``Node.list_parameters``."""
    return set(node.get_parameters_by_prefix(''))


def uses_sim_time(node: Node) -> bool:
    """Return whether the clock of ``node`` follows ``/clock`` (missing in rclpy's type hints)."""
    clock: Any = node.get_clock()
    return clock.ros_time_is_active


def lifecycle_state(node: LifecycleNodeMixin) -> str:
    """Return the lifecycle state of ``node``, such as 'inactive' (private in rclpy)."""
    return node._state_machine.current_state[1]


def change_state_if_valid(change: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
    """Answer a ``change_state`` request with ``change``; refuse transitions invalid in this state.

    On Kilted and Lyrical rclpy refuses them; on Humble and Jazzy it raises, which ends the node.
    """
    try:
        return change(request, response)
    except rclpy_implementation.RCLError:
        response.success = False
        return response


def take(subscription: Subscription) -> tuple[Any, Any] | None:
    """Take the next waiting message, as rclpy's executors do; None if there is none.

    Returns:
        The message and its metadata.

    Raises:
        InvalidHandle: the subscription was destroyed.
    """
    with subscription.handle:
        return subscription.handle.take_message(subscription.msg_type, subscription.raw)
