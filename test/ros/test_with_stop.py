"""A guard that sends with each command the stop that could follow it."""

import signal
import time

import numpy as np
import pytest
from guard_bench import DT, Bench, PlayingRobot, assert_smooth
from jepa_arm_msgs.msg import GuardStatus

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_an_arm_whose_guard_falls_silent_in_motion_goes_on_to_rest_in_its_limits(harness, arm):
    """Stopped, not killed: a killed node is listed for 20 s, and the next test would wait."""
    bench = Bench(harness, arm, PlayingRobot, controller='joint_trajectory_with_stop')
    idle = bench.robot.commands[-1][1]
    assert len(idle.points) == 1 and not np.any(idle.points[0].velocities)
    bench.follow(1.0)
    for _, msg in bench.robot.commands:  # what a JointTrajectoryController asks for by default
        assert not np.any(msg.points[-1].velocities)
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
