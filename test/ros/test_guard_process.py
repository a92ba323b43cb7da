"""The guard's process among others: health, rivals, clocks, memory, how it ends."""

import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from guard_bench import COMMANDS, Bench, assert_smooth
from jepa_arm_msgs.msg import GuardStatus
from rclpy.context import Context
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.description import SETTING_REFUSED
from jepa_arm.nodes.graph import TELLS
from jepa_arm.nodes.guard_watch import Rivals
from jepa_arm.nodes.parameters import COMMAND, LATCHED, SENSOR, STATUS
from jepa_arm.nodes.process import harden
from jepa_arm.nodes.vitals import resident_mb

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def run_guard(*arguments, stops=lambda: False):
    """A guard that ends by itself, or is ended a second after ``stops`` is so."""
    command = [sys.executable, '-m', 'jepa_arm.nodes.guard', '--ros-args', *arguments]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    with subprocess.Popen(command, **pipes) as guard:
        deadline = time.monotonic() + 60.0
        while guard.poll() is None and not stops() and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            out, errors = guard.communicate(timeout=1.0)
        except subprocess.TimeoutExpired:
            guard.terminate()
            out, errors = guard.communicate(timeout=20.0)
        return subprocess.CompletedProcess(command, guard.returncode, out, errors)


@pytest.fixture
def bench(harness, arm):
    return Bench(harness, arm)


def test_diagnostics_tell_jitter_and_reasons(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS)
    bench.call('hold')
    bench.harness.wait(lambda: len(log) >= 3, 'diagnostics')
    status = log[-1][1].status[0]
    values = {pair.key: pair.value for pair in status.values}
    assert status.name == 'guard' and status.message.startswith('held:')
    assert status.level == DiagnosticStatus.ERROR  # nothing moves until somebody resumes
    assert float(values['tick jitter p50 / p99 ms'].split(' / ')[0]) < 5.0
    assert 15.0 < float(values['joint states taken Hz']) < 150.0
    assert float(values['memory MB']) > 50.0
    assert {'missed ticks', 'tracking error rad', 'state'} <= set(values)


def test_a_stop_is_told_for_a_while_after_it_is_over(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS)
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING, 'plan_expired')

    def newest():
        return log[-1][1].status[0] if log else None

    bench.harness.wait(lambda: newest() and newest().message.startswith('plan_expired'), 'it')
    assert newest().level == DiagnosticStatus.WARN
    bench.harness.wait(lambda: newest().level == DiagnosticStatus.OK, 'its end')
    values = {pair.key: pair.value for pair in newest().values}
    assert values['state'] == 'HOLDING' and values['stopped for'].startswith('plan_expired')


def test_an_end_with_which_there_is_no_connection_is_told_with_its_node_and_why(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS)
    node = bench.harness.node

    def says(*words):
        return log and all(word in log[-1][1].status[0].message for word in words)

    bench.harness.wait(lambda: says('ok'), 'health')
    mine = bench.harness.make(
        lambda: (
            node.create_publisher(JointTrajectory, 'planner/joint_trajectory', SENSOR),
            node.create_subscription(JointTrajectory, COMMANDS, lambda _: None, LATCHED),
        )
    )
    bench.harness.wait(lambda: says('from tester', 'Best effort', 'at tester', 'ransient'), 'both')
    bench.harness.make(
        lambda: (node.destroy_publisher(mine[0]), node.destroy_subscription(mine[1]))
    )
    bench.harness.wait(lambda: says('ok'), 'health again')
    bench.robot.close()
    bench.harness.make(lambda: node.destroy_publisher(bench.robot._publisher))
    bench.harness.wait(lambda: says('joint_states: nobody publishes it'), 'loneliness')


def test_a_second_guard_ends_with_a_reason_or_both_hold_and_the_first_goes_on(bench):
    second = run_guard('-r', '__node:=guard_2', stops=lambda: holds_for_another(bench))
    if second.returncode == 0:  # discovery took longer than it listened: both hold
        assert 'held: another publisher' in second.stderr
        bench.harness.wait(lambda: bench.harness.node.count_publishers(COMMANDS) == 1, 'its end')
        assert bench.call('resume').success
    else:
        assert second.returncode == SETTING_REFUSED
        assert 'another guard' in second.stderr and 'Traceback' not in second.stderr
    assert bench.harness.node.count_publishers(COMMANDS) == 1
    bench.follow()


def holds_for_another(bench):
    return any(r.startswith('held: another publisher') for r in bench.status[-1][1].reasons)


def test_another_publisher_of_commands_is_a_hold_until_resume(bench, arm):
    bench.follow()
    other = bench.harness.node.create_publisher(JointTrajectory, COMMANDS, COMMAND)
    bench.wait_state(GuardStatus.HOLDING, 'held: another publisher')
    bench.send(bench.message())
    bench.harness.node.destroy_publisher(other)
    bench.harness.wait(lambda: bench.harness.node.count_publishers(COMMANDS) == 1, 'its end')
    assert bench.status[-1][1].state == GuardStatus.HOLDING and bench.robot.is_at_rest()
    assert bench.call('resume').success
    bench.follow()
    assert_smooth(bench.robot, arm)


def test_another_publisher_is_counted_on_a_remapped_topic(harness):
    """It was looked for by the name before the remapping, where a driver's controller never is."""
    context = Context()
    remapped = ['--ros-args', '-r', 'commands:=arm_controller/commands']
    rclpy.init(args=remapped, context=context)
    node = rclpy.create_node('like_a_guard', context=context)
    try:
        node.create_publisher(JointTrajectory, 'commands', COMMAND)
        rivals = Rivals(node, JointTrajectory, 'commands')
        harness.wait(lambda: node.count_publishers(rivals.topic) == 1, 'its own publisher')
        assert rivals.count() == 0
        other = ('arm_controller/commands', COMMAND)
        harness.make(lambda: harness.node.create_publisher(JointTrajectory, *other))
        harness.wait(lambda: rivals.count() == 1, 'the other publisher')
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_clock_before_zero_does_no_harm_in_a_namespace_either():
    """It ended a node whose clock is remapped, as that of two virtual arms is."""
    context = Context()
    rclpy.init(args=['--ros-args', '-r', '/clock:=/left/clock'], context=context)
    node = rclpy.create_node(
        'with_a_clock',
        context=context,
        parameter_overrides=[Parameter('use_sim_time', value=True)],
    )
    try:
        harden(node)
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
    publisher = harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND)
    point = JointTrajectoryPoint(positions=array('d', bytes(16_000_000)))
    status = harness.record(GuardStatus, 'guard/status', STATUS)
    before = resident_mb(guard.pid)
    for i in range(4):
        publisher.publish(JointTrajectory(joint_names=['a'], points=[point]))
        harness.wait(lambda i=i: status and status[-1][1].rejected > i, 'refusal')
    harness.wait(lambda: resident_mb(guard.pid) - before < 8.0, 'memory given back', 2.0)


def test_the_guard_shares_no_memory_in_which_a_node_that_is_killed_could_hold_it_up(bench):
    """Killed listeners held up who published in shared memory for 0.3 to 1 s."""
    assert '/dev/shm/fastdds' not in Path(f'/proc/{bench.process.pid}/maps').read_text()


def test_a_node_tells_where_it_is_and_goes_on(bench):
    bench.process.send_signal(TELLS)
    log = bench.supervisor.log_file('guard')
    bench.harness.wait(lambda: 'in spin_once' in log.read_text(), 'its threads')
    bench.follow()


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
        ('guard_config:=nonesuch.yaml', 'nonesuch.yaml'),
        ('arm:=17', 'arm'),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_clear_line(setting, expected):
    result = run_guard('-p', setting)
    assert result.returncode == SETTING_REFUSED
    assert result.stderr.startswith('guard: ') and expected in result.stderr
    assert 'Traceback' not in result.stderr
