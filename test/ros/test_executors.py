"""Executors: polled groups, rare entities, pauses, and errors in callbacks."""

import time

import pytest
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.task import Future
from std_msgs.msg import Int64, String
from std_srvs.srv import Trigger

from jepa_arm.ros.runtime.compat import SubscriptionEventCallbacks
from jepa_arm.ros.runtime.executors import (
    MAX_PAUSE_S,
    MAX_QUEUE_DELAY_S,
    PollingExecutor,
    PollingGroup,
)
from jepa_arm.ros.runtime.qos import COMMAND_QOS, JOINT_STATES_QOS, SENSOR_QOS

pytestmark = pytest.mark.ros
TIMEOUT_S = 20.0
PERIOD_S, PHASE_S = 0.005, 0.002


class Spun:
    """A busy node (200 ticks a second) and the executor that spins it.

    Attributes:
        group: callback group of the subscriptions; None without polling.
        ticks: times of the ticks, s.
        tick: callback of each tick; must call its argument to take messages.
    """

    def __init__(self, is_polled):
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('busy', context=self._context)
        self._executor = PollingExecutor(self._context)
        self._executor.add_node(self.node)
        self.ticks, self.tick, self.group = [], lambda take: take(), None
        if is_polled:
            self.group = PollingGroup(PERIOD_S, PHASE_S, self._on_tick)
            self.subscribe(String, 'nothing', lambda _: None)
        else:
            self.node.create_timer(PERIOD_S, lambda: self._on_tick(lambda: None))

    def _on_tick(self, take):
        self.ticks.append(time.monotonic())
        self.tick(take)

    def subscribe(self, kind, topic, callback, qos=COMMAND_QOS, **options):
        options['callback_group'] = self.group
        return self.node.create_subscription(kind, topic, callback, qos, **options)

    def spin(self, condition):
        deadline = time.monotonic() + TIMEOUT_S
        while not (is_so := condition()) and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.1)
        return is_so

    def close(self):
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture(params=[False, True], ids=['waiting', 'polling'])
def spun(request):
    spun = Spun(request.param)
    yield spun
    spun.close()


@pytest.fixture
def polling():
    spun = Spun(is_polled=True)
    yield spun
    spun.close()


def test_busy_node_serves_rare_entities_without_delay(spun, harness):
    node, spin, ticks = spun.node, spun.spin, spun.ticks
    mismatches, later = [], Future()
    events = SubscriptionEventCallbacks(incompatible_qos=mismatches.append)
    spun.subscribe(String, 'best_effort', lambda _: None, event_callbacks=events)

    async def answer(request, response):
        response.message = await later
        return response

    meanwhile = ReentrantCallbackGroup()  # or nothing else runs until it has answered
    node.create_service(Trigger, '~/own', answer, callback_group=meanwhile)
    create = harness.node.create_client
    own = harness.execute(lambda: create(Trigger, 'busy/own'))
    parameters = harness.execute(lambda: create(GetParameters, 'busy/get_parameters'))
    harness.execute(lambda: harness.node.create_publisher(String, 'best_effort', SENSOR_QOS))
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
def test_error_in_a_callback_ends_spinning(spun, kind):
    def fail(*_):
        raise ValueError('on purpose')

    if kind == 'timer':
        spun.node.create_timer(0.01, lambda: fail())
    else:
        publisher = spun.node.create_publisher(String, 'spoken', COMMAND_QOS)
        spun.subscribe(String, 'spoken', fail)
        spun.node.create_timer(0.05, lambda: publisher.publish(String()))
    with pytest.raises(ValueError, match='on purpose'):
        spun.spin(lambda: False)


def test_poll_takes_kept_messages_in_order_and_missed_polls_are_skipped(polling):
    came, sent, depth = [], [], JOINT_STATES_QOS.depth
    publisher = polling.node.create_publisher(Int64, 'count', JOINT_STATES_QOS)
    polling.subscribe(
        Int64, 'count', lambda m: came.append((len(polling.ticks), m.data)), JOINT_STATES_QOS
    )

    def publish(count=1):
        for _ in range(count):
            sent.append(len(sent))
            publisher.publish(Int64(data=sent[-1]))

    assert polling.spin(lambda: publish() or came)
    came.clear()
    publish(4 * depth)
    time.sleep(40 * PERIOD_S)  # until all have arrived
    before = len(polling.ticks)
    assert polling.spin(lambda: came)
    polls, data = zip(*came, strict=True)
    assert set(polls) == {before + 1} and len(data) <= depth
    assert list(data) == sorted(data) and data[-1] == sent[-1]
    began = time.monotonic()
    polling.spin(lambda: time.monotonic() > began + 10 * PERIOD_S)
    assert len(polling.ticks) <= before + 13


def test_shorter_period_takes_effect_at_once(polling):
    assert polling.spin(lambda: len(polling.ticks) >= 2)
    polling.group.set_period(100 * PERIOD_S)
    before = len(polling.ticks)
    polling.spin(lambda: len(polling.ticks) > before)
    polling.group.set_period(PERIOD_S)
    before, began = len(polling.ticks), time.monotonic()
    assert polling.spin(lambda: len(polling.ticks) >= before + 3)
    assert time.monotonic() - began < 50 * PERIOD_S
    assert 0.0 <= polling.group.lateness < 50 * PERIOD_S


def test_pause_suspends_polling_for_a_limited_time(polling, harness):
    group, came = polling.group, []
    publisher = polling.node.create_publisher(Int64, 'count', COMMAND_QOS)
    polling.subscribe(Int64, 'count', lambda m: came.append(m.data), COMMAND_QOS)
    polling.node.create_service(Trigger, '~/own', lambda _, answer: answer)
    own = harness.execute(lambda: harness.node.create_client(Trigger, 'busy/own'))
    assert polling.spin(lambda: publisher.publish(Int64()) or (came and own.service_is_ready()))
    with group.pause():
        before, began = len(polling.ticks), time.monotonic()
        asked = own.call_async(Trigger.Request())
        publisher.publish(Int64(data=1))
        assert polling.spin(lambda: len(polling.ticks) > before or asked.done())
        assert time.monotonic() - began > 0.9 * MAX_PAUSE_S
        assert polling.spin(lambda: 1 in came and asked.done())
    with group.pause():
        assert group.is_paused
    assert not group.is_paused


def test_queue_delay_of_the_current_message_is_measured(polling):
    waited = []
    publisher = polling.node.create_publisher(Int64, 'count', COMMAND_QOS)
    polling.subscribe(
        Int64, 'count', lambda _: waited.append(polling.group.queue_delay), COMMAND_QOS
    )
    assert polling.spin(lambda: publisher.publish(Int64()) or waited)
    assert polling.spin(lambda: not waited.clear()) and not waited
    publisher.publish(Int64())
    time.sleep(0.1)
    assert polling.spin(lambda: waited)
    assert 0.05 < waited[0] <= MAX_QUEUE_DELAY_S


def test_phase_can_be_changed_and_restored(polling):
    period, phase = 20 * PERIOD_S, 7.3 * PERIOD_S
    for requested, expected in ((phase, phase), (None, PHASE_S)):
        polling.group.set_period(period, requested)
        due = time.monotonic() + polling.group.time_left()
        assert (due - expected) % period == pytest.approx(0.0, abs=2e-3) or (
            due - expected
        ) % period == pytest.approx(period, abs=2e-3)
        assert -1e-3 < polling.group.time_left() <= period
