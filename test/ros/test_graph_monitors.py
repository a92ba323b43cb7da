"""Graph monitors report violations of the command stream and the memory of processes."""

import subprocess
import sys
import time

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.files import checkpoint_path
from jepa_arm.core.types import Command
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC
from jepa_arm.ros.runtime.process import resident_mb
from jepa_arm_validation.monitors.graph_monitors import CommandMonitor
from jepa_arm_validation.soak.soak import SoakSettings, run_soak

pytestmark = [pytest.mark.ros, pytest.mark.slow]
DT = 0.01
EVERY = QoSProfile(depth=500)


@pytest.fixture
def judged(harness, arm):
    """Return a function that publishes commands as the guard does and returns their monitor."""
    monitor = CommandMonitor(harness.node, arm, DT, ignored_frame='fuzz')
    publisher = harness.publisher(JointTrajectory, COMMAND_TOPIC, EVERY)

    def judge(commands, frame=''):
        before = monitor.commands
        for command in commands:
            msg = convert.command_to_msg(command, arm.joint_names, DT)
            msg.header.frame_id = frame
            publisher.publish(msg)
        if not frame:
            harness.wait(lambda: monitor.commands == before + len(commands), 'commands')
        return monitor

    return judge


def motion(arm, ticks=60, target=0.3):
    streamer = JointStreamer(arm, DT)
    return [streamer.command] + [streamer.step(arm.home + target) for _ in range(ticks)]


def changed(commands, i, position=0.0, velocity=0.0):
    old = commands[i]
    new = Command(old.position + position, old.velocity + velocity, old.acceleration)
    return [*commands[:i], new, *commands[i + 1 :]]


def test_a_good_motion_is_no_violation(judged, arm):
    monitor = judged(motion(arm))
    assert (monitor.violations, monitor.restarts, monitor.lost, monitor.commands) == (0, 0, 0, 61)
    assert time.monotonic() - monitor.moving_at < 20.0
    np.testing.assert_array_equal(monitor.position, motion(arm)[-1].position)


@pytest.mark.parametrize(
    ('change', 'kind'),
    [
        ({'position': 0.05}, 'velocity'),
        ({'velocity': 0.5}, 'acceleration'),
        ({'position': np.nan}, 'finite'),
        ({'position': 9.0}, 'position'),
    ],
)
def test_a_command_beyond_a_limit_is_a_violation(judged, arm, change, kind):
    monitor = judged(changed(motion(arm), 30, **change))
    assert any(kind in text for text in monitor.examples)


def test_a_restart_from_rest_is_counted_and_is_no_violation(judged, arm):
    rest = Command(arm.home, np.zeros(7), np.zeros(7))
    monitor = judged([rest] * 5 + [Command(arm.home + 0.2, np.zeros(7), np.zeros(7))] * 5)
    assert (monitor.restarts, monitor.violations) == (1, 0)


def test_commands_of_the_ignored_frame_are_left_out(judged, arm):
    rest = Command(arm.home, np.zeros(7), np.zeros(7))
    judged([rest] * 3)
    judged([Command(arm.home + 9.0, np.zeros(7), np.zeros(7))] * 3, frame='fuzz')
    assert judged([rest] * 3).violations == 0


def test_memory_of_a_process_is_read_until_it_has_ended():
    process = subprocess.Popen(
        [sys.executable, '-c', 'x = b"x" * 50_000_000; input()'], stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 20.0
    while (resident_mb(process.pid) or 0.0) < 48.0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 48.0 < resident_mb(process.pid) < 150.0
    process.communicate()
    assert resident_mb(process.pid) is None


@pytest.mark.sim
@pytest.mark.extended
def test_a_short_soak_reaches_a_goal_without_violations():
    report = run_soak(checkpoint_path('compact'), SoakSettings(0.17, 1), progress=False)
    assert report['violations'] == []
    assert sum(sum(c.values()) for c in report['goals'].values()) >= 1
    assert report['commands_judged'] > 500 and report['guard_missed_ticks'] >= 0
