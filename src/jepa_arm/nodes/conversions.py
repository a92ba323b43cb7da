"""Messages into our values and back; the only module that knows both.

What cannot be converted raises ``ConversionError`` with what was expected and what came.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseArray
from jepa_arm_msgs.msg import Goal, GuardStatus
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..config import CameraConfig
from ..goals import GoalError, PositionGoal
from ..sim.camera import intrinsics
from ..types import Command, FloatArray, ImageArray, JointSample, Proposal, Verdict
from .controller import Trajectory

NANOSECONDS = 1_000_000_000
ENCODINGS = ('rgb8', 'bgr8')
LONGEST_TEXT = 500
"""Characters of an error; it goes into logs and status messages."""


class ConversionError(ValueError):
    """A message that cannot be used; what came is quoted, but not however long it is."""

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= LONGEST_TEXT else f'{text[:LONGEST_TEXT]} ...')


def to_seconds(stamp: Time | Duration) -> float:
    """s of a time or duration message."""
    return stamp.sec + stamp.nanosec / NANOSECONDS


def to_time(seconds: float) -> Time:
    """The time message of ``seconds``, to the nearest nanosecond."""
    whole, nanoseconds = _split(seconds)
    return Time(sec=whole, nanosec=nanoseconds)


def to_duration(seconds: float) -> Duration:
    """The duration message of ``seconds``, to the nearest nanosecond."""
    whole, nanoseconds = _split(seconds)
    return Duration(sec=whole, nanosec=nanoseconds)


def image_from_msg(msg: Image, size: tuple[int, int] | None = None) -> ImageArray:
    """(h, w, 3) uint8 RGB, a copy, of an ``rgb8`` or ``bgr8`` image.

    Args:
        msg: rows may be padded (``step``).
        size: (width, height) it must have.
    """
    if msg.encoding not in ENCODINGS:
        raise ConversionError(f'image: expected encoding rgb8 or bgr8, got {msg.encoding!r}')
    if size is not None and (msg.width, msg.height) != size:
        raise ConversionError(
            f'image: expected {size[0]}x{size[1]} pixels, got {msg.width}x{msg.height}'
        )
    row = 3 * msg.width
    if row == 0 or msg.height == 0:
        raise ConversionError('image: expected pixels, got none')
    if msg.step < row or len(msg.data) != msg.step * msg.height:
        raise ConversionError(
            f'image: expected step >= {row} and step * height bytes, got step {msg.step}, '
            f'height {msg.height} and {len(msg.data)} bytes'
        )
    rows = np.frombuffer(msg.data, dtype=np.uint8).reshape(msg.height, msg.step)[:, :row]
    pixels = rows.reshape(msg.height, msg.width, 3)
    if msg.encoding == 'rgb8':
        return pixels.copy()
    import cv2  # late: the guard's process needs no images

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


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


def joints_from_msg(msg: JointState, names: Sequence[str]) -> JointSample:
    """The joints ``names`` out of a state with any order; other joints are ignored.

    Velocities that are not reported are zeros. Values may be NaN: the guard judges them.
    """
    index = {name: i for i, name in enumerate(msg.name)}
    missing = [name for name in names if name not in index]
    if missing:
        raise ConversionError(
            f'joint state: expected joints {list(names)}, missing {missing}, got '
            f'{list(msg.name)[:20]}'
        )
    if len(msg.position) != len(msg.name):
        raise ConversionError(
            f'joint state: expected {len(msg.name)} positions, got {len(msg.position)}'
        )
    columns = [index[name] for name in names]
    position = np.array(msg.position, dtype=float)[columns]
    has_velocity = len(msg.velocity) == len(msg.name)
    velocity = np.array(msg.velocity, dtype=float)[columns] if has_velocity else None
    return JointSample(
        position=position,
        velocity=np.zeros_like(position) if velocity is None else velocity,
        stamp=to_seconds(msg.header.stamp),
    )


def joints_to_msg(sample: JointSample, names: Sequence[str]) -> JointState:
    """Joint state of a sample."""
    msg = JointState(name=list(names))
    msg.header.stamp = to_time(sample.stamp)
    msg.position, msg.velocity = sample.position.tolist(), sample.velocity.tolist()
    return msg


def proposal_from_msg(msg: JointTrajectory, valid_for: float) -> Proposal:
    """The proposal in a trajectory of positions; velocities and accelerations are not read.

    Args:
        msg: header.stamp is that of the observation.
        valid_for: s, since the message has no field for it.
    """
    width = len(msg.joint_names)
    for i, point in enumerate(msg.points):
        if len(point.positions) != width:
            raise ConversionError(
                f'trajectory: expected {width} positions at point {i}, got {len(point.positions)}'
            )
    return Proposal(
        joint_names=tuple(msg.joint_names),
        positions=np.array([p.positions for p in msg.points], dtype=float).reshape(
            len(msg.points), width
        ),
        times=np.array([to_seconds(p.time_from_start) for p in msg.points], dtype=float),
        stamp=to_seconds(msg.header.stamp),
        valid_for=valid_for,
    )


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
    command: Command, names: Sequence[str], duration: float, stamp: Time | None = None
) -> JointTrajectory:
    """One point to be reached in ``duration`` s from now (or from ``stamp``)."""
    point = JointTrajectoryPoint(
        positions=command.position.tolist(),
        velocities=command.velocity.tolist(),
        time_from_start=to_duration(duration),
    )
    msg = JointTrajectory(joint_names=list(names), points=[point])
    if stamp is not None:
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
    msg.pose.pose.orientation.w = 1.0
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
    try:
        return PositionGoal(subjects[msg.kind], np.array([position.x, position.y, position.z]))
    except GoalError as error:
        raise ConversionError(str(error)) from None


def point_to_msg(position: FloatArray) -> Point:
    """Point of ``position`` (3,) m."""
    return Point(x=float(position[0]), y=float(position[1]), z=float(position[2]))


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


def diagnostics_to_msg(
    name: str, problems: Sequence[str], values: Mapping[str, object], stamp: Time
) -> DiagnosticArray:
    """One status: OK, or WARN with the ``problems``; ``values`` as text."""
    status = DiagnosticStatus(
        name=name,
        level=DiagnosticStatus.WARN if problems else DiagnosticStatus.OK,
        message='; '.join(problems) or 'ok',
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    msg = DiagnosticArray(status=[status])
    msg.header.stamp = stamp
    return msg


def _split(seconds: float) -> tuple[int, int]:
    whole = math.floor(seconds)
    carry, nanoseconds = divmod(round((seconds - whole) * NANOSECONDS), NANOSECONDS)
    return whole + carry, nanoseconds
