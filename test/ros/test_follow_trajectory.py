"""A guard that commands by goals of the action FollowJointTrajectory.

The package control_msgs is not on PyPI: where it cannot be imported, the setting is refused, and
that is what is tested; where it can, a server in a process of its own plays the controller.
"""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rclpy
from guard_bench import DT, EVERY, Bench
from jepa_arm_msgs.msg import GuardStatus
from rcl_interfaces.srv import SetParameters
from rclpy.action import get_action_client_names_and_types_by_node
from rclpy.context import Context
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from jepa_arm.ros.guard.trajectory_action_output import TrajectoryActionOutput
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SERVER = Path(__file__).with_name('trajectory_server.py')
needs_control_msgs = pytest.mark.skipif(
    find_spec('control_msgs') is None, reason='control_msgs is not installed'
)


class ControlledRobot:
    """A robot behind a trajectory controller, in a process of its own."""

    def __init__(self, harness, arm):
        self._harness = harness
        self.commands = harness.record(JointState, 'commanded', EVERY)
        self.start(arm.home.tolist())

    def start(self, position):
        command = [sys.executable, SERVER, '--ros-args', '-p', f'start:={list(position)}']
        self.process = subprocess.Popen(command)

    def fault(self, name):
        request = SetParameters.Request(
            parameters=[Parameter('fault', value=name).to_parameter_msg()]
        )
        return self._harness.call(SetParameters, 'controller_manager/set_parameters', request)

    def commanded(self):
        return np.array(self.commands[-1][1].position)

    def positions(self):
        return np.array([msg.position for _, msg in self.commands])

    def velocities(self):
        return np.array([msg.velocity for _, msg in self.commands])

    def is_at_rest(self):
        return not np.any(self.velocities()[-1])

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def bench(harness, arm):
    bench = Bench(harness, arm, ControlledRobot, controller='follow_joint_trajectory')
    bench.harness.wait(lambda: bench.status[-1][1].state != GuardStatus.INACTIVE, 'server')
    bench.follow()
    return bench


def assert_within_limits(robot, arm, since=0):
    """What the robot was made to do; the server's timer jitters, and so do its differences."""
    commands = [msg for _, msg in robot.commands[since:]]  # others may come meanwhile
    stamps = np.array([m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for m in commands])
    velocity, passed = np.array([m.velocity for m in commands]), np.diff(stamps)
    assert np.all(np.abs(velocity) <= arm.velocity_limit + 1e-6)
    change = np.abs(np.diff(velocity, axis=0)) / np.maximum(passed, DT)[:, None]
    assert np.all(change <= 1.1 * arm.braking_limit)
    position = np.array([m.position for m in commands])
    step = np.abs(np.diff(position, axis=0)) / np.maximum(passed, DT)[:, None]
    assert np.all(step <= 1.1 * arm.velocity_limit)


def reasons(bench, since=0):
    return {reason for _, msg in bench.status[since:] for reason in msg.reasons}


@needs_control_msgs
def test_the_arm_follows_the_plan_and_comes_to_rest_when_the_guard_is_paused(bench, arm):
    start = bench.robot.commanded()
    bench.follow(1.5)
    bench.wait_state(GuardStatus.HOLDING)  # the plan has run out
    bench.harness.wait(bench.robot.is_at_rest, 'rest')
    assert bench.robot.commanded()[6] - start[6] > 0.1
    np.testing.assert_allclose(bench.robot.commanded()[:6], start[:6], atol=1e-3)
    assert not any(r.startswith('tracking') for r in reasons(bench))
    bench.follow()
    deadline = time.monotonic() + 10.0
    while np.abs(bench.robot.velocities()[-1]).max() < 0.3:
        assert time.monotonic() < deadline, bench.status[-1]
        way = bench.robot.commanded() + np.outer(np.arange(1, 11), 0.12 * np.eye(7)[6])
        bench.send(bench.message(positions=np.minimum(way, arm.upper)))
        time.sleep(0.05)
    bench.process.send_signal(signal.SIGSTOP)
    stopped = len(bench.robot.commands)
    time.sleep(0.6)
    speeds = np.abs(bench.robot.velocities()[stopped:]).max(axis=1)
    assert speeds[0] > 0.2 and not speeds[-20:].any()
    rest = bench.robot.commanded()
    bench.process.send_signal(signal.SIGCONT)
    bench.harness.wait(lambda: any(r.startswith('paused') for r in reasons(bench)), 'reason')
    time.sleep(0.3)
    np.testing.assert_allclose(bench.robot.commanded(), rest, atol=1e-6)
    bench.follow()
    bench.process.send_signal(signal.SIGTERM)
    assert bench.process.wait(10.0) == 0
    time.sleep(0.05)
    assert bench.robot.is_at_rest()
    assert_within_limits(bench.robot, arm)


def plan_until(bench, text):
    """Goes on planning until the guard gives a new reason with ``text``; when that came."""
    count = len(bench.status)

    def has_come():
        bench.send(bench.message())
        return any(text in reason for reason in reasons(bench, count))

    bench.harness.wait(has_come, text)


@needs_control_msgs
def test_a_goal_that_is_rejected_or_aborted_holds_the_arm_until_resume(bench, arm):
    for fault, expected in (('reject', 'rejected a goal'), ('abort', 'path tolerance')):
        bench.robot.fault(fault)
        plan_until(bench, expected)
        bench.robot.fault('')
        bench.wait_state(GuardStatus.HOLDING)
        bench.harness.wait(bench.robot.is_at_rest, 'rest')
        refused = bench.status[-1][1].rejected
        bench.harness.wait(
            lambda refused=refused: (
                bench.send(bench.message()) or bench.status[-1][1].rejected > refused + 3
            ),
            'refusals',
        )
        assert any(expected in r for r in bench.status[-1][1].reasons)
        assert bench.status[-1][1].state == GuardStatus.HOLDING and bench.robot.is_at_rest()
        assert bench.call('resume').success
        bench.follow()
        if fault == 'reject':
            assert_within_limits(bench.robot, arm)


@needs_control_msgs
def test_a_silent_server_stops_the_arm_until_it_answers_again(bench):
    bench.robot.process.send_signal(signal.SIGSTOP)
    plan_until(bench, 'has not answered')
    bench.robot.process.send_signal(signal.SIGCONT)
    bench.follow()
    bench.robot.close()
    plan_until(bench, 'has not answered')
    bench.robot.start(bench.robot.commanded().tolist())
    bench.follow(timeout=40.0)


@needs_control_msgs
def test_the_action_name_is_remapped_and_the_guard_is_listed_as_its_client(
    harness, arm, guard_config
):
    context = Context()
    usual = 'joint_trajectory_controller/follow_joint_trajectory'
    rclpy.init(args=['--ros-args', '-r', f'{usual}:=/arm/follow'], context=context)
    node = rclpy.create_node('like_a_guard', context=context)
    try:
        output = TrajectoryActionOutput(node, usual, arm, DT, guard_config)
        output.listen()
        assert '/arm/follow' in output.unavailable_reason and not output.is_clear

        def names():
            found = get_action_client_names_and_types_by_node(harness.node, 'like_a_guard', '/')
            return [name for name, _ in found] == ['/arm/follow']

        harness.wait(lambda: 'like_a_guard' in harness.node.get_node_names(), 'the node')
        harness.wait(names, 'its client')
        output.close()
        assert not list(node.clients) and not list(node.subscriptions)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_without_control_msgs_the_setting_is_refused_with_instructions(tmp_path):
    (tmp_path / 'control_msgs.py').write_text('raise ImportError')
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get('PYTHONPATH')])])
    command = [sys.executable, '-m', 'jepa_arm.ros.guard.node', '--ros-args']
    command += ['-p', 'controller:=follow_joint_trajectory']
    environment = {**os.environ, 'PYTHONPATH': path}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == EXIT_BAD_SETTING and 'Traceback' not in ended.stderr
    assert ended.stderr.startswith('guard: controller: follow_joint_trajectory needs')
    assert 'sudo apt install ros-$ROS_DISTRO-control-msgs' in ended.stderr
