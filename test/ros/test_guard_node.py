"""The guard node: what reaches the robot, when the arm stops, and what the node reports."""

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from guard_bench import COMMANDS, DT, Bench, assert_smooth, run_guard
from jepa_arm_msgs.msg import Goal, GuardStatus
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import DUMP_STACKS_SIGNAL, EXIT_BAD_SETTING
from jepa_arm.ros.runtime.qos import COMMAND_QOS, LATCHED_QOS, STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope='module')
def guard(shared_harness, arm):
    """One guard process for all tests of this file."""
    return Bench(shared_harness, arm)


@pytest.fixture
def bench(guard):
    guard.begin_anew()
    return guard


def test_commands_come_at_100_hz_and_follow_valid_proposals(bench, arm):
    accepted, rejected = bench.status[-1][1].accepted, bench.status[-1][1].rejected
    np.testing.assert_allclose(bench.robot.positions()[5], arm.home, atol=1e-9)
    bench.follow(1.0)
    stamps = np.array([t for t, _ in bench.robot.commands])
    assert np.median(np.diff(stamps)[-80:]) == pytest.approx(DT, rel=0.15)
    point = bench.robot.commands[-1][1].points[0]
    assert convert.to_seconds(point.time_from_start) == pytest.approx(DT)
    for _ in range(20):  # the first may come before the guard has discovered their sender
        if bench.status[-1][1].accepted >= accepted + 9:
            break
        bench.follow(0.3)
    status = bench.status[-1][1]
    assert list(status.joint_names) == list(arm.joint_names) and len(status.command) == 7
    reasons = {reason for _, msg in bench.status for reason in msg.reasons}
    assert status.accepted >= accepted + 9 and status.rejected == rejected, reasons
    assert 0.0 <= status.obs_to_command_ms < 100.0
    assert_smooth(bench.robot, arm)


def test_an_arm_at_rest_is_commanded_often_enough_for_its_watchdog_but_not_at_every_tick(bench):
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING)
    before = len(bench.robot.commands)
    time.sleep(1.0)
    rest = bench.robot.commands[before:]
    assert 10.0 < len(rest) < 40.0  # 25 a second on an idle machine
    assert all(msg == rest[0][1] for _, msg in rest)
    missed = bench.status[-1][1].missed_ticks
    bench.follow()
    moving = [t for t, m in bench.robot.commands[before:] if np.any(m.points[0].velocities)]
    assert np.median(np.diff(moving)) == pytest.approx(DT, rel=0.15)
    assert bench.status[-1][1].missed_ticks < missed + 20


def test_a_goal_makes_a_guard_at_rest_tick_at_full_rate(bench):
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING)
    time.sleep(0.3)
    goals = bench.harness.publisher(Goal, 'planner/goal', LATCHED_QOS)
    before = len(bench.robot.commands)
    goals.publish(Goal())
    time.sleep(0.4)
    quick = bench.robot.commands[before:]
    assert len(quick) > 25 and all(msg == quick[0][1] for _, msg in quick)
    time.sleep(0.5)
    before = len(bench.robot.commands)
    time.sleep(0.5)
    assert len(bench.robot.commands) - before < 20


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


def test_a_trajectory_without_points_ends_the_goal(bench, arm):
    refused = bench.status[-1][1].rejected
    bench.follow()
    bench.send(JointTrajectory(joint_names=list(arm.joint_names)))
    sent = time.monotonic()
    status = bench.wait_state(GuardStatus.IDLE)
    moving = [t for t, m in bench.robot.commands if np.any(m.points[0].velocities)]
    assert moving[-1] - sent < 0.2 and not status.reasons and status.rejected == refused
    assert_smooth(bench.robot, arm)
    bench.follow()


def test_late_proposals_are_followed_until_the_next_is_due(bench, arm):
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


def test_malformed_and_outdated_proposals_are_rejected(bench, arm):
    ragged, accepted = bench.message(), bench.status[-1][1].accepted
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
    assert bench.status[-1][1].accepted == accepted
    np.testing.assert_allclose(bench.robot.positions()[-1], arm.home, atol=1e-9)


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


def test_diagnostics_report_jitter_and_reasons(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS_QOS)
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


@pytest.mark.extended  # the report lasts 10 s
def test_a_stop_is_reported_for_a_while_after_it_is_over(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS_QOS)
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING, 'plan_expired')

    def newest():
        return log[-1][1].status[0] if log else None

    bench.harness.wait(lambda: newest() and newest().message.startswith('plan_expired'), 'it')
    assert newest().level == DiagnosticStatus.WARN
    bench.harness.wait(lambda: newest().level == DiagnosticStatus.OK, 'its end')
    values = {pair.key: pair.value for pair in newest().values}
    assert values['state'] == 'HOLDING' and values['stopped for'].startswith('plan_expired')


def test_a_second_guard_ends_with_a_reason_or_both_hold(bench):
    second = run_guard('-r', '__node:=guard_2', stops=lambda: holds_for_another(bench))
    if second.returncode == 0:  # discovery took longer than it listened: both hold
        assert 'held: another publisher' in second.stderr
        bench.harness.wait(lambda: bench.harness.node.count_publishers(COMMANDS) == 1, 'its end')
        assert bench.call('resume').success
    else:
        assert second.returncode == EXIT_BAD_SETTING
        assert 'another guard' in second.stderr and 'Traceback' not in second.stderr
    assert bench.harness.node.count_publishers(COMMANDS) == 1
    bench.follow()


def holds_for_another(bench):
    return any(r.startswith('held: another publisher') for r in bench.status[-1][1].reasons)


def test_another_publisher_of_commands_holds_the_arm_until_resume(bench, arm):
    bench.follow()
    other = bench.harness.node.create_publisher(JointTrajectory, COMMANDS, COMMAND_QOS)
    bench.wait_state(GuardStatus.HOLDING, 'held: another publisher')
    bench.send(bench.message())
    bench.harness.node.destroy_publisher(other)
    bench.harness.wait(lambda: bench.harness.node.count_publishers(COMMANDS) == 1, 'its end')
    assert bench.status[-1][1].state == GuardStatus.HOLDING and bench.robot.is_at_rest()
    assert bench.call('resume').success
    bench.follow()
    assert_smooth(bench.robot, arm)


def test_a_signal_dumps_the_stacks_and_the_guard_continues(bench):
    bench.process.send_signal(DUMP_STACKS_SIGNAL)
    log = bench.supervisor.log_file('guard')
    bench.harness.wait(lambda: 'in spin_once' in log.read_text(), 'its threads')
    bench.follow()
