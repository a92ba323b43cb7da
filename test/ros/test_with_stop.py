"""A guard that sends with each command the stop that could follow it."""

import signal
import time

import numpy as np
import pytest
from guard_bench import DT, Bench, PlayingRobot, assert_smooth
from jepa_arm_msgs.msg import GuardStatus

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_an_arm_whose_guard_is_killed_in_motion_goes_on_to_rest_within_its_limits(harness, arm):
    bench = Bench(harness, arm, PlayingRobot, controller='joint_trajectory_with_stop')
    idle = bench.robot.commands[-1][1]
    assert len(idle.points) == 1 and not np.any(idle.points[0].velocities)
    bench.follow(1.0)
    for _, msg in bench.robot.commands:  # what a JointTrajectoryController asks for by default
        assert not np.any(msg.points[-1].velocities)
    bench.wait_state(GuardStatus.HOLDING)
    assert_smooth(bench.robot, arm)
    bench.follow()
    bench.process.send_signal(signal.SIGKILL)
    bench.process.wait()
    time.sleep(0.5)
    points = bench.robot.commands[-1][1].points
    assert len(points) > 2 and np.abs(points[0].velocities).max() > 0.1
    change = np.abs(np.diff([point.velocities for point in points], axis=0)) / DT
    assert np.all(change <= arm.braking_limit * 1.001)
    path = np.array(bench.robot.path[-20:])
    np.testing.assert_array_equal(path, np.tile(points[-1].positions, (20, 1)))
