"""The graph client: services, goals and messages, with a timeout for every wait."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import rclpy
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.context import Context
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from jepa_arm.core.goals import PositionGoal
from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.runtime.node_contract import GraphError
from jepa_arm.ros.runtime.qos import STATUS_QOS

pytestmark = pytest.mark.ros


def test_what_is_made_while_messages_come_does_not_end_the_thread_that_spins(harness):
    """An action client that was made beside a busy spin ended it: nothing was heard any more."""
    publisher = harness.node.create_publisher(Empty, 'beat', STATUS_QOS)
    heard = harness.record(Empty, 'beat', STATUS_QOS)
    is_over = threading.Event()

    def beat():
        while not is_over.wait(0.001):
            publisher.publish(Empty())

    thread = threading.Thread(target=beat)
    thread.start()
    harness.wait(lambda: heard, 'a beat')
    for _ in range(100):
        client = harness.execute(lambda: ActionClient(harness.node, MoveToGoal, 'nowhere'))
        harness.execute(client.destroy)
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
        response = harness.call(Trigger, 'forgetful/first', retry_after=0.4)
    assert response.success and response.message != 'request 1'
    assert len(taken) >= 2


def test_a_service_that_never_answers_is_named_in_time(harness):
    with forgetful_server('forgetful/all', 1000) as taken:
        client = harness.execute(lambda: harness.node.create_client(Trigger, 'forgetful/all'))
        harness.wait(client.service_is_ready, 'the service')
        began = time.monotonic()
        with pytest.raises(GraphError, match='no answer from .*forgetful/all'):
            harness.call(Trigger, 'forgetful/all', timeout=1.5, retry_after=0.4)
        assert 1.4 < time.monotonic() - began < 5.5
    assert len(taken) >= 2


@contextmanager
def goal_server(harness, outcome, **result):
    """A server of ``move_to_goal`` that ends each goal with ``outcome`` once it is released."""
    is_released = threading.Event()

    def execute(handle):
        is_released.wait(10.0)
        handle.canceled() if handle.is_cancel_requested else handle.succeed()
        return MoveToGoal.Result(outcome=outcome, **result)

    def create():
        return ActionServer(
            harness.node,
            MoveToGoal,
            'move_to_goal',
            execute,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    server = harness.execute(create)
    try:
        yield is_released
    finally:
        is_released.set()
        harness.execute(server.destroy)


def test_a_goal_returns_its_outcome_by_name(harness):
    goal = PositionGoal('tip', np.array([0.5, 0.0, 0.1]))
    result = MoveToGoal.Result.UNREACHABLE
    with goal_server(harness, result, message='too far', final_distance=0.4) as is_released:
        is_released.set()
        with GraphClient('asker') as client:
            found = client.move_to(goal, tolerance=0.01)
    assert (found.outcome, found.succeeded) == ('UNREACHABLE', False)
    assert found.message == 'too far' and found.final_distance == 0.4


def test_a_goal_without_a_result_ends_the_wait_in_time(harness):
    goal = PositionGoal('object', np.array([0.5, 0.0, 0.025]))
    with goal_server(harness, MoveToGoal.Result.SUCCEEDED), GraphClient('asker') as client:
        sent = client.send_goal(goal)
        began = time.monotonic()
        with pytest.raises(GraphError):
            sent.result(timeout=0.5)
        assert time.monotonic() - began < 3.0 and not sent.is_done


def test_a_graph_that_is_not_there_is_named_by_what_is_missing():
    with pytest.raises(GraphError, match='guard/status.*move_to_goal'):
        GraphClient.connect('asker', 'nowhere', timeout=1.0)


def test_a_participant_that_discovers_no_action_is_replaced(harness, monkeypatch):
    monkeypatch.setattr('jepa_arm.ros.client.REJOIN_S', 1.5)
    joined, servers = [], []
    init = GraphClient.__init__

    def join(client, *args):
        init(client, *args)
        joined.append(client)
        if len(joined) == 2:
            servers.append(goal_server(harness, MoveToGoal.Result.SUCCEEDED))
            servers[0].__enter__()

    monkeypatch.setattr(GraphClient, '__init__', join)
    for kind, topic in (
        (GuardStatus, 'guard/status'),
        (PlannerStatus, 'planner/status'),
        (JointState, 'joint_states'),
    ):
        harness.execute(
            lambda kind=kind, topic=topic: harness.node.create_publisher(kind, topic, STATUS_QOS)
        )
    client = GraphClient.connect('asker', timeout=30.0)
    try:
        assert client is joined[-1] and len(joined) >= 2
    finally:
        client.close()
        servers[0].__exit__(None, None, None)


def test_an_exception_in_a_callback_is_raised_by_the_next_wait(harness):
    publisher = harness.execute(
        lambda: harness.node.create_publisher(Empty, 'trouble', STATUS_QOS)
    )
    with GraphClient('asker') as client:
        client.subscribe(Empty, 'trouble', lambda _: 1 / 0, STATUS_QOS)
        harness.wait(lambda: publisher.get_subscription_count() > 0, 'the subscription')
        publisher.publish(Empty())
        with pytest.raises(GraphError) as failure:
            client.wait(lambda: False, 'nothing', timeout=10.0)
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


def test_a_wait_is_ended_by_a_check_that_fails(harness):
    def check():
        raise GraphError('guard ended')

    with GraphClient('asker', check=check) as client:
        began = time.monotonic()
        with pytest.raises(GraphError, match='guard ended'):
            client.wait(lambda: False, 'nothing', timeout=10.0)
        assert time.monotonic() - began < 5.0


def test_a_malformed_namespace_is_rejected_and_leaves_no_context():
    with pytest.raises(GraphError):
        GraphClient('asker', '2nd')
    with GraphClient('asker', 'second') as client:
        assert client.node.get_namespace() == '/second'
