"""Sensor publishers of the virtual arm: joints, camera images, clock and ground truth."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from jepa_arm.core.types import JointSample
from jepa_arm.datasets.recording import WRIST_IMAGE_TOPIC
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.diagnostics import RateMeter
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS

from .virtual_arm import VirtualArm


class SensorPublishers:
    """Publishes the sensor readings of a virtual arm, including injected faults."""

    def __init__(self, node: Node, virtual: VirtualArm, joints_topic: str) -> None:
        """Create the publishers.

        Args:
            node: node that owns them.
            virtual: arm whose sensors are read.
            joints_topic: topic of the joint states.
        """
        self._virtual = virtual
        self._camera = virtual.arm.config.camera
        self._info = convert.camera_info_to_msg(self._camera, Time())
        self._clock_pub = node.create_publisher(Clock, '/clock', STATUS_QOS)
        self._joints_pub = node.create_publisher(JointState, joints_topic, SENSOR_QOS)
        self._image_pub = node.create_publisher(Image, 'camera/image_raw', SENSOR_QOS)
        self._info_pub = node.create_publisher(CameraInfo, 'camera/camera_info', SENSOR_QOS)
        self._wrist_pub: Publisher | None = None
        if self._camera.wrist is not None:
            self._wrist_pub = node.create_publisher(Image, WRIST_IMAGE_TOPIC, SENSOR_QOS)
        self._truth_pub = node.create_publisher(PoseArray, 'ground_truth/objects', SENSOR_QOS)
        self._joint_rate, self._image_rate = RateMeter(), RateMeter()

    def publish_clock(self, always: bool) -> None:
        """Publish the time, if ``always`` or if there is a subscriber."""
        if always or self._clock_pub.get_subscription_count():
            self._clock_pub.publish(Clock(clock=convert.to_time(self._virtual.clock)))

    def publish_readings(self) -> None:
        """Publish joints and images that have arrived; at control steps capture new ones."""
        self.publish_joints()
        if self._virtual.is_control_step:
            self._virtual.capture()
            self._publish_truth()
        self._publish_frames()

    def publish_joints(self) -> None:
        """Publish the joints, unless the encoders are stopped."""
        sample = self._virtual.joints()
        if sample is None:
            return
        names = list(self._virtual.arm.joint_names)
        order = list(range(len(names)))
        if self._virtual.has_fault('joints_permuted'):
            order.reverse()
        if self._virtual.has_fault('joint_missing'):
            order.pop()
        self._joint_rate.count()
        published = JointSample(sample.position[order], sample.velocity[order], sample.stamp)
        self._joints_pub.publish(convert.joints_to_msg(published, [names[i] for i in order]))

    def values(self) -> dict[str, object]:
        """Return the publishing rates by name, for ``/diagnostics``."""
        return {
            'joint states Hz': f'{self._joint_rate.hz():.0f}',
            'images Hz': f'{self._image_rate.hz():.1f}',
        }

    def _publish_frames(self) -> None:
        wrist = self._camera.wrist
        for frame in self._virtual.arrived_frames():
            stamp = convert.to_time(frame.stamp)
            if self._wrist_pub is not None and wrist is not None:
                self._wrist_pub.publish(
                    convert.image_to_msg(frame.wrist_image, stamp, wrist.frame_id)
                )
            msg = convert.image_to_msg(frame.image, stamp, self._camera.frame_id)
            if self._virtual.has_fault('camera_encoding'):
                msg.encoding = 'unknown'
            self._image_pub.publish(msg)
            self._image_rate.count()
            self._info.header.stamp = stamp
            self._info_pub.publish(self._info)

    def _publish_truth(self) -> None:
        state, frame_id = self._virtual.state(), self._virtual.arm.config.base_link
        poses = [(state.object_position, state.object_quaternion)]
        stamp = convert.to_time(self._virtual.clock)
        self._truth_pub.publish(convert.poses_to_msg(poses, frame_id, stamp))
