"""What differs between ROS 2 distributions, and what rclpy has no public name for.

The other modules reach both through here. ``environment`` alone knows differences of its own: of
variables that must be set before rclpy is imported. From the sources of rclpy 3.3 (Humble), 7.1
(Jazzy), 9.1 (Kilted) and of Rolling in 2026, of which Lyrical is a branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.client import Client
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.subscription import Subscription

if TYPE_CHECKING:
    from rclpy.event_handler import (
        EventHandler,
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
    )
    from rclpy.topic_endpoint_info import TopicEndpointInfo
else:
    try:  # Jazzy, Kilted, Lyrical
        from rclpy.event_handler import (
            EventHandler,
            PublisherEventCallbacks,
            SubscriptionEventCallbacks,
        )
    except ModuleNotFoundError:  # Humble
        from rclpy.qos_event import (
            PublisherEventCallbacks,
            SubscriptionEventCallbacks,
        )
        from rclpy.qos_event import QoSEventHandler as EventHandler
    try:  # Lyrical
        from rclpy.endpoint_info import TopicEndpointInfo
    except ModuleNotFoundError:  # Humble, Jazzy, Kilted
        from rclpy.topic_endpoint_info import TopicEndpointInfo

__all__ = [
    'EventHandler',
    'PublisherEventCallbacks',
    'SubscriptionEventCallbacks',
    'TopicEndpointInfo',
    'count_clients',
    'declared_parameters',
    'given_parameters',
    'has_simulated_time',
    'refusing_what_cannot_be',
    'service_name',
    'state_name',
    'take',
]


def count_clients(node: Node, service: str) -> int:
    """Clients of a service; on Humble, which does not count them, 0."""
    return node.count_clients(service) if hasattr(node, 'count_clients') else 0


def service_name(client: Client) -> str:
    """Name of the service that ``client`` asks; on Humble as it was given, else as resolved."""
    return client.service_name if hasattr(client, 'service_name') else client.srv_name


def given_parameters(node: Node) -> set[str]:
    """Names that the command line or a file gives: of all distributions none makes them public."""
    return set(node._parameter_overrides)


def declared_parameters(node: Node) -> set[str]:
    """Names; ``Node.list_parameters`` is missing on Humble."""
    return set(node.get_parameters_by_prefix(''))


def has_simulated_time(node: Node) -> bool:
    """Whether its clock follows ``/clock``; its type in rclpy does not say that it can tell."""
    clock: Any = node.get_clock()
    return clock.ros_time_is_active


def state_name(node: LifecycleNodeMixin) -> str:
    """State of the lifecycle, such as 'inactive': public in rclcpp alone."""
    return node._state_machine.current_state[1]


def refusing_what_cannot_be(change: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A callback of ``change_state`` that refuses a transition which the state does not have.

    rclpy's own does so on Kilted and Lyrical; on Humble and Jazzy it raises, which ends the node.
    """

    def change_if_possible(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except rclpy_implementation.RCLError:
            response.success = False
            return response

    return change_if_possible


def take(subscription: Subscription) -> tuple[Any, Any] | None:
    """The next message that waits and what is known of it; None without one.

    As rclpy's executors take it; the method of the handle is the same in all distributions.

    Raises:
        InvalidHandle: the subscription was destroyed.
    """
    with subscription.handle:
        return subscription.handle.take_message(subscription.msg_type, subscription.raw)
