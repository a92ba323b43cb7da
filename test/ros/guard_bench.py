"""A guard process between a planner made by hand and a robot."""

import threading
import time

import numpy as np
from jepa_arm_msgs.msg import GuardStatus
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.parameters import COMMAND, SENSOR, STATUS
from jepa_arm.types import JointSample, Proposal

COMMANDS = 'joint_trajectory_controller/joint_trajectory'
DT = 0.01
EVERY = QoSProfile(depth=500)


class Robot:
    """Publishes joint states at 100 Hz and is at once wherever it is commanded to be."""

    kind, topic = JointTrajectory, COMMANDS

    def __init__(self, harness, arm):
        self._harness, self._arm = harness, arm
        self.position = arm.home.copy()
        self.commands = harness.record(self.kind, self.topic, EVERY)
        self._publisher = harness.node.create_publisher(JointState, 'joint_states', SENSOR)
        self.is_silent = self.is_blocked = False
        self.spoil = lambda msg: msg
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
    """Plays the newest trajectory to its end, a point every 10 ms, whether or not others come."""

    def __init__(self, harness, arm):
        self.path, self._played, self._of = [], 0, None
        super().__init__(harness, arm)

    def obey(self, msg):
        self._played = self._played + 1 if msg is self._of else 0
        self._of = msg
        self.path.append(np.array(msg.points[min(self._played, len(msg.points) - 1)].positions))
        return self.path[-1]


class VelocityRobot(Robot):
    """Keeps the velocity that it was told last, for ever."""

    kind, topic = Float64MultiArray, 'forward_velocity_controller/commands'

    def obey(self, msg):
        return self.position + DT * np.array(msg.data)

    def commanded(self):
        return self.position

    def velocities(self):
        return np.array([msg.data for _, msg in self.commands])


class Bench:
    """A guard process between a planner made by hand and a robot."""

    def __init__(self, harness, arm, robot=Robot, **parameters):
        self.harness, self.arm = harness, arm
        self.status = harness.record(GuardStatus, 'guard/status', STATUS)
        self.robot = robot(harness, arm)
        harness.cleanup.append(self.robot.close)
        self.supervisor = harness.start('guard', **parameters)
        self.process = self.supervisor.processes['guard']
        self._planner = harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND)
        harness.wait(lambda: len(self.robot.commands) > 10, 'commands')
        harness.wait(lambda: self.status, 'status')

    def wait_state(self, state, reason='', timeout=20.0):
        """The first status from now on in ``state``, for ``reason`` if that is given."""

        def found():
            newest = self.status[-1][1] if self.status else None
            if newest is None or newest.state != state:
                return None
            is_for_it = not reason or any(r.startswith(reason) for r in newest.reasons)
            return newest if is_for_it else None

        return self.harness.wait(found, f'guard state {state} {reason}', timeout)

    def now(self):
        return self.harness.node.get_clock().now().nanoseconds / 1e9

    def message(self, **changes):
        """A fresh proposal that turns joint 7 slowly."""
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
        """Keeps sending for ``seconds`` at least, until the arm moves as it is told."""
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

    def call(self, verb):
        return self.harness.call(Trigger, f'guard/{verb}')


def assert_smooth(robot, arm):
    """What reached the robot keeps the limits of velocity and acceleration at 100 Hz."""
    velocity = robot.velocities()
    assert np.all(np.isfinite(robot.positions())) and np.all(np.isfinite(velocity))
    assert np.all(np.abs(velocity) <= arm.velocity_limit + 1e-6)
    change = np.abs(np.diff(velocity, axis=0)) / DT
    assert np.all(change <= arm.braking_limit * 1.001 + 1e-6)
