"""A guard that commands velocities, which a robot keeps until it hears of others."""

import signal
import time

import numpy as np
import pytest
from guard_bench import Bench, VelocityRobot
from jepa_arm_msgs.msg import GuardStatus
from std_msgs.msg import Float64MultiArray

from jepa_arm.nodes.parameters import COMMAND

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def bench(harness, arm):
    return Bench(harness, arm, VelocityRobot, controller='forward_velocity')


def stands(robot):
    before = robot.position
    time.sleep(0.3)
    return np.array_equal(before, robot.position)


def test_velocities_lead_where_the_plan_leads_and_every_end_is_rest(bench, arm):
    start = bench.robot.position
    bench.follow(1.0)
    bench.wait_state(GuardStatus.HOLDING)  # the plan has run out
    assert bench.robot.is_at_rest() and stands(bench.robot)
    assert bench.robot.position[6] - start[6] > 0.1
    np.testing.assert_allclose(bench.robot.position[:6], start[:6], atol=1e-3)
    velocity = bench.robot.velocities()
    assert np.all(np.abs(velocity) <= arm.velocity_limit + 1e-6)
    bench.follow()
    other = bench.harness.node.create_publisher(Float64MultiArray, VelocityRobot.topic, COMMAND)
    bench.wait_state(GuardStatus.HOLDING, 'held: another publisher')
    bench.harness.node.destroy_publisher(other)
    assert stands(bench.robot)
    bench.harness.wait(
        lambda: bench.harness.node.count_publishers(VelocityRobot.topic) == 1, 'its end'
    )
    assert bench.call('resume').success
    bench.follow()
    bench.process.send_signal(signal.SIGTERM)
    assert bench.process.wait(10.0) == 0
    assert bench.robot.is_at_rest() and stands(bench.robot)


def test_a_guard_that_could_not_run_says_first_of_all_that_the_robot_shall_stand(bench):
    for _ in range(5):  # on a busy machine it may be found between two motions
        bench.follow()
        bench.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        if not stands(bench.robot):  # what a robot without a time-out does
            break
        bench.process.send_signal(signal.SIGCONT)
    assert not stands(bench.robot)
    count = len(bench.robot.commands)
    bench.process.send_signal(signal.SIGCONT)
    bench.harness.wait(lambda: len(bench.robot.commands) > count + 20, 'commands')
    # one may have been decided before the signal and be sent after it
    assert not np.any(bench.robot.velocities()[count + 1 :])
    assert stands(bench.robot)
    bench.follow()
