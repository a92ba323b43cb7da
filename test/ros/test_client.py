"""The client that tests and the fault table look at the graph with."""

import threading
import time
from contextlib import contextmanager

import pytest
import rclpy
from jepa_arm_msgs.action import MoveToGoal
from rclpy.action import ActionClient
from rclpy.context import Context
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from jepa_arm.nodes.graph import GraphError
from jepa_arm.nodes.parameters import STATUS

pytestmark = pytest.mark.ros


def test_what_is_made_while_messages_come_does_not_end_the_thread_that_spins(harness):
    """An action client that was made beside a busy spin ended it: nothing was heard any more."""
    publisher = harness.node.create_publisher(Empty, 'beat', STATUS)
    heard = harness.record(Empty, 'beat', STATUS)
    is_over = threading.Event()

    def beat():
        while not is_over.wait(0.001):
            publisher.publish(Empty())

    thread = threading.Thread(target=beat)
    thread.start()
    harness.wait(lambda: heard, 'a beat')
    for _ in range(100):
        client = harness.make(lambda: ActionClient(harness.node, MoveToGoal, 'nowhere'))
        harness.make(client.destroy)
    count = len(heard)
    harness.wait(lambda: len(heard) > count + 10, 'beats afterwards')
    is_over.set()
    thread.join()


@contextmanager
def forgetful_server(name, forgets):
    """A server whose first ``forgets`` responses are never sent; the requests that it took.

    So does rmw_fastrtps with the response to a client that the server has not discovered yet.
    """
    taken, is_over, context = [], threading.Event(), Context()
    rclpy.init(context=context)
    node = rclpy.create_node('forgetful', context=context)
    service = node.create_service(Trigger, name, lambda request, response: response)

    def serve():
        while not is_over.wait(0.005):
            request, header = service.handle.service_take_request(Trigger.Request)
            if request is None:
                continue
            taken.append(time.monotonic())
            if len(taken) > forgets:
                response = Trigger.Response(success=True, message=f'request {len(taken)}')
                service.send_response(response, header)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield taken
    finally:
        is_over.set()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_request_whose_response_is_lost_is_asked_again(harness):
    with forgetful_server('forgetful/first', 1) as taken:
        response = harness.call(Trigger, 'forgetful/first', ask_again=0.4)
    assert response.success and response.message == 'request 2'
    assert len(taken) == 2


def test_a_service_that_never_answers_is_named_in_time(harness):
    with forgetful_server('forgetful/all', 1000) as taken:
        client = harness.make(lambda: harness.node.create_client(Trigger, 'forgetful/all'))
        harness.wait(client.service_is_ready, 'the service')
        began = time.monotonic()
        with pytest.raises(GraphError, match='no answer from .*forgetful/all'):
            harness.call(Trigger, 'forgetful/all', timeout=4.0, ask_again=0.4)
        assert 3.9 < time.monotonic() - began < 8.0
    assert len(taken) >= 2
