"""The guard's process: what it lets through to the robot side, when it stops, how it ends."""

import signal
import subprocess
import sys
import time
from array import array

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from guard_bench import COMMANDS, DT, EVERY, Bench, assert_smooth
from jepa_arm_msgs.msg import GuardStatus
from rclpy.context import Context
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.description import SETTING_REFUSED
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


def test_streams_at_100_hz_and_follows_what_is_valid(bench, arm):
    np.testing.assert_allclose(bench.robot.positions()[5], arm.home, atol=1e-9)
    bench.follow(1.0)
    stamps = np.array([t for t, _ in bench.robot.commands])
    assert np.median(np.diff(stamps)[-80:]) == pytest.approx(DT, rel=0.15)
    point = bench.robot.commands[-1][1].points[0]
    assert convert.to_seconds(point.time_from_start) == pytest.approx(DT)
    for _ in range(20):  # the first may come before the guard has discovered their sender
        if bench.status[-1][1].accepted >= 9:
            break
        bench.follow(0.3)
    status = bench.status[-1][1]
    assert list(status.joint_names) == list(arm.joint_names) and len(status.command) == 7
    reasons = {reason for _, msg in bench.status for reason in msg.reasons}
    assert status.accepted >= 9 and status.rejected == 0, reasons
    assert 0.0 <= status.obs_to_command_ms < 100.0
    assert_smooth(bench.robot, arm)


def test_a_resting_arm_hears_of_it_often_enough_for_its_watchdog_and_not_at_every_tick(bench):
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING)
    before = len(bench.robot.commands)
    time.sleep(2.0)
    rest = bench.robot.commands[before:]
    assert 2.0 * 10.0 < len(rest) < 2.0 * 40.0  # 25 a second on an idle machine
    assert all(msg == rest[0][1] for _, msg in rest)
    missed = bench.status[-1][1].missed_ticks
    bench.follow()
    moving = [t for t, m in bench.robot.commands[before:] if np.any(m.points[0].velocities)]
    assert np.median(np.diff(moving)) == pytest.approx(DT, rel=0.15)
    assert bench.status[-1][1].missed_ticks < missed + 20


def test_nothing_is_commanded_before_the_first_joint_state(harness):
    commands = harness.record(JointTrajectory, COMMANDS, EVERY)
    status = harness.record(GuardStatus, 'guard/status', STATUS)
    guard = harness.start('guard')
    harness.wait(lambda: len(status) > 3, 'status')
    assert status[-1][1].state == GuardStatus.INACTIVE and not commands

    def is_logged(text):
        return text in guard.log_file('guard').read_text()

    harness.wait(lambda: is_logged('waits for /joint_states: nobody publishes it'), 'the log')
    harness.make(lambda: harness.node.create_publisher(JointState, 'joint_states', SENSOR))
    harness.wait(lambda: is_logged('/joint_states is published now'), 'the log')
    assert not commands


def test_a_nan_plan_never_reaches_the_robot_and_latches_until_reset(bench, arm):
    bench.follow()
    positions = np.tile(arm.home, (10, 1))
    positions[3, 2] = np.nan
    bench.send(bench.message(positions=positions))
    status = bench.wait_state(GuardStatus.LATCHED)
    assert status.reasons[0].startswith('non_finite:')
    for _ in range(5):
        bench.send(bench.message())
        time.sleep(0.05)
    assert bench.status[-1][1].state == GuardStatus.LATCHED and bench.robot.is_at_rest()
    assert_smooth(bench.robot, arm)
    assert bench.call('reset').success
    bench.wait_state(GuardStatus.IDLE)
    bench.follow()


def test_planner_silence_stops_the_arm_smoothly_within_300_ms(bench, arm):
    bench.follow()
    status = bench.wait_state(GuardStatus.HOLDING)
    moving = [t for t, m in bench.robot.commands if np.any(m.points[0].velocities)]
    assert moving[-1] - bench.last_sent < 0.3
    assert status.reasons[0].startswith('plan_expired:')
    assert_smooth(bench.robot, arm)
    bench.follow()


def test_plans_that_come_late_are_followed_until_the_next_is_due(bench, arm):
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING)  # until what was sent is older than what comes
    refused, accepted = bench.status[-1][1].rejected, bench.status[-1][1].accepted
    for _ in range(8):
        bench.send(bench.message(stamp=bench.now() - 0.22))
        last_sent = time.monotonic()
        time.sleep(0.1)
    bench.harness.wait(lambda: bench.status[-1][1].accepted == accepted + 8, 'all of them')
    assert bench.status[-1][1].rejected == refused
    following = [at for at, msg in bench.status if msg.state == GuardStatus.FOLLOWING]
    bench.wait_state(GuardStatus.HOLDING)
    assert following[-1] > last_sent - 0.2
    stopping = [at for at, m in bench.status if at > last_sent and m.state == GuardStatus.STOPPING]
    assert 0.1 < stopping[0] - last_sent < 0.25
    assert_smooth(bench.robot, arm)


def test_joint_states_that_stop_stop_the_arm(bench, arm):
    bench.follow()
    bench.robot.is_silent = True
    began = time.monotonic()
    deadline = began + 2.0
    while time.monotonic() < deadline and not bench.robot.is_at_rest():
        bench.send(bench.message())
        time.sleep(0.05)
    assert time.monotonic() - began < 0.5
    bench.harness.wait(
        lambda: any(r.startswith('joints_stale') for r in bench.status[-1][1].reasons), 'reason'
    )
    assert_smooth(bench.robot, arm)


def test_joints_in_another_order_among_others_just_work(bench):
    def permute(msg):
        order = [6, 0, 3, 1, 5, 2, 4]
        msg.name = ['gripper', *(msg.name[i] for i in order)]
        msg.position = [0.5, *(msg.position[i] for i in order)]
        msg.velocity = []
        return msg

    bench.robot.spoil = permute
    bench.follow()


@pytest.mark.parametrize('what', ['missing', 'nan'])
def test_joint_states_that_cannot_be_used_stop_the_arm_until_good_ones_come(bench, what):
    def spoil(msg):
        if what == 'nan':
            msg.position[2] = np.nan
        else:
            msg.name[2] = 'other'
        return msg

    bench.follow()
    bench.robot.spoil = spoil
    bench.harness.wait(
        lambda: any(r.startswith('joints_invalid') for r in bench.status[-1][1].reasons), 'reason'
    )
    bench.harness.wait(bench.robot.is_at_rest, 'rest')
    bench.robot.spoil = lambda msg: msg
    time.sleep(0.1)
    bench.follow()


def test_messages_that_are_no_proposal_are_refused(bench, arm):
    ragged = bench.message()
    ragged.points[4].positions = [0.0]
    cases = {
        'schema': [ragged, JointTrajectory(), bench.message(joint_names=arm.joint_names[::-1])],
        'stale': [bench.message(stamp=bench.now() - 5.0)],
        'future': [bench.message(stamp=bench.now() + 5.0)],
    }
    for code, messages in cases.items():
        for msg in messages:
            count = len(bench.status)
            bench.send(msg)
            bench.harness.wait(
                lambda count=count, code=code: any(
                    reason.startswith(code)
                    for _, status in bench.status[count:]
                    for reason in status.reasons
                ),
                code,
            )
    assert bench.status[-1][1].accepted == 0
    np.testing.assert_allclose(bench.robot.positions()[-1], arm.home, atol=1e-9)


def test_before_the_first_clock_proposals_are_refused_but_nothing_latches(harness, arm):
    """Discovery may be slow: a guard that had not found /clock yet latched for good."""
    bench = Bench(harness, arm, use_sim_time=True)
    deadline = time.monotonic() + 20.0
    while bench.status[-1][1].rejected <= 10:
        assert time.monotonic() < deadline, bench.status[-1]
        bench.send(bench.message())
        time.sleep(0.05)
    status = bench.wait_state(GuardStatus.HOLDING)
    assert status.accepted == 0 and '/clock' in status.reasons[0]
    clock = harness.make(lambda: harness.node.create_publisher(Clock, '/clock', STATUS))
    harness.make(
        lambda: harness.node.create_timer(
            0.01, lambda: clock.publish(Clock(clock=convert.to_time(bench.now())))
        )
    )
    bench.follow()
    assert_smooth(bench.robot, arm)


def test_hold_and_resume(bench, arm):
    bench.follow()
    assert bench.call('hold').success
    bench.wait_state(GuardStatus.HOLDING)
    bench.send(bench.message())
    time.sleep(0.2)
    assert bench.status[-1][1].state == GuardStatus.HOLDING and bench.robot.is_at_rest()
    assert bench.call('resume').success
    bench.follow()
    assert_smooth(bench.robot, arm)


def test_arm_that_does_not_follow_latches_and_reset_starts_where_it_stands(bench, arm):
    bench.robot.is_blocked = True
    for _ in range(100):
        bench.send(bench.message())
        time.sleep(0.1)
        if bench.status[-1][1].state == GuardStatus.LATCHED:
            break
    status = bench.wait_state(GuardStatus.LATCHED)
    assert status.reasons[0].startswith('tracking:')
    assert bench.call('reset').success
    bench.wait_state(GuardStatus.IDLE)
    time.sleep(0.1)
    np.testing.assert_allclose(bench.robot.positions()[-1], bench.robot.position)


def test_after_a_reset_the_new_place_is_commanded_at_rest_before_a_proposal_is_followed(bench):
    client = bench.harness.make(lambda: bench.harness.node.create_client(Trigger, 'guard/reset'))
    jump, tried = 0.02, 0
    accepted = bench.status[-1][1].accepted
    while bench.status[-1][1].accepted < accepted + 10:
        tried += 1
        assert tried <= 30, bench.status[-1]
        bench.robot.is_blocked = True
        bench.robot.position = bench.robot.position + jump * (-1) ** tried
        time.sleep(0.1)
        way = bench.robot.position + np.arange(1, 11)[:, None] * np.array([0.0] * 6 + [0.02])
        msg = bench.message(positions=way)
        client.call_async(Trigger.Request()).add_done_callback(lambda _, msg=msg: bench.send(msg))
        time.sleep(0.2)  # on a busy machine the proposal may be too old when it arrives
        bench.robot.is_blocked = False
        bench.harness.wait(bench.robot.is_at_rest, 'rest')
    steps = np.abs(np.diff(bench.robot.positions(), axis=0)).max(axis=1)
    after = np.flatnonzero(steps > 0.75 * jump) + 1
    assert len(after) >= 10
    assert not np.any(bench.robot.velocities()[after])


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
    time.sleep(3)
    print('MSG', log[-1][1].status[0].message)
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


def test_a_guard_that_could_not_run_goes_on_from_where_the_arm_stands(bench, arm):
    """It went on at the speed it had before, though the arm had stood still meanwhile."""
    bench.follow()
    bench.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    bench.robot.position = bench.robot.position - 0.02
    count = len(bench.robot.commands)
    bench.process.send_signal(signal.SIGCONT)
    bench.harness.wait(
        lambda: any(r.startswith('paused') for _, m in bench.status for r in m.reasons), 'reason'
    )
    bench.harness.wait(lambda: len(bench.robot.commands) > count + 20, 'commands')
    later = bench.robot.velocities()[count + 2 :]
    assert not np.any(later), 'the arm moved by itself'
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
