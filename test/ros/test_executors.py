"""What runs the nodes leaves nothing out, whatever it looks at seldom."""

import time

import pytest
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from jepa_arm.nodes.executors import SparingExecutor, light_executor
from jepa_arm.nodes.parameters import COMMAND, SENSOR

pytestmark = pytest.mark.ros
TIMEOUT_S = 20.0


@pytest.fixture(params=[SparingExecutor, light_executor], ids=['sparing', 'light'])
def spun(request):
    """A busy node (200 ticks a second), what spins it, and how often it ticked."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('busy', context=context)
    executor = request.param(context)
    executor.add_node(node)
    ticks = []
    node.create_timer(0.005, lambda: ticks.append(1))

    def spin(condition):
        deadline = time.monotonic() + TIMEOUT_S
        while not (is_so := condition()) and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        return is_so

    yield node, spin, ticks
    executor.shutdown(timeout_sec=1.0)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_busy_node_answers_and_hears_of_events_at_once(spun, harness):
    node, spin, ticks = spun
    mismatches, later = [], Future()
    events = SubscriptionEventCallbacks(incompatible_qos=mismatches.append)
    node.create_subscription(String, 'best_effort', print, COMMAND, event_callbacks=events)

    async def answer(request, response):
        response.message = await later
        return response

    meanwhile = ReentrantCallbackGroup()  # else nothing goes on until it has answered
    node.create_service(Trigger, '~/own', answer, callback_group=meanwhile)
    create = harness.node.create_client
    own = harness.make(lambda: create(Trigger, 'busy/own'))
    parameters = harness.make(lambda: create(GetParameters, 'busy/get_parameters'))
    harness.make(lambda: harness.node.create_publisher(String, 'best_effort', SENSOR))
    assert spin(lambda: own.service_is_ready() and parameters.service_is_ready() and mismatches)
    asked = own.call_async(Trigger.Request())
    before = len(ticks)
    names = GetParameters.Request(names=['use_sim_time'])
    answered = parameters.call_async(names)
    assert spin(answered.done) and answered.result().values
    assert len(ticks) - before < 100 and not asked.done()
    later.set_result('done')
    assert spin(asked.done) and asked.result().message == 'done'


@pytest.mark.parametrize('kind', ['timer', 'subscription'])
def test_what_a_callback_raises_ends_the_spinning(spun, kind):
    node, spin, _ = spun

    def fail(*_):
        raise ValueError('on purpose')

    if kind == 'timer':
        node.create_timer(0.01, lambda: fail())
    else:
        publisher = node.create_publisher(String, 'spoken', COMMAND)
        node.create_subscription(String, 'spoken', fail, COMMAND)
        node.create_timer(0.05, lambda: publisher.publish(String()))
    with pytest.raises(ValueError, match='on purpose'):
        spin(lambda: False)
