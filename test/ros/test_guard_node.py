"""The guard's process: what it lets through to the robot side, and when it stops."""

import time

import numpy as np
import pytest
from guard_bench import COMMANDS, DT, EVERY, Bench, assert_smooth
from jepa_arm_msgs.msg import Goal, GuardStatus
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.parameters import LATCHED, SENSOR, STATUS

pytestmark = [pytest.mark.ros, pytest.mark.slow]


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


def test_a_resting_guard_is_quick_when_a_goal_is_taken_up(bench):
    bench.follow()
    bench.wait_state(GuardStatus.HOLDING)
    time.sleep(0.3)
    goals = bench.harness.publisher(Goal, 'planner/goal', LATCHED)
    before = len(bench.robot.commands)
    goals.publish(Goal())
    time.sleep(0.4)
    quick = bench.robot.commands[before:]
    assert len(quick) > 25 and all(msg == quick[0][1] for _, msg in quick)
    time.sleep(0.5)
    before = len(bench.robot.commands)
    time.sleep(0.5)
    assert len(bench.robot.commands) - before < 20


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


def test_a_trajectory_without_points_says_that_the_goal_is_over(bench, arm):
    refused = bench.status[-1][1].rejected
    bench.follow()
    bench.send(JointTrajectory(joint_names=list(arm.joint_names)))
    sent = time.monotonic()
    status = bench.wait_state(GuardStatus.IDLE)
    moving = [t for t, m in bench.robot.commands if np.any(m.points[0].velocities)]
    assert moving[-1] - sent < 0.2 and not status.reasons and status.rejected == refused
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
