"""What runs the nodes leaves nothing out, whatever it looks at seldom."""

import time

import pytest
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.task import Future
from std_msgs.msg import Int64, String
from std_srvs.srv import Trigger

from jepa_arm.nodes.compat import SubscriptionEventCallbacks
from jepa_arm.nodes.executors import LONGEST_REST_S, LONGEST_WAIT_S, Beat, SparingExecutor
from jepa_arm.nodes.parameters import COMMAND, JOINTS, SENSOR

pytestmark = pytest.mark.ros
TIMEOUT_S = 20.0
PERIOD_S, PHASE_S = 0.005, 0.002


class Spun:
    """A busy node (200 ticks a second), and what spins it.

    Attributes:
        group: of subscriptions, that of the beat if there is one.
        ticks: when there was one, s. tick: done then, with what takes messages.
    """

    def __init__(self, has_beat):
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('busy', context=self._context)
        self._executor = SparingExecutor(self._context)
        self._executor.add_node(self.node)
        self.ticks, self.tick, self.group = [], lambda take: take(), None
        if has_beat:
            self.group = Beat(PERIOD_S, PHASE_S, self._on_tick)
            self.subscribe(String, 'nothing', lambda _: None)
        else:
            self.node.create_timer(PERIOD_S, lambda: self._on_tick(lambda: None))

    def _on_tick(self, take):
        self.ticks.append(time.monotonic())
        self.tick(take)

    def subscribe(self, kind, topic, callback, qos=COMMAND, **options):
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


@pytest.fixture(params=[False, True], ids=['waiting', 'beating'])
def spun(request):
    spun = Spun(request.param)
    yield spun
    spun.close()


@pytest.fixture
def beating():
    spun = Spun(has_beat=True)
    yield spun
    spun.close()


def test_a_busy_node_answers_and_hears_of_events_at_once(spun, harness):
    node, spin, ticks = spun.node, spun.spin, spun.ticks
    mismatches, later = [], Future()
    events = SubscriptionEventCallbacks(incompatible_qos=mismatches.append)
    spun.subscribe(String, 'best_effort', lambda _: None, event_callbacks=events)

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
    def fail(*_):
        raise ValueError('on purpose')

    if kind == 'timer':
        spun.node.create_timer(0.01, lambda: fail())
    else:
        publisher = spun.node.create_publisher(String, 'spoken', COMMAND)
        spun.subscribe(String, 'spoken', fail)
        spun.node.create_timer(0.05, lambda: publisher.publish(String()))
    with pytest.raises(ValueError, match='on purpose'):
        spun.spin(lambda: False)


def test_at_a_beat_what_was_kept_comes_in_order_and_missed_beats_are_left_out(beating):
    came, sent, depth = [], [], JOINTS.depth
    publisher = beating.node.create_publisher(Int64, 'count', JOINTS)
    beating.subscribe(Int64, 'count', lambda m: came.append((len(beating.ticks), m.data)), JOINTS)

    def say(count=1):
        for _ in range(count):
            sent.append(len(sent))
            publisher.publish(Int64(data=sent[-1]))

    assert beating.spin(lambda: say() or came)
    came.clear()
    say(4 * depth)
    time.sleep(40 * PERIOD_S)  # they have come to this process
    before = len(beating.ticks)
    assert beating.spin(lambda: came)
    beats, data = zip(*came, strict=True)
    assert set(beats) == {before + 1} and len(data) <= depth
    assert list(data) == sorted(data) and data[-1] == sent[-1]
    began = time.monotonic()
    beating.spin(lambda: time.monotonic() > began + 10 * PERIOD_S)
    assert len(beating.ticks) <= before + 13


def test_a_slow_beat_that_is_paced_up_does_not_wait_for_its_old_turn(beating):
    assert beating.spin(lambda: len(beating.ticks) >= 2)
    beating.group.pace(100 * PERIOD_S)
    before = len(beating.ticks)
    beating.spin(lambda: len(beating.ticks) > before)
    beating.group.pace(PERIOD_S)
    before, began = len(beating.ticks), time.monotonic()
    assert beating.spin(lambda: len(beating.ticks) >= before + 3)
    assert time.monotonic() - began < 50 * PERIOD_S
    assert 0.0 <= beating.group.late < 50 * PERIOD_S


def test_while_another_thread_is_in_a_hurry_all_else_waits_but_not_for_long(beating, harness):
    beat, came = beating.group, []
    publisher = beating.node.create_publisher(Int64, 'count', COMMAND)
    beating.subscribe(Int64, 'count', lambda m: came.append(m.data), COMMAND)
    beating.node.create_service(Trigger, '~/own', lambda _, answer: answer)
    own = harness.make(lambda: harness.node.create_client(Trigger, 'busy/own'))
    assert beating.spin(lambda: publisher.publish(Int64()) or (came and own.service_is_ready()))
    with beat.rest():
        before, began = len(beating.ticks), time.monotonic()
        asked = own.call_async(Trigger.Request())
        publisher.publish(Int64(data=1))
        assert beating.spin(lambda: len(beating.ticks) > before or asked.done())
        assert time.monotonic() - began > 0.9 * LONGEST_REST_S
        assert beating.spin(lambda: 1 in came and asked.done())
    with beat.rest():
        assert beat.rests
    assert not beat.rests


def test_how_long_a_message_waited_is_told_with_it(beating):
    waited = []
    publisher = beating.node.create_publisher(Int64, 'count', COMMAND)
    beating.subscribe(Int64, 'count', lambda _: waited.append(beating.group.waited), COMMAND)
    assert beating.spin(lambda: publisher.publish(Int64()) or waited)
    assert beating.spin(lambda: not waited.clear()) and not waited
    publisher.publish(Int64())
    time.sleep(0.1)
    assert beating.spin(lambda: waited)
    assert 0.05 < waited[0] <= LONGEST_WAIT_S


def test_a_beat_can_be_put_in_step_with_something_else(beating):
    period, phase = 20 * PERIOD_S, 7.3 * PERIOD_S
    for told, expected in ((phase, phase), (None, PHASE_S)):
        beating.group.pace(period, told)
        due = time.monotonic() + beating.group.time_left()
        assert (due - expected) % period == pytest.approx(0.0, abs=2e-3) or (
            due - expected
        ) % period == pytest.approx(period, abs=2e-3)
        assert -1e-3 < beating.group.time_left() <= period
