"""Guard bench: a guard process between a scripted planner and a scripted robot."""

import subprocess
import sys
import threading
import time

import numpy as np
from jepa_arm_msgs.msg import GuardStatus
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.types import JointSample, Proposal
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.qos import COMMAND_QOS, SENSOR_QOS, STATUS_QOS

COMMANDS = 'joint_trajectory_controller/joint_trajectory'
DT = 0.01
EVERY = QoSProfile(depth=500)


def unchanged(msg):
    return msg


class Robot:
    """Publishes joint states at 100 Hz and follows its commands at once."""

    kind, topic = JointTrajectory, COMMANDS

    def __init__(self, harness, arm):
        self._harness, self._arm = harness, arm
        self.position = arm.home.copy()
        self.commands = harness.record(self.kind, self.topic, EVERY)
        self._publisher = harness.node.create_publisher(JointState, 'joint_states', SENSOR_QOS)
        self.is_silent = self.is_blocked = False
        self.spoil = unchanged
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._ended.wait(DT):
            if self.commands and not self.is_blocked:
                self.position = self.obey(self.commands[-1][1])
            if not self.is_silent:
                now = self._harness.node.get_clock().now().nanoseconds / 1e9
                sample = JointSample(self.position, np.zeros(7), now)
                msg = convert.joints_to_msg(sample, self._arm.joint_names)
                self._publisher.publish(self.spoil(msg))

    def obey(self, msg):
        return np.array(msg.points[-1].positions)

    def commanded(self):
        return np.array(self.commands[-1][1].points[0].positions)

    def positions(self):
        return np.array([msg.points[0].positions for _, msg in self.commands])

    def velocities(self):
        return np.array([msg.points[0].velocities for _, msg in self.commands])

    def is_at_rest(self):
        return not np.any(self.velocities()[-1])

    def close(self):
        self._ended.set()
        self._thread.join()


class PlayingRobot(Robot):
    """Plays the newest trajectory to its end, one point every 10 ms."""

    def __init__(self, harness, arm):
        self.path, self._played, self._of = [], 0, None
        super().__init__(harness, arm)

    def obey(self, msg):
        self._played = self._played + 1 if msg is self._of else 0
        self._of = msg
        self.path.append(np.array(msg.points[min(self._played, len(msg.points) - 1)].positions))
        return self.path[-1]


class VelocityRobot(Robot):
    """Keeps the last commanded velocity for ever."""

    kind, topic = Float64MultiArray, 'forward_velocity_controller/commands'

    def obey(self, msg):
        return self.position + DT * np.array(msg.data)

    def commanded(self):
        return self.position

    def velocities(self):
        return np.array([msg.data for _, msg in self.commands])


class Bench:
    """A guard process with its planner and its robot."""

    def __init__(self, harness, arm, robot=Robot, **parameters):
        self.harness, self.arm = harness, arm
        self.status = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
        self.robot = robot(harness, arm)
        harness.cleanup.append(self.robot.close)
        self.supervisor = harness.start('guard', **parameters)
        self.process = self.supervisor.processes['guard']
        self._planner = harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
        harness.wait(lambda: len(self.robot.commands) > 10, 'commands')
        harness.wait(lambda: self.status, 'status')

    def wait_state(self, state, reason='', timeout=20.0):
        """Wait for a status in ``state``, with ``reason`` if one is given, and return it."""

        def found():
            newest = self.status[-1][1] if self.status else None
            if newest is None or newest.state != state:
                return None
            is_for_it = not reason or any(r.startswith(reason) for r in newest.reasons)
            return newest if is_for_it else None

        status = self.harness.poll(found, timeout)
        assert status, f'expected state {state} {reason} within {timeout} s: {self.status[-1:]}'
        return status

    def now(self):
        return self.harness.node.get_clock().now().nanoseconds / 1e9

    def message(self, **changes):
        """Return a fresh proposal that turns joint 7 slowly."""
        start = self.robot.commanded()
        slope = np.array([0, 0, 0, 0, 0, 0, 0.05])
        values = {
            'joint_names': self.arm.joint_names,
            'positions': start + np.arange(1, 11)[:, None] * slope,
            'times': np.arange(1, 11) * 0.1,
            'stamp': self.now(),
            'valid_for': 0.25,
        }
        return convert.proposal_to_msg(Proposal(**{**values, **changes}))

    def send(self, msg):
        self._planner.publish(msg)

    def follow(self, seconds=0.6, timeout=10.0):
        """Keep proposing for ``seconds`` at least, until the arm follows."""
        began = time.monotonic()
        while True:
            self.send(self.message())
            self.last_sent = time.monotonic()
            time.sleep(0.1)
            passed = time.monotonic() - began
            is_following = self.status[-1][1].state == GuardStatus.FOLLOWING
            is_moving = abs(self.robot.velocities()[-30:]).max() > 0.1
            if passed > seconds and is_following and is_moving:
                return
            assert passed < timeout, self.status[-1]

    def begin_anew(self):
        """Bring guard and robot to rest at home, and forget what was recorded."""
        robot, home = self.robot, self.arm.home
        robot.is_silent, robot.is_blocked, robot.spoil = False, True, unchanged
        self.call('hold')
        self.harness.wait(robot.is_at_rest, 'rest')
        robot.position = home.copy()

        def is_home():
            # a guard that backs off also commands home, but it still holds there
            is_reset = self.call('reset').success
            return is_reset and np.allclose(robot.commanded(), home, atol=1e-9)

        self.harness.wait(is_home, 'the command at home')
        robot.is_blocked = False
        since = len(robot.commands)
        self.harness.wait(lambda: len(robot.commands) > since + 10, 'commands')
        del robot.commands[: since + 1]
        self.wait_state(GuardStatus.IDLE)
        del self.status[:-1]

    def call(self, verb):
        return self.harness.call(Trigger, f'guard/{verb}')


def assert_smooth(robot, arm):
    """Check that the commands keep the limits of velocity and acceleration at 100 Hz."""
    velocity = robot.velocities()
    assert np.all(np.isfinite(robot.positions())) and np.all(np.isfinite(velocity))
    assert np.all(np.abs(velocity) <= arm.velocity_limit + 1e-6)
    change = np.abs(np.diff(velocity, axis=0)) / DT
    assert np.all(change <= arm.braking_limit * 1.001 + 1e-6)


def run_guard(*arguments, stops=lambda: False):
    """Run a guard until it ends, or terminate it a second after ``stops()`` is true."""
    command = [sys.executable, '-m', 'jepa_arm.ros.guard.node', '--ros-args', *arguments]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    with subprocess.Popen(command, **pipes) as guard:
        deadline = time.monotonic() + 60.0
        while guard.poll() is None and not stops() and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            out, errors = guard.communicate(timeout=1.0)
        except subprocess.TimeoutExpired:
            guard.terminate()
            out, errors = guard.communicate(timeout=20.0)
        return subprocess.CompletedProcess(command, guard.returncode, out, errors)
