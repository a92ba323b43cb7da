"""Guard outputs for other controllers: velocities, and commands with their stop."""

import signal
import time

import numpy as np
import pytest
from guard_bench import DT, Bench, PlayingRobot, VelocityRobot, assert_smooth
from jepa_arm_msgs.msg import GuardStatus
from std_msgs.msg import Float64MultiArray

from jepa_arm.ros.runtime.qos import COMMAND_QOS

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def bench(harness, arm):
    return Bench(harness, arm, VelocityRobot, controller='forward_velocity')


def stands(robot):
    before = robot.position
    time.sleep(0.3)
    return np.array_equal(before, robot.position)


def test_velocities_follow_the_plan_and_every_end_is_rest(bench, arm):
    topic = VelocityRobot.topic
    start = bench.robot.position
    bench.follow(1.0)
    bench.wait_state(GuardStatus.HOLDING)  # the plan has run out
    assert bench.robot.is_at_rest() and stands(bench.robot)
    assert bench.robot.position[6] - start[6] > 0.1
    np.testing.assert_allclose(bench.robot.position[:6], start[:6], atol=1e-3)
    velocity = bench.robot.velocities()
    assert np.all(np.abs(velocity) <= arm.velocity_limit + 1e-6)
    bench.follow()
    other = bench.harness.node.create_publisher(Float64MultiArray, topic, COMMAND_QOS)
    bench.wait_state(GuardStatus.HOLDING, 'held: another publisher')
    bench.harness.node.destroy_publisher(other)
    assert stands(bench.robot)
    bench.harness.wait(lambda: bench.harness.node.count_publishers(topic) == 1, 'its end')
    assert bench.call('resume').success
    bench.follow()
    bench.process.send_signal(signal.SIGTERM)
    assert bench.process.wait(10.0) == 0
    assert bench.robot.is_at_rest() and stands(bench.robot)


def test_a_paused_guard_first_commands_a_velocity_controlled_robot_to_rest(bench):
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


def test_commands_with_a_stop_bring_the_arm_to_rest_when_the_guard_is_paused(harness, arm):
    """Stopped, not killed: a killed node is listed for 20 s, and the next test would wait."""
    bench = Bench(harness, arm, PlayingRobot, controller='joint_trajectory_with_stop')
    idle = bench.robot.commands[-1][1]
    assert len(idle.points) == 1 and not np.any(idle.points[0].velocities)
    bench.follow(1.0)
    for _, msg in bench.robot.commands:  # a JointTrajectoryController refuses more than this
        assert np.abs(msg.points[-1].velocities).max() <= np.finfo(np.float32).eps
    bench.wait_state(GuardStatus.HOLDING)
    assert_smooth(bench.robot, arm)
    deadline = time.monotonic() + 10.0
    while np.abs(bench.robot.velocities()[-1]).max() < 0.5:
        assert time.monotonic() < deadline, bench.status[-1]
        way = bench.robot.commanded() + np.outer(np.arange(1, 11), 0.12 * np.eye(7)[6])
        bench.send(bench.message(positions=np.minimum(way, arm.upper)))
        time.sleep(0.05)
    bench.process.send_signal(signal.SIGSTOP)
    harness.cleanup.append(lambda: bench.process.send_signal(signal.SIGCONT))
    time.sleep(0.5)
    points = bench.robot.commands[-1][1].points
    assert len(points) > 2 and np.abs(points[0].velocities).max() > 0.3
    change = np.abs(np.diff([point.velocities for point in points], axis=0)) / DT
    assert np.all(change <= arm.braking_limit * 1.001)
    path = np.array(bench.robot.path[-20:])
    np.testing.assert_array_equal(path, np.tile(points[-1].positions, (20, 1)))
