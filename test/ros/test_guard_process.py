"""The guard's process: its start, its clocks, its memory and its end."""

import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from guard_bench import COMMANDS, EVERY, Bench, assert_smooth, run_guard
from jepa_arm_msgs.msg import GuardStatus
from rclpy.context import Context
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.ros.guard.watchdogs import CompetingPublishers
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING
from jepa_arm.ros.runtime.process import resident_mb, tolerate_invalid_requests
from jepa_arm.ros.runtime.qos import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS, STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def bench(harness, arm):
    return Bench(harness, arm)


def test_diagnostics_name_incompatible_and_missing_endpoints(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS_QOS)
    node = bench.harness.node

    def says(*words):
        return log and all(word in log[-1][1].status[0].message for word in words)

    bench.harness.wait(lambda: says('ok'), 'health')
    mine = bench.harness.execute(
        lambda: (
            node.create_publisher(JointTrajectory, 'planner/joint_trajectory', SENSOR_QOS),
            node.create_subscription(JointTrajectory, COMMANDS, lambda _: None, LATCHED_QOS),
        )
    )
    bench.harness.wait(lambda: says('from tester', 'Best effort', 'at tester', 'ransient'), 'both')
    bench.harness.execute(
        lambda: (node.destroy_publisher(mine[0]), node.destroy_subscription(mine[1]))
    )
    bench.harness.wait(lambda: says('ok'), 'health again')
    bench.robot.close()
    bench.harness.execute(lambda: node.destroy_publisher(bench.robot._publisher))
    bench.harness.wait(lambda: says('joint_states: nobody publishes it'), 'loneliness')


def test_competing_publishers_are_counted_on_a_remapped_topic(harness):
    context = Context()
    remapped = ['--ros-args', '-r', 'commands:=arm_controller/commands']
    rclpy.init(args=remapped, context=context)
    node = rclpy.create_node('like_a_guard', context=context)
    try:
        node.create_publisher(JointTrajectory, 'commands', COMMAND_QOS)
        others = CompetingPublishers(node, JointTrajectory, 'commands')
        harness.wait(lambda: node.count_publishers(others.topic) == 1, 'its own publisher')
        assert others.count() == 0
        other = ('arm_controller/commands', COMMAND_QOS)
        harness.execute(lambda: harness.node.create_publisher(JointTrajectory, *other))
        harness.wait(lambda: others.count() == 1, 'the other publisher')
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_negative_time_on_a_remapped_clock_is_ignored():
    context = Context()
    rclpy.init(args=['--ros-args', '-r', '/clock:=/left/clock'], context=context)
    node = rclpy.create_node(
        'with_a_clock',
        context=context,
        parameter_overrides=[Parameter('use_sim_time', value=True)],
    )
    try:
        tolerate_invalid_requests(node)
        [clock] = [s for s in node.subscriptions if s.topic_name == '/left/clock']
        clock.callback(Clock(clock=Time(sec=3)))
        clock.callback(Clock(clock=Time(sec=-1)))
        assert node.get_clock().now().nanoseconds == 3 * convert.NANOSECONDS
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_large_messages_leave_no_memory_behind(harness):
    """Fast DDS kept the memory of the largest message of a topic, glibc much of what was freed."""
    guard = harness.start('guard').processes['guard']
    publisher = harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
    point = JointTrajectoryPoint(positions=array('d', bytes(16_000_000)))
    status = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
    before = resident_mb(guard.pid)
    for i in range(4):
        publisher.publish(JointTrajectory(joint_names=['a'], points=[point]))
        harness.wait(lambda i=i: status and status[-1][1].rejected > i, 'refusal')
    harness.wait(lambda: resident_mb(guard.pid) - before < 8.0, 'memory given back', 2.0)


def test_the_guard_uses_no_shared_memory_that_a_killed_node_could_lock(
    harness, shipped_environment
):
    """Killed listeners held up who published in shared memory for 0.3 to 1 s."""
    command = [
        sys.executable,
        '-m',
        'jepa_arm.ros.guard.node',
        '--ros-args',
        '-r',
        '__ns:=/unshared',
    ]
    with subprocess.Popen(command, env=shipped_environment) as guard:
        try:
            topic = '/unshared/guard/status'
            harness.wait(lambda: harness.node.count_publishers(topic), 'the guard')
            assert '/dev/shm/fastdds' not in Path(f'/proc/{guard.pid}/maps').read_text()
        finally:
            guard.terminate()
        assert guard.wait(10.0) == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_a_signal_brings_the_arm_to_rest_and_ends_with_0(bench, arm, number):
    bench.follow()
    bench.process.send_signal(number)
    assert bench.process.wait(10.0) == 0
    bench.wait_state(GuardStatus.INACTIVE)
    assert bench.robot.is_at_rest()
    assert_smooth(bench.robot, arm)


@pytest.mark.parametrize(
    ('setting', 'expected'),
    [
        ('arm:=nonesuch', 'nonesuch.yaml'),
        ('arm:=17', 'arm'),
    ],
)
def test_an_invalid_setting_ends_the_guard_with_one_line(setting, expected):
    result = run_guard('-p', setting)
    assert result.returncode == EXIT_BAD_SETTING
    assert result.stderr.startswith('guard: ') and expected in result.stderr
    assert 'Traceback' not in result.stderr


def test_nothing_is_commanded_before_the_first_joint_state(harness):
    commands = harness.record(JointTrajectory, COMMANDS, EVERY)
    status = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
    guard = harness.start('guard')
    harness.wait(lambda: len(status) > 3, 'status')
    assert status[-1][1].state == GuardStatus.INACTIVE and not commands

    def is_logged(text):
        return text in guard.log_file('guard').read_text()

    harness.wait(lambda: is_logged('waiting for /joint_states: nobody publishes it'), 'the log')
    harness.execute(lambda: harness.node.create_publisher(JointState, 'joint_states', SENSOR_QOS))
    harness.wait(lambda: is_logged('/joint_states is published now'), 'the log')
    assert not commands


def test_proposals_before_the_first_clock_are_rejected_without_a_latch(harness, arm):
    """Discovery may be slow: a guard that had not found /clock yet latched for good."""
    bench = Bench(harness, arm, use_sim_time=True)
    deadline = time.monotonic() + 20.0
    while bench.status[-1][1].rejected <= 10:
        assert time.monotonic() < deadline, bench.status[-1]
        bench.send(bench.message())
        time.sleep(0.05)
    harness.wait(lambda: any('/clock' in r for r in bench.status[-1][1].reasons), 'the reason')
    status = bench.status[-1][1]
    assert status.accepted == 0 and status.state == GuardStatus.HOLDING
    clock = harness.execute(lambda: harness.node.create_publisher(Clock, '/clock', STATUS_QOS))
    harness.execute(
        lambda: harness.node.create_timer(
            0.01, lambda: clock.publish(Clock(clock=convert.to_time(bench.now())))
        )
    )
    bench.follow()
    assert_smooth(bench.robot, arm)
