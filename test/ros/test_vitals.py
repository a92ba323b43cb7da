"""What judges commands and memory over ROS sees what it must see, and nothing else."""

import subprocess
import sys
import time

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.motion import JointStreamer
from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.parameters import COMMAND_TOPIC
from jepa_arm.nodes.soak import format_soak, soak
from jepa_arm.nodes.vitals import CommandWatch, resident_mb
from jepa_arm.resources import checkpoint_path
from jepa_arm.types import Command

pytestmark = [pytest.mark.ros, pytest.mark.slow]
DT = 0.01
EVERY = QoSProfile(depth=500)


@pytest.fixture
def judged(harness, arm):
    """A function that publishes commands as the guard does and returns the watch that saw them."""
    watch = CommandWatch(harness.node, arm, DT, foreign='fuzz')
    publisher = harness.publisher(JointTrajectory, COMMAND_TOPIC, EVERY)

    def judge(commands, frame=''):
        before = watch.commands
        for command in commands:
            msg = convert.command_to_msg(command, arm.joint_names, DT)
            msg.header.frame_id = frame
            publisher.publish(msg)
        if not frame:
            harness.wait(lambda: watch.commands == before + len(commands), 'commands')
        return watch

    return judge


def motion(arm, ticks=60, target=0.3):
    streamer = JointStreamer(arm, DT)
    return [streamer.command] + [streamer.step(arm.home + target) for _ in range(ticks)]


def changed(commands, i, position=0.0, velocity=0.0):
    old = commands[i]
    new = Command(old.position + position, old.velocity + velocity, old.acceleration)
    return [*commands[:i], new, *commands[i + 1 :]]


def test_a_good_motion_is_no_violation(judged, arm):
    watch = judged(motion(arm))
    assert (watch.count, watch.jumps, watch.unseen, watch.commands) == (0, 0, 0, 61)
    assert time.monotonic() - watch.moving_at < 20.0
    np.testing.assert_array_equal(watch.position, motion(arm)[-1].position)


@pytest.mark.parametrize(
    ('change', 'kind'),
    [
        ({'position': 0.05}, 'velocity'),
        ({'velocity': 0.5}, 'acceleration'),
        ({'position': np.nan}, 'finite'),
        ({'position': 9.0}, 'position'),
    ],
)
def test_a_command_beyond_a_limit_is_seen(judged, arm, change, kind):
    watch = judged(changed(motion(arm), 30, **change))
    assert any(kind in text for text in watch.wrong)


def test_a_new_start_from_rest_is_counted_and_no_violation(judged, arm):
    rest = Command(arm.home, np.zeros(7), np.zeros(7))
    watch = judged([rest] * 5 + [Command(arm.home + 0.2, np.zeros(7), np.zeros(7))] * 5)
    assert (watch.jumps, watch.count) == (1, 0)


def test_commands_of_others_are_left_out(judged, arm):
    rest = Command(arm.home, np.zeros(7), np.zeros(7))
    judged([rest] * 3)
    judged([Command(arm.home + 9.0, np.zeros(7), np.zeros(7))] * 3, frame='fuzz')
    assert judged([rest] * 3).count == 0


def test_memory_of_a_process_is_read_until_it_is_gone():
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
def test_a_short_soak_reaches_a_goal_and_finds_nothing_wrong():
    report = soak(0.17, 1, checkpoint_path('compact'), progress=False)
    assert report['violations'] == []
    assert sum(sum(c.values()) for c in report['goals'].values()) >= 1
    assert report['commands_judged'] > 500 and report['guard_missed_ticks'] >= 0
    assert 'violations: 0' in format_soak(report)
