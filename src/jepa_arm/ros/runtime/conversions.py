"""Conversions between ROS 2 messages and the types of ``core``.

Invalid messages raise ``ConversionError`` with what was expected and what was received.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, PoseArray
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.config import CameraConfig
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.core.messages import NANOSECONDS, ConversionError, yaw_from_msg
from jepa_arm.core.messages import image_from_msg as image_from_msg
from jepa_arm.core.messages import joints_from_msg as joints_from_msg
from jepa_arm.core.messages import proposal_from_msg as proposal_from_msg
from jepa_arm.core.messages import to_seconds as to_seconds
from jepa_arm.core.types import (
    Command,
    FloatArray,
    ImageArray,
    JointSample,
    Observation,
    Proposal,
    TrajectoryCommand,
)
from jepa_arm.robot.camera import intrinsics

if TYPE_CHECKING:
    from visualization_msgs.msg import Marker  # the guard needs no markers

Msg = TypeVar('Msg')

OUTCOME_NAMES = {
    getattr(MoveToGoal.Result, name): name
    for name in dir(MoveToGoal.Result)
    if name.isupper() and isinstance(getattr(MoveToGoal.Result, name), int)
}
"""Names of the outcomes in ``MoveToGoal.action``, by their numbers."""


class PlanMarker(IntEnum):
    """Ids of the markers on ``planner/plan_markers``; ids of obstacles start at ``OBSTACLE``."""

    PATH = 0
    GOAL = 1
    CANDIDATES = 2
    WORKSPACE = 3
    OBSTACLE = 100


def to_time(seconds: float) -> Time:
    """Return ``seconds`` as a time message, to the nearest nanosecond."""
    whole, nanoseconds = _split(seconds)
    return Time(sec=whole, nanosec=nanoseconds)


def raw_stamp(raw: bytes) -> float:
    """Return the stamp in s of a serialized message with a header (CDR, XTypes 7.4.3)."""
    if len(raw) < 12:
        raise ConversionError(f'expected a message with a header, got {len(raw)} bytes')
    order = '<' if raw[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', raw, 4)
    return float(seconds + nanoseconds / NANOSECONDS)


def from_raw(raw: bytes, kind: type[Msg]) -> Msg:
    """Return the message of type ``kind`` that was serialized as ``raw``.

    Raises:
        ConversionError: ``raw`` is not such a message.
    """
    try:
        return deserialize_message(raw, kind)
    except RuntimeError:  # RMWError, which rclpy does not export
        raise ConversionError(f'expected a {kind.__name__}, got {len(raw)} other bytes') from None


def to_duration(seconds: float) -> Duration:
    """Return ``seconds`` as a duration message, to the nearest nanosecond."""
    whole, nanoseconds = _split(seconds)
    return Duration(sec=whole, nanosec=nanoseconds)


def image_to_msg(image: ImageArray, stamp: Time, frame_id: str) -> Image:
    """Return an ``rgb8`` message of ``image`` (h, w, 3) uint8 RGB."""
    height, width, channels = image.shape
    if channels != 3 or image.dtype != np.uint8:
        raise ConversionError(f'image: expected (h, w, 3) uint8, got {image.shape} {image.dtype}')
    msg = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    msg.header.stamp, msg.header.frame_id = stamp, frame_id
    msg.data = array('B', np.ascontiguousarray(image).tobytes())
    return msg


def camera_info_to_msg(camera: CameraConfig, stamp: Time) -> CameraInfo:
    """Return the camera info of ``camera`` as an ideal camera without distortion."""
    k = intrinsics(camera)
    msg = CameraInfo(height=camera.height, width=camera.width, distortion_model='plumb_bob')
    msg.header.stamp, msg.header.frame_id = stamp, camera.frame_id
    msg.d = [0.0] * 5
    msg.k = k.ravel().tolist()
    msg.r = np.eye(3).ravel().tolist()
    msg.p = np.hstack([k, np.zeros((3, 1))]).ravel().tolist()
    return msg


def joint_commands_from_msg(
    msg: JointState, names: Sequence[str]
) -> tuple[FloatArray | None, FloatArray | None]:
    """Return positions (J,) rad and velocities (J,) rad/s commanded by ros2_control hardware.

    None is returned for missing or NaN positions or velocities: no controller commands them.
    """
    index = {name: i for i, name in enumerate(msg.name)}
    if not set(names) <= set(index):
        raise ConversionError(f'joint commands: expected {list(names)}, got {list(msg.name)[:20]}')
    commands: list[FloatArray | None] = []
    for kind, values in (('positions', msg.position), ('velocities', msg.velocity)):
        if len(values) not in (0, len(index)):
            raise ConversionError(
                f'joint commands: expected {len(index)} {kind} or none, got {len(values)}'
            )
        row = np.array([values[index[name]] for name in names] if len(values) else [np.nan])
        commands.append(None if np.isnan(row).any() else row)
    return commands[0], commands[1]


def joints_to_msg(sample: JointSample, names: Sequence[str]) -> JointState:
    """Return the joint state message of a sample."""
    msg = JointState(name=list(names))
    msg.header.stamp = to_time(sample.stamp)
    msg.position, msg.velocity = sample.position.tolist(), sample.velocity.tolist()
    return msg


def proposal_to_msg(proposal: Proposal) -> JointTrajectory:
    """Return the trajectory that a planner publishes; ``valid_for`` is not included."""
    rows, stamp = proposal.positions[:, None], to_time(proposal.stamp)
    return trajectory_to_msg(rows, proposal.times, stamp, proposal.joint_names)


def command_to_msg(
    command: Command, names: Sequence[str], duration: float, stop: FloatArray | None = None
) -> JointTrajectory:
    """Return a trajectory to ``command`` that starts on arrival, optionally followed by a stop.

    Args:
        command: reached after ``duration``.
        names: names of the joints.
        duration: s between points.
        stop: (N, 2, J) rad and rad/s, further points.
    """
    rows = [(command.position, command.velocity), *([] if stop is None else stop)]
    times = np.array([i * duration for i in range(1, len(rows) + 1)])
    return trajectory_to_msg(np.array(rows), times, Time(), names)


def trajectory_to_msg(
    rows: FloatArray, times: FloatArray, stamp: Time, names: Sequence[str]
) -> JointTrajectory:
    """Return a trajectory through points at ``times`` (N,) s.

    Args:
        rows: (N, 2, J) positions, rad, and velocities, rad/s, of the J joints; (N, 1, J) without
            velocities.
        times: s after ``stamp``.
        stamp: start time; zero: start on arrival.
        names: names of the joints.
    """
    msg = JointTrajectory(joint_names=list(names))
    msg.header.stamp = stamp
    for (position, *velocity), seconds in zip(rows, times, strict=True):
        point = JointTrajectoryPoint(positions=position.tolist())
        point.velocities = velocity[0].tolist() if velocity else []
        point.time_from_start = to_duration(float(seconds))
        msg.points.append(point)
    return msg


def trajectory_from_msg(msg: JointTrajectory, names: Sequence[str]) -> TrajectoryCommand:
    """Return the trajectory of ``msg`` with its columns in the order of ``names``.

    Raises:
        ConversionError: the message is for other joints, or a point is incomplete.
    """
    if not msg.points:
        nowhere, stamp = np.empty((0, len(names))), to_seconds(msg.header.stamp)
        return TrajectoryCommand(nowhere, None, np.empty(0), stamp)
    if sorted(msg.joint_names) != sorted(names):
        raise ConversionError(
            f'trajectory: expected joints {list(names)}, got {list(msg.joint_names)[:20]}'
        )
    columns = [list(msg.joint_names).index(name) for name in names]
    velocities = None
    if all(len(p.velocities) == len(names) for p in msg.points):
        velocities = np.array([p.velocities for p in msg.points])[:, columns]
    widths = {len(p.positions) for p in msg.points}
    if widths != {len(names)}:
        raise ConversionError(
            f'trajectory: expected {len(names)} positions in each point, got {sorted(widths)}'
        )
    return TrajectoryCommand(
        positions=np.array([p.positions for p in msg.points])[:, columns],
        velocities=velocities,
        times=np.array([to_seconds(p.time_from_start) for p in msg.points]),
        start=to_seconds(msg.header.stamp),
    )


def position_goal_to_msg(goal: PositionGoal, frame_id: str, stamp: Time) -> Goal:
    """Return a goal message of kind OBJECT_POSE or TIP_POSE, as the goal's subject demands."""
    msg = Goal(kind=Goal.OBJECT_POSE if goal.subject == 'object' else Goal.TIP_POSE)
    msg.subject = Goal.SUBJECT_OBJECT if goal.subject == 'object' else Goal.SUBJECT_TIP
    msg.pose.header.frame_id, msg.pose.header.stamp = frame_id, stamp
    msg.pose.pose.position = point_to_msg(goal.position)
    half = 0.0 if goal.yaw is None else goal.yaw / 2.0
    msg.pose.pose.orientation.w, msg.pose.pose.orientation.z = math.cos(half), math.sin(half)
    return msg


def image_goal_to_msg(
    subject: str, observation: Observation, names: Sequence[str], frame_id: str
) -> Goal:
    """Return a goal of kind IMAGE for ``subject``: 'object' or 'tip'."""
    stamp = to_time(observation.stamp)
    msg = Goal(kind=Goal.IMAGE, image=image_to_msg(observation.image, stamp, frame_id))
    msg.subject = Goal.SUBJECT_OBJECT if subject == 'object' else Goal.SUBJECT_TIP
    joints = observation.joints
    sample = JointSample(joints, np.zeros_like(joints), observation.stamp)
    msg.joints = joints_to_msg(sample, names)
    return msg


def position_goal_from_msg(msg: Goal, base_frame: str) -> PositionGoal:
    """Return the position goal of a message of kind OBJECT_POSE or TIP_POSE.

    Raises:
        ConversionError: another kind or frame, or a position that is not finite.
    """
    subjects = {Goal.OBJECT_POSE: 'object', Goal.TIP_POSE: 'tip'}
    if msg.kind not in subjects:
        raise ConversionError(f'goal: expected kind OBJECT_POSE or TIP_POSE, got {msg.kind}')
    frame = msg.pose.header.frame_id
    if frame not in ('', base_frame):
        raise ConversionError(f'goal: expected a pose in frame {base_frame}, got {frame!r}')
    position = msg.pose.pose.position
    yaw = yaw_from_msg(msg.pose.pose.orientation) if msg.yaw_tolerance else None
    xyz = np.array([position.x, position.y, position.z])
    try:
        return PositionGoal(subjects[msg.kind], xyz, yaw)
    except GoalError as error:
        raise ConversionError(str(error)) from None


def point_to_msg(position: FloatArray) -> Point:
    """Return the point message of ``position`` (3,) m."""
    return Point(x=float(position[0]), y=float(position[1]), z=float(position[2]))


def points_from_marker(msg: Marker) -> FloatArray:
    """Return the points (N, 3) m of a marker.

    Raises:
        ConversionError: a point is not finite.
    """
    points = np.array([(p.x, p.y, p.z) for p in msg.points], dtype=float).reshape(-1, 3)
    if not np.all(np.isfinite(points)):
        raise ConversionError(f'marker {msg.ns}/{msg.id}: expected finite points')
    return points


def poses_to_msg(
    poses: Sequence[tuple[FloatArray, FloatArray]], frame_id: str, stamp: Time
) -> PoseArray:
    """Return a message of poses: position (3,) m and quaternion (4,) xyzw."""
    msg = PoseArray()
    msg.header.stamp, msg.header.frame_id = stamp, frame_id
    for position, quaternion in poses:
        pose = Pose(position=point_to_msg(position))
        q = pose.orientation
        q.x, q.y, q.z, q.w = map(float, quaternion)
        msg.poses.append(pose)
    return msg


def poses_from_msg(msg: PoseArray) -> list[tuple[FloatArray, FloatArray]]:
    """Return the poses of a message: position (3,) m and unit quaternion (4,) xyzw.

    Raises:
        ConversionError: a value is not finite, or a quaternion is zero.
    """
    out = []
    for pose in msg.poses:
        p, q = pose.position, pose.orientation
        position, quaternion = np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
        length = float(np.linalg.norm(quaternion))
        if not np.all(np.isfinite(position)) or not 0.0 < length < np.inf:
            raise ConversionError(
                f'pose: expected a finite position and orientation, got {position} {quaternion}'
            )
        out.append((position, quaternion / length))
    return out


def _split(seconds: float) -> tuple[int, int]:
    """Return whole seconds and the rest in ns."""
    whole = math.floor(seconds)
    carry, nanoseconds = divmod(round((seconds - whole) * NANOSECONDS), NANOSECONDS)
    return whole + carry, nanoseconds
