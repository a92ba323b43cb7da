"""A node that listens to the graph from outside, spun by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, TypeVar, cast

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.task import Future

from .compat import service_name
from .graph import GraphError

T = TypeVar('T')
Log = list[tuple[float, Any]]

ANSWER_S = 20.0
"""Longest wait for a service."""
ASK_AGAIN_S = 3.0
POLL_S = 0.005
SPIN_S = 0.1


def ask(
    client: Client,
    request: Any,
    wait: Callable[[Callable[[], bool], float], bool],
    timeout: float = ANSWER_S,
    ask_again: float = ASK_AGAIN_S,
) -> Any:
    """The response of a service, asked again while none comes.

    A server that has not discovered all of a new client yet drops its response (rmw_fastrtps
    waits 0.1 s for it), though the client sees the server. A request may thus be served twice.

    Args:
        client, request: what is asked.
        wait: waits until a condition is true, for so many s at most; whether it is.
        timeout: s in all. ask_again: s after which the request is sent again.

    Raises:
        GraphError: no response in time.
    """
    deadline, asked = monotonic() + timeout, list[Future]()
    while (left := deadline - monotonic()) > 0.0:
        asked.append(client.call_async(request))
        if wait(lambda: any(future.done() for future in asked), min(left, ask_again)):
            return next(future for future in asked if future.done()).result()
    raise GraphError(f'no answer from {service_name(client)} for {timeout:.0f} s')


class GraphClient:
    """Records topics by arrival, publishes, and calls services; in a context of its own.

    Attributes:
        node: for what else is to be made, such as action clients.
    """

    def __init__(self, name: str) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._clients: dict[str, Client] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends thread, node and context."""
        self._is_ending.set()
        self._thread.join(5.0)
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def make(self, create: Callable[[], T]) -> T:
        """What ``create`` returns, called by the thread that spins.

        rclpy puts an action client on its node before it is whole; a spin that meets it then ends
        with an exception.
        """
        if threading.current_thread() is self._thread:
            return create()
        future = self._executor.create_task(create)
        self.wait(future.done, 'the thread that spins')
        return cast(T, future.result())

    def record(self, kind: type, topic: str, qos: QoSProfile) -> Log:
        """The list to which (monotonic s, message) of each message are appended."""
        log: Log = []
        self.make(
            lambda: self.node.create_subscription(
                kind, topic, lambda msg: log.append((monotonic(), msg)), qos
            )
        )
        return log

    def publisher(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        """A publisher that has found at least one subscription."""
        publisher = self.make(lambda: self.node.create_publisher(kind, topic, qos))
        self.wait(lambda: publisher.get_subscription_count() > 0, f'subscription of {topic}')
        return publisher

    def wait(self, condition: Callable[[], T], what: str, timeout: float = ANSWER_S) -> T:
        """Waits until ``condition`` returns something true, and returns it.

        Raises:
            GraphError: not within ``timeout`` s.
        """
        value = self._comes(condition, timeout)
        if value:
            return value
        raise GraphError(f'{what}: not within {timeout:.0f} s')

    def call(
        self,
        kind: Any,
        name: str,
        request: Any = None,
        timeout: float = ANSWER_S,
        ask_again: float = ASK_AGAIN_S,
    ) -> Any:
        """The response of a service; see ``ask``.

        Raises:
            GraphError: it is not there, or does not answer.
        """
        if name not in self._clients:
            self._clients[name] = self.make(lambda: self.node.create_client(kind, name))
        client = self._clients[name]
        if not client.wait_for_service(timeout):
            raise GraphError(f'no service {name}')
        request = kind.Request() if request is None else request
        return ask(client, request, self._comes, timeout, ask_again)

    def _comes(self, condition: Callable[[], T], timeout: float) -> T:
        deadline = monotonic() + timeout
        while not (value := condition()) and monotonic() < deadline:
            sleep(POLL_S)
        return value

    def _spin(self) -> None:
        while not self._is_ending.is_set():
            self._executor.spin_once(timeout_sec=SPIN_S)
