"""Our values into messages, and messages into our values; the only module that knows both.

What cannot be converted raises ``ConversionError`` with what was expected and what came.
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
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion
from jepa_arm_msgs.msg import Goal, GuardStatus
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..config import CameraConfig
from ..goals import GoalError, PositionGoal
from ..messages import NANOSECONDS, ConversionError, yaw_from_msg
from ..messages import image_from_msg as image_from_msg
from ..messages import joints_from_msg as joints_from_msg
from ..messages import proposal_from_msg as proposal_from_msg
from ..messages import to_seconds as to_seconds
from ..sim.camera import intrinsics
from ..types import Command, FloatArray, ImageArray, JointSample, Proposal, Verdict
from .controller import Trajectory

if TYPE_CHECKING:
    from visualization_msgs.msg import Marker  # the guard's process needs none


Received = TypeVar('Received')


class PlanMarker(IntEnum):
    """What the markers on ``planner/plan_markers`` show; values are their ids.

    Obstacles follow each other from ``OBSTACLE`` on.
    """

    PATH = 0
    GOAL = 1
    CANDIDATES = 2
    WORKSPACE = 3
    OBSTACLE = 100


def to_time(seconds: float) -> Time:
    """The time message of ``seconds``, to the nearest nanosecond."""
    whole, nanoseconds = _split(seconds)
    return Time(sec=whole, nanosec=nanoseconds)


def raw_stamp(raw: bytes) -> float:
    """s, the stamp of a serialized message that begins with a header (CDR, XTypes 7.4.3)."""
    if len(raw) < 12:
        raise ConversionError(f'expected one that begins with a header, got {len(raw)} bytes')
    order = '<' if raw[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', raw, 4)
    return float(seconds + nanoseconds / NANOSECONDS)


def from_raw(raw: bytes, kind: type[Received]) -> Received:
    """The message of a ``kind`` that was serialized as ``raw``."""
    try:
        return deserialize_message(raw, kind)
    except RuntimeError:  # rclpy's own, of no public name
        raise ConversionError(
            f'expected a {kind.__name__}, got {len(raw)} bytes that are none'
        ) from None


def to_duration(seconds: float) -> Duration:
    """The duration message of ``seconds``, to the nearest nanosecond."""
    whole, nanoseconds = _split(seconds)
    return Duration(sec=whole, nanosec=nanoseconds)


def image_to_msg(image: ImageArray, stamp: Time, frame_id: str) -> Image:
    """``rgb8`` message of ``image`` (h, w, 3) uint8 RGB."""
    height, width, channels = image.shape
    if channels != 3 or image.dtype != np.uint8:
        raise ConversionError(f'image: expected (h, w, 3) uint8, got {image.shape} {image.dtype}')
    msg = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    msg.header.stamp, msg.header.frame_id = stamp, frame_id
    msg.data = array('B', np.ascontiguousarray(image).tobytes())
    return msg


def camera_info_to_msg(camera: CameraConfig, stamp: Time) -> CameraInfo:
    """Intrinsics of an ideal camera without distortion."""
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
    """(J,) rad and rad/s that a hardware interface of ros2_control tells the joints ``names``.

    None where it tells none, or NaN: no controller commands yet.
    """
    index = {name: i for i, name in enumerate(msg.name)}
    if not set(names) <= set(index):
        raise ConversionError(f'joint commands: expected {list(names)}, got {list(msg.name)[:20]}')
    told: list[FloatArray | None] = []
    for what, values in (('positions', msg.position), ('velocities', msg.velocity)):
        if len(values) not in (0, len(index)):
            raise ConversionError(
                f'joint commands: expected {len(index)} {what} or none, got {len(values)}'
            )
        row = np.array([values[index[name]] for name in names] if len(values) else [np.nan])
        told.append(None if np.isnan(row).any() else row)
    return told[0], told[1]


def joints_to_msg(sample: JointSample, names: Sequence[str]) -> JointState:
    """Joint state of a sample."""
    msg = JointState(name=list(names))
    msg.header.stamp = to_time(sample.stamp)
    msg.position, msg.velocity = sample.position.tolist(), sample.velocity.tolist()
    return msg


def proposal_to_msg(proposal: Proposal) -> JointTrajectory:
    """The trajectory a planner publishes; ``valid_for`` is not carried."""
    msg = JointTrajectory(joint_names=list(proposal.joint_names))
    msg.header.stamp = to_time(proposal.stamp)
    msg.points = [
        JointTrajectoryPoint(positions=row.tolist(), time_from_start=to_duration(float(t)))
        for row, t in zip(proposal.positions, proposal.times, strict=True)
    ]
    return msg


def command_to_msg(
    command: Command,
    names: Sequence[str],
    duration: float,
    stamp: Time | None = None,
    stop: FloatArray | None = None,
) -> JointTrajectory:
    """One point to be reached in ``duration`` s from now (or from ``stamp``), and what follows.

    Args:
        command, names, duration, stamp: the point, s.
        stop: (N, 2, J) rad and rad/s, points behind it, as many s apart; None: none.
    """
    rows = [(command.position, command.velocity), *([] if stop is None else stop)]
    times = np.array([i * duration for i in range(1, len(rows) + 1)])
    return motion_to_msg(np.array(rows), times, Time() if stamp is None else stamp, names)


def motion_to_msg(
    rows: FloatArray, times: FloatArray, stamp: Time, names: Sequence[str]
) -> JointTrajectory:
    """Points ``rows`` (N, 2, J) rad and rad/s, to be reached ``times`` (N,) s after ``stamp``."""
    points = [
        JointTrajectoryPoint(
            positions=position.tolist(),
            velocities=velocity.tolist(),
            time_from_start=to_duration(float(seconds)),
        )
        for (position, velocity), seconds in zip(rows, times, strict=True)
    ]
    msg = JointTrajectory(joint_names=list(names), points=points)
    msg.header.stamp = stamp
    return msg


def trajectory_from_msg(msg: JointTrajectory, names: Sequence[str]) -> Trajectory:
    """A trajectory with its columns in the order of ``names``; they must be the same joints."""
    if not msg.points:
        width = len(names)
        return Trajectory(np.empty((0, width)), None, np.empty(0), to_seconds(msg.header.stamp))
    if sorted(msg.joint_names) != sorted(names):
        raise ConversionError(
            f'trajectory: expected joints {list(names)}, got {list(msg.joint_names)[:20]}'
        )
    columns = [list(msg.joint_names).index(name) for name in names]
    widths = {len(p.positions) for p in msg.points}
    has_velocities = all(len(p.velocities) == len(names) for p in msg.points)
    if widths != {len(names)}:
        raise ConversionError(
            f'trajectory: expected {len(names)} positions in each point, got {sorted(widths)}'
        )
    return Trajectory(
        positions=np.array([p.positions for p in msg.points])[:, columns],
        velocities=(
            np.array([p.velocities for p in msg.points])[:, columns] if has_velocities else None
        ),
        times=np.array([to_seconds(p.time_from_start) for p in msg.points]),
        start=to_seconds(msg.header.stamp),
    )


def guard_status_to_msg(
    verdict: Verdict,
    command: Command | None,
    proposal: Proposal | None,
    names: Sequence[str],
    stamp: Time,
    frame_id: str,
) -> GuardStatus:
    """State, reasons and what is commanded; the caller fills in the counters."""
    msg = GuardStatus(state=verdict.state.value, reasons=list(verdict.reasons))
    msg.header.stamp, msg.header.frame_id = stamp, frame_id
    msg.joint_names = list(names)
    msg.command = [] if command is None else command.position.tolist()
    if proposal is not None:
        msg.proposal_stamp = to_time(proposal.stamp)
    return msg


def position_goal_to_msg(goal: PositionGoal, frame_id: str, stamp: Time) -> Goal:
    """Goal of kind OBJECT_POSE or TIP_POSE."""
    msg = Goal(kind=Goal.OBJECT_POSE if goal.subject == 'object' else Goal.TIP_POSE)
    msg.subject = Goal.SUBJECT_OBJECT if goal.subject == 'object' else Goal.SUBJECT_TIP
    msg.pose.header.frame_id, msg.pose.header.stamp = frame_id, stamp
    msg.pose.pose.position = point_to_msg(goal.position)
    half = 0.0 if goal.yaw is None else goal.yaw / 2.0
    msg.pose.pose.orientation.w, msg.pose.pose.orientation.z = math.cos(half), math.sin(half)
    return msg


def image_goal_to_msg(
    subject: str,
    image: ImageArray,
    joints: FloatArray,
    names: Sequence[str],
    frame_id: str,
    stamp: Time,
) -> Goal:
    """Goal of kind IMAGE: ``subject`` ('object' or 'tip') is to be where the image shows it."""
    msg = Goal(kind=Goal.IMAGE, image=image_to_msg(image, stamp, frame_id))
    msg.subject = Goal.SUBJECT_OBJECT if subject == 'object' else Goal.SUBJECT_TIP
    msg.joints = joints_to_msg(
        JointSample(joints, np.zeros_like(joints), to_seconds(stamp)), names
    )
    return msg


def position_goal_from_msg(msg: Goal, base_frame: str) -> PositionGoal:
    """The place in a goal of kind OBJECT_POSE or TIP_POSE.

    Raises:
        ConversionError: another kind, another frame, or not finite.
    """
    subjects = {Goal.OBJECT_POSE: 'object', Goal.TIP_POSE: 'tip'}
    if msg.kind not in subjects:
        raise ConversionError(f'goal: expected kind OBJECT_POSE or TIP_POSE, got {msg.kind}')
    frame = msg.pose.header.frame_id
    if frame not in ('', base_frame):
        raise ConversionError(f'goal: expected a pose in frame {base_frame}, got {frame!r}')
    position = msg.pose.pose.position
    yaw = yaw_from_msg(msg.pose.pose.orientation) if msg.yaw_tolerance else None
    place = np.array([position.x, position.y, position.z])
    try:
        return PositionGoal(subjects[msg.kind], place, yaw)
    except GoalError as error:
        raise ConversionError(str(error)) from None


def heading_from_msg(turn: Quaternion) -> float:
    """rad about the z axis, of any orientation (ZYX Euler angles)."""
    x, y, z, w = turn.x, turn.y, turn.z, turn.w
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def point_to_msg(position: FloatArray) -> Point:
    """Point of ``position`` (3,) m."""
    return Point(x=float(position[0]), y=float(position[1]), z=float(position[2]))


def points_from_marker(msg: Marker) -> FloatArray:
    """(N, 3) m of the points of a marker.

    Raises:
        ConversionError: they are not finite.
    """
    points = np.array([(p.x, p.y, p.z) for p in msg.points], dtype=float).reshape(-1, 3)
    if not np.all(np.isfinite(points)):
        raise ConversionError(f'marker {msg.ns}/{msg.id}: expected finite points')
    return points


def poses_to_msg(
    poses: Sequence[tuple[FloatArray, FloatArray]], frame_id: str, stamp: Time
) -> PoseArray:
    """Poses given as position (3,) m and quaternion (4,) xyzw."""
    msg = PoseArray()
    msg.header.stamp, msg.header.frame_id = stamp, frame_id
    for position, quaternion in poses:
        pose = Pose(position=point_to_msg(position))
        q = pose.orientation
        q.x, q.y, q.z, q.w = map(float, quaternion)
        msg.poses.append(pose)
    return msg


def poses_from_msg(msg: PoseArray) -> list[tuple[FloatArray, FloatArray]]:
    """Poses as position (3,) m and unit quaternion (4,) xyzw.

    Raises:
        ConversionError: not finite, or a quaternion of zeros.
    """
    out = []
    for pose in msg.poses:
        p, q = pose.position, pose.orientation
        position, quaternion = np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
        length = float(np.linalg.norm(quaternion))
        if not np.all(np.isfinite(position)) or not 0.0 < length < np.inf:
            raise ConversionError(
                f'pose: expected a place and a turn, got {position} {quaternion}'
            )
        out.append((position, quaternion / length))
    return out


def _split(seconds: float) -> tuple[int, int]:
    whole = math.floor(seconds)
    carry, nanoseconds = divmod(round((seconds - whole) * NANOSECONDS), NANOSECONDS)
    return whole + carry, nanoseconds
