"""The client that tests and the fault table look at the graph with."""

import threading

import pytest
from jepa_arm_msgs.action import MoveToGoal
from rclpy.action import ActionClient
from std_msgs.msg import Empty

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
