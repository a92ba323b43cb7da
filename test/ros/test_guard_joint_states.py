"""The guard node and joint states: missing, unusable or far from the commands."""

import signal
import time

import numpy as np
import pytest
from guard_bench import Bench, assert_smooth
from jepa_arm_msgs.msg import GuardStatus
from std_srvs.srv import Trigger

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope='module')
def guard(shared_harness, arm):
    """One guard process for all tests of this file."""
    return Bench(shared_harness, arm)


@pytest.fixture
def bench(guard):
    guard.begin_anew()
    return guard


def test_missing_joint_states_stop_the_arm(bench, arm):
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


def test_joints_may_come_in_another_order_among_others(bench):
    def permute(msg):
        order = [6, 0, 3, 1, 5, 2, 4]
        msg.name = ['gripper', *(msg.name[i] for i in order)]
        msg.position = [0.5, *(msg.position[i] for i in order)]
        msg.velocity = []
        return msg

    bench.robot.spoil = permute
    bench.follow()


@pytest.mark.parametrize('what', ['missing', 'nan'])
def test_unusable_joint_states_stop_the_arm_until_good_ones_come(bench, what):
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


def test_an_arm_that_does_not_follow_latches_and_a_reset_starts_where_it_stands(bench, arm):
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


def test_a_reset_commands_rest_at_the_new_position_before_a_proposal_is_followed(bench):
    client = bench.harness.execute(
        lambda: bench.harness.node.create_client(Trigger, 'guard/reset')
    )
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


def test_a_paused_guard_restarts_where_the_arm_stands(bench, arm):
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
