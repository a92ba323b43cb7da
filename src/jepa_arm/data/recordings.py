"""What a planner saw, was asked for and proposed, read from an MCAP file; needs no ROS 2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from mcap.records import Channel, Metadata, Schema
from mcap.records import Message as Record
from mcap_ros2.decoder import DecoderFactory

from ..config import CameraConfig
from ..messages import (
    ConversionError,
    Message,
    image_from_msg,
    joints_from_msg,
    proposal_from_msg,
    to_seconds,
)
from ..types import FloatArray, JointSample, Observation, Proposal
from .mcap_file import RecordingError, records

NEEDED = {
    'planner/status': 'jepa_arm_msgs/msg/PlannerStatus',
    'planner/goal': 'jepa_arm_msgs/msg/Goal',
    'planner/joint_trajectory': 'trajectory_msgs/msg/JointTrajectory',
    'camera/image_raw': 'sensor_msgs/msg/Image',
    'joint_states': 'sensor_msgs/msg/JointState',
}
USEFUL = {
    'camera/camera_info': 'sensor_msgs/msg/CameraInfo',
    'planner/plan_markers': 'visualization_msgs/msg/MarkerArray',
    'move_to_goal/_action/status': 'action_msgs/msg/GoalStatusArray',
}
LARGEST_BYTES = 2_000_000_000
"""Of the messages that are read, all together."""
AROUND_S = 1.0
"""Joint states that came so long before or after an image may be those at its stamp."""
JOINT_GAP_S = 0.1
SPHERE = 2
"""Type of the marker that shows the goal."""
OUTCOMES = {4: 'SUCCEEDED', 5: 'CANCELED', 6: 'ABORTED'}
"""Of ``GoalStatus.msg``, those with which a goal ends."""
Timed = list[tuple[float, Message]]
"""Messages with the time of their publication, s of the system clock."""


class PlannerState(Enum):
    """What a planner does; values equal those of ``PlannerStatus.msg``."""

    IDLE = 0
    PLANNING = 1
    HOLDING = 2
    FAULT = 3


@dataclass(frozen=True)
class Step:
    """One planning step.

    Attributes:
        published: s of the system clock, when the planner told of it; plan_ms: of its search.
        told, is_continued, latency_s: what it started from; see ``decision.Decision``. ``told`` is
            None where nothing was decided. speed: share of the full speed it was planned with.
        seen: that it was made from; joints alone where no image had come in time.
        state: of the planner. source: of its plan. candidates: priced for it.
        distance: m, read distance to the goal; surprise: see ``decision.Decision``.
        proposal: what was sent to the guard; None: nothing.
    """

    published: float
    plan_ms: float
    told: FloatArray | None
    is_continued: bool
    latency_s: float
    speed: float
    seen: Observation | JointSample
    state: PlannerState
    source: str
    candidates: int
    distance: float
    surprise: float
    proposal: Proposal | None


@dataclass(frozen=True)
class Asked:
    """One goal that was pursued.

    Attributes:
        published: s of the system clock, when its pursuit began.
        subject: 'object' or 'tip'.
        place: (3,) m, base frame, if it was asked for as a place; else None.
        shown: with image and joints if it was asked for so; only joints count for the tip.
        reach: m, read distance that counted as reached; NaN if it is not known.
        read_place: (3,) m, where the recorded planner took it to be; None if it is not known.
        outcome: of the action; empty if its end was not recorded.
    """

    published: float
    subject: str
    place: FloatArray | None
    shown: Observation | None
    reach: float
    read_place: FloatArray | None
    outcome: str


@dataclass(frozen=True)
class Recording:
    """What a replay needs of a file.

    Attributes:
        about: the recorder's notes: ``planner.checkpoint``, ``planner.seed``, ``git``, ...
        began: s of the system clock, when the first image was published.
        steps, goals: in the order of their publication. A goal may have begun before.
        unplanned: images between the first and the last step that were not planned from, with
            the time of their publication.
        camera_info: the first; None: not recorded.
    """

    path: Path
    namespace: str
    about: Mapping[str, str]
    began: float
    steps: tuple[Step, ...]
    goals: tuple[Asked, ...]
    unplanned: tuple[tuple[float, Observation], ...]
    camera_info: Message | None


def read_recording(
    path: Path, joint_names: Sequence[str], camera: CameraConfig, namespace: str | None = None
) -> Recording:
    """The recording in ``path``, of an arm with joints ``joint_names`` and images of ``camera``.

    Args:
        path, joint_names, camera: see above.
        namespace: of the graph; needed if the file holds several.

    Raises:
        RecordingError: no MCAP file, cut off, damaged, without a topic that is needed, or of
            another arm or camera. OSError: it cannot be read.
    """
    found, about = _read(path)
    space = _namespace(path, found, namespace)
    topics = {name: found.get((space, name), []) for name in (*NEEDED, *USEFUL)}
    lacking = [name for name in NEEDED if (space, name) not in found]
    if lacking:
        raise RecordingError(f'{path}: expected the topics {", ".join(NEEDED)}, got no '
                             f'{", ".join(lacking)}')  # fmt: skip
    if not topics['planner/goal']:
        raise RecordingError(f'{path}: expected a goal that was pursued, got none to decide about')
    try:
        joints = Joints(topics['joint_states'], joint_names)
        steps = _steps(topics, joints, joint_names, camera)
        goals = _goals(topics, joint_names, camera)
        unplanned = _unplanned(topics, joints, steps, camera)
    except ConversionError as error:
        raise RecordingError(f'{path}: another arm or camera? {error}') from None
    except (AttributeError, TypeError) as error:
        raise RecordingError(f'{path}: messages of another version? {error}') from None
    if not steps:
        raise RecordingError(f'{path}: expected planning steps with their images, got none')
    infos = topics['camera/camera_info']
    info = infos[0][1] if infos else None
    began = topics['camera/image_raw'][0][0]
    return Recording(path, space, about, began, steps, goals, unplanned, info)


def _read(path: Path) -> tuple[dict[tuple[str, str], Timed], dict[str, str]]:
    """Messages by (namespace, topic in it), in the order of publication; the recorder's notes."""
    decoders, schemas = DecoderFactory(), dict[int, Schema]()
    channels: dict[int, tuple[str, str]] = {}
    found: dict[tuple[str, str], Timed] = {}
    about: dict[str, str] = {}
    size, decode = 0, dict[int, Any]()
    with path.open('rb') as stream:
        for record in records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Metadata) and record.name == 'jepa_arm':
                about = dict(record.metadata)
            elif isinstance(record, Channel) and record.schema_id in schemas:
                schema = schemas[record.schema_id]
                name = _wanted(record.topic, schema.name)
                if name is not None and record.id not in channels:
                    channels[record.id] = name
                    found.setdefault(name, [])
                    decode[record.id] = _decoder(path, decoders, record, schema)
            elif isinstance(record, Record) and record.channel_id in channels:
                size += len(record.data)
                if size > LARGEST_BYTES:
                    raise RecordingError(f'{path}: expected at most {LARGEST_BYTES} bytes to read')
                msg = decode[record.channel_id](record.data)
                found[channels[record.channel_id]].append((record.publish_time / 1e9, msg))
    for messages in found.values():
        messages.sort(key=lambda timed: timed[0])
    return found, about


def _wanted(topic: str, kind: str) -> tuple[str, str] | None:
    """(Namespace, name in it) of a topic that is read; None of others."""
    for name, expected in (NEEDED | USEFUL).items():
        if topic.endswith('/' + name) and kind == expected:
            return topic.removesuffix('/' + name), name
    return None


def _decoder(path: Path, factory: DecoderFactory, channel: Channel, schema: Schema) -> Any:
    try:
        decode = factory.decoder_for(channel.message_encoding, schema)
    except Exception as error:  # its parser raises many kinds
        raise RecordingError(f'{path}, {schema.name}: unreadable definition: {error}') from None
    if decode is None:
        raise RecordingError(
            f'{path}, {channel.topic}: expected encodings cdr and ros2msg, got '
            f'{channel.message_encoding} and {schema.encoding}'
        )

    def checked(data: bytes) -> Message:
        try:
            return decode(data)
        except Exception as error:  # of damaged bytes: struct.error, UnicodeDecodeError, ...
            raise RecordingError(
                f'{path}, {channel.topic}: a message cannot be decoded: {error}'
            ) from None

    return checked


def _namespace(path: Path, found: Mapping[tuple[str, str], Any], wanted: str | None) -> str:
    spaces = sorted({space for space, name in found if name == 'planner/status'})
    if wanted is not None:
        wanted = f'/{wanted.strip("/")}' if wanted.strip('/') else ''
        if wanted in spaces:
            return wanted
    if not spaces:
        raise RecordingError(f'{path}: expected a recording of a planner, got no planner/status')
    if wanted is not None or len(spaces) > 1:
        named = ', '.join(space or '/' for space in spaces)
        raise RecordingError(f'{path}: expected --namespace to be one of {named}')
    return spaces[0]


class Joints:
    """Joint states by their stamps and by their publication."""

    def __init__(self, messages: Timed, names: Sequence[str]) -> None:
        samples = [_finite(joints_from_msg(msg, names)) for _, msg in messages]
        kept = [i for i, sample in enumerate(samples) if sample is not None]
        if not kept:
            raise ConversionError('joint states: expected finite ones, got none')
        self._published = np.array([messages[i][0] for i in kept])
        self._stamps = np.array([samples[i].stamp for i in kept])  # pyright: ignore
        self._positions = np.array([samples[i].position for i in kept])  # pyright: ignore

    def at(self, stamp: float, published: float) -> FloatArray | None:
        """(J,) rad at ``stamp``, interpolated among those published about then; None: too far."""
        first, last = np.searchsorted(
            self._published, [published - AROUND_S, published + AROUND_S]
        )
        stamps = self._stamps[first:last]
        if len(stamps) == 0 or np.min(np.abs(stamps - stamp)) > JOINT_GAP_S:
            return None
        order = np.argsort(stamps, kind='stable')
        columns = self._positions[first:last][order].T
        return np.array([np.interp(stamp, stamps[order], column) for column in columns])


def _finite(sample: JointSample) -> JointSample | None:
    return sample if np.all(np.isfinite(sample.position)) else None


def _steps(
    topics: Mapping[str, Timed],
    joints: Joints,
    joint_names: Sequence[str],
    camera: CameraConfig,
) -> tuple[Step, ...]:
    size = camera.width, camera.height
    images = {to_seconds(msg.header.stamp): (at, msg) for at, msg in topics['camera/image_raw']}
    proposals = {to_seconds(m.header.stamp): m for _, m in topics['planner/joint_trajectory']}
    steps = []
    for published, status in topics['planner/status']:
        stamp = to_seconds(status.observation_stamp)
        told = _told(status, joint_names)
        if stamp not in images and (stamp == 0.0 or told is None):
            continue  # nothing was planned
        if steps and steps[-1].seen.stamp == stamp:
            continue
        state = PlannerState(status.state)
        is_blind = state is PlannerState.PLANNING and status.reason != ''
        shown_at, image = images.get(stamp, (published, None))
        position = joints.at(stamp, shown_at)
        if position is None:
            continue
        seen = JointSample(position, np.zeros_like(position), stamp)
        if image is not None and not is_blind:  # where it was, it came too late
            seen = Observation(image_from_msg(image, size), position, stamp)
        sent = proposals.get(stamp)
        steps.append(
            Step(
                published,
                status.plan_ms,
                told,
                status.is_continued,
                status.latency_ms / 1000.0,
                getattr(status, 'speed_scale', 0.0) or 1.0,  # older recordings have none
                seen,
                state,
                status.source,
                status.candidates,
                status.distance,
                status.surprise,
                None if sent is None else proposal_from_msg(sent, 0.0),
            )
        )
    return tuple(steps)


def _unplanned(
    topics: Mapping[str, Timed], joints: Joints, steps: Sequence[Step], camera: CameraConfig
) -> tuple[tuple[float, Observation], ...]:
    planned = {step.seen.stamp for step in steps if isinstance(step.seen, Observation)}
    found = []
    for published, image in topics['camera/image_raw'] if steps else ():
        stamp = to_seconds(image.header.stamp)
        position = joints.at(stamp, published)
        if stamp in planned or not steps[0].seen.stamp < stamp < steps[-1].seen.stamp:
            continue
        if position is not None:
            pixels = image_from_msg(image, (camera.width, camera.height))
            found.append((published, Observation(pixels, position, stamp)))
    return tuple(found)


def _told(status: Message, joint_names: Sequence[str]) -> FloatArray | None:
    told = np.array(status.told, dtype=float)
    if len(told) not in (0, len(joint_names)) or not np.all(np.isfinite(told)):
        raise ConversionError(
            f'planner status: expected {len(joint_names)} finite joints in told, got {told}'
        )
    return told if len(told) else None


def _goals(
    topics: Mapping[str, Timed], names: Sequence[str], camera: CameraConfig
) -> tuple[Asked, ...]:
    goals = topics['planner/goal']
    ends = [*(at for at, _ in goals[1:]), np.inf][: len(goals)]
    return tuple(
        _asked(at, end, msg, topics, names, camera)
        for (at, msg), end in zip(goals, ends, strict=True)
    )


def _asked(
    at: float,
    end: float,
    msg: Message,
    topics: Mapping[str, Timed],
    names: Sequence[str],
    camera: CameraConfig,
) -> Asked:
    place = shown = None
    subject = 'object' if msg.subject == 0 else 'tip'
    if msg.kind == 0:  # IMAGE
        pixels = image_from_msg(msg.image, (camera.width, camera.height))
        shown = Observation(pixels, joints_from_msg(msg.joints, names).position, 0.0)
    elif msg.kind in (2, 3):  # OBJECT_POSE, TIP_POSE
        subject, p = ('object', 'tip')[msg.kind - 2], msg.pose.pose.position
        place = np.array([p.x, p.y, p.z])
    elif msg.kind == 4:  # JOINTS
        subject, position = 'tip', joints_from_msg(msg.joints, names).position
        blank = np.zeros((camera.height, camera.width, 3), dtype=np.uint8)
        shown = Observation(blank, position, 0.0)
    else:
        raise ConversionError(f'goal: expected kind 0, 2, 3 or 4, got {msg.kind}')
    reach, read_place = _drawn(topics['planner/plan_markers'], at, end)
    outcome = _outcome(topics['move_to_goal/_action/status'], at)
    return Asked(at, subject, place, shown, reach, read_place, outcome)


def _drawn(markers: Timed, start: float, end: float) -> tuple[float, FloatArray | None]:
    """Radius (m) and place (3,) of the first sphere that was drawn as the goal."""
    for at, msg in markers:
        for marker in msg.markers if start <= at < end else ():
            if marker.type == SPHERE and marker.action == 0:
                p = marker.pose.position
                return marker.scale.x / 2.0, np.array([p.x, p.y, p.z])
    return np.nan, None


def _outcome(statuses: Timed, start: float) -> str:
    """How the goal ended that was accepted last before ``start``."""
    first_seen: dict[bytes, float] = defaultdict(lambda: np.inf)
    ended: dict[bytes, str] = {}
    for at, msg in statuses:
        for status in msg.status_list:
            key = bytes(status.goal_info.goal_id.uuid)
            first_seen[key] = min(first_seen[key], at)
            if status.status in OUTCOMES and at >= start:
                ended.setdefault(key, OUTCOMES[status.status])
    before = [(at, key) for key, at in first_seen.items() if at <= start and key in ended]
    return ended[max(before)[1]] if before else ''
