"""A virtual arm's process in real time or lock-step, and everything it publishes."""

import numpy as np
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.srv import InjectFault, ResetScene
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.qos import COMMAND_QOS

COMMANDS = 'joint_trajectory_controller/joint_trajectory'
EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
DT = 0.01


class SimBench:
    """A virtual arm in real time, and everything it publishes."""

    def __init__(self, harness, arm, **parameters):
        self.harness, self.arm = harness, arm
        self.joints = harness.record(JointState, 'joint_states', EVERY)
        self.images = harness.record(Image, 'camera/image_raw', EVERY)
        self.infos = harness.record(CameraInfo, 'camera/camera_info', EVERY)
        self.clock = harness.record(Clock, '/clock', EVERY)
        self.truth = harness.record(PoseArray, 'ground_truth/objects', EVERY)
        self.process = harness.start('sim', **parameters).processes['sim']
        self._commands = None
        harness.wait(lambda: self.joints, 'joint states')

    def wait_camera(self):
        self.harness.wait(lambda: self.infos and self.images and self.truth, 'camera')
        return self

    def position(self):
        return convert.joints_from_msg(self.joints[-1][1], self.arm.joint_names).position

    def is_at(self, position, tolerance=0.01):
        return np.abs(self.position() - position).max() < tolerance

    def send(self, positions, times, names=None):
        """A trajectory through ``positions`` (N, J) at ``times`` s."""
        points = [
            JointTrajectoryPoint(
                positions=np.asarray(p, dtype=float).tolist(),
                time_from_start=convert.to_duration(t),
            )
            for p, t in zip(positions, times, strict=True)
        ]
        if self._commands is None:
            self._commands = self.harness.publisher(JointTrajectory, COMMANDS, COMMAND_QOS)
        self._commands.publish(
            JointTrajectory(joint_names=list(names or self.arm.joint_names), points=points)
        )

    def send_bytes(self, raw):
        """Bytes in place of a trajectory, after one was sent."""
        self._commands.publish(raw)

    def leave_commands_to_a_guard(self):
        """A guard that discovers another publisher of commands holds."""
        if self._commands is not None:
            self.harness.execute(lambda: self.harness.node.destroy_publisher(self._commands))
            self._commands = None

    def reset(self, seed=0, task=''):
        request = ResetScene.Request(seed=seed, task=task)
        response = self.harness.call(ResetScene, 'sim/reset', request)
        if response.success:
            began = convert.to_seconds(response.goal.image.header.stamp)
            logs = self.joints, self.images, self.truth
            self.harness.wait(lambda: all(is_later(log, began) for log in logs), 'the new scene')
        return response

    def break_(self, fault, duration=0.0, value=0.0):
        request = InjectFault.Request(fault=fault, duration=duration, value=value)
        return self.harness.call(InjectFault, 'sim/inject_fault', request)

    def object_position(self):
        p = self.truth[-1][1].poses[0].position
        return np.array([p.x, p.y, p.z])


def is_later(log, stamp):
    """Return whether the newest message is of a time after ``stamp``, s."""
    return convert.to_seconds(log[-1][1].header.stamp) > stamp


def stamps(log):
    return np.array([convert.to_seconds(msg.header.stamp) for _, msg in log])
