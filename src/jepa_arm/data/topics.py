"""Messages of a recorded graph by their topics, read from an MCAP file; needs no ROS 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcap.records import Channel, Metadata, Schema
from mcap.records import Message as Record
from mcap_ros2.decoder import DecoderFactory

from ..messages import Message
from .mcap_file import ROLE, RecordingError, records
from .recording import WRIST_IMAGES

NEEDED = {
    'planner/status': 'jepa_arm_msgs/msg/PlannerStatus',
    'planner/goal': 'jepa_arm_msgs/msg/Goal',
    'planner/joint_trajectory': 'trajectory_msgs/msg/JointTrajectory',
    'camera/image_raw': 'sensor_msgs/msg/Image',
    'joint_states': 'sensor_msgs/msg/JointState',
}
USEFUL = {
    'camera/camera_info': 'sensor_msgs/msg/CameraInfo',
    WRIST_IMAGES: 'sensor_msgs/msg/Image',
    'planner/plan_markers': 'visualization_msgs/msg/MarkerArray',
    'move_to_goal/_action/status': 'action_msgs/msg/GoalStatusArray',
}
LARGEST_BYTES = 2_000_000_000
"""Of the messages that are read, all together."""
Timed = list[tuple[float, Message]]
"""Messages with the time of their publication, s of the system clock."""


def read_topics(
    path: Path, namespace: str | None = None
) -> tuple[str, dict[str, Timed], dict[str, str]]:
    """The namespace of the graph in ``path``, its messages by topic, and the recorder's notes.

    Args:
        path: MCAP file.
        namespace: of the graph; needed if the file holds several.

    Returns:
        The topics are those of ``NEEDED`` and ``USEFUL``, their messages in the order of
        publication; of the useful ones there may be no messages.

    Raises:
        RecordingError: no MCAP file, cut off, damaged, or without a topic that is needed.
        OSError: it cannot be read.
    """
    found, about = _read(path)
    space = _namespace(path, found, namespace)
    lacking = [name for name in NEEDED if (space, name) not in found]
    if lacking:
        raise RecordingError(f'{path}: expected the topics {", ".join(NEEDED)}, got no '
                             f'{", ".join(lacking)}')  # fmt: skip
    return space, {name: found.get((space, name), []) for name in (*NEEDED, *USEFUL)}, about


def _read(path: Path) -> tuple[dict[tuple[str, str], Timed], dict[str, str]]:
    """Messages by (namespace, topic in it), in the order of publication; the recorder's notes.

    A topic that the planner was remapped to stands for the usual one, whoever published on that.
    """
    decoders, schemas = DecoderFactory(), dict[int, Schema]()
    channels: dict[int, tuple[tuple[str, str], bool]] = {}
    heard: dict[tuple[tuple[str, str], bool], Timed] = {}
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
                role = record.metadata.get(ROLE)
                name = _wanted(role or record.topic, schema.name)
                if name is not None and record.id not in channels:
                    channels[record.id] = name, role is not None
                    heard.setdefault(channels[record.id], [])
                    decode[record.id] = _decoder(path, decoders, record, schema)
            elif isinstance(record, Record) and record.channel_id in channels:
                size += len(record.data)
                if size > LARGEST_BYTES:
                    raise RecordingError(f'{path}: expected at most {LARGEST_BYTES} bytes to read')
                msg = decode[record.channel_id](record.data)
                heard[channels[record.channel_id]].append((record.publish_time / 1e9, msg))
    found = {name: heard.get((name, True)) or heard[name, is_role] for name, is_role in heard}
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
