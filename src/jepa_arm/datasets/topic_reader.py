"""Topic reader: decodes the messages of a recorded ROS graph, by topic, without ROS 2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mcap.records import Channel, Metadata, Schema
from mcap.records import Message as MessageRecord
from mcap_ros2.decoder import DecoderFactory

from jepa_arm.core.messages import Message

from .mcap_file import DEFAULT_TOPIC_KEY, RecordingError, read_records
from .recording import WRIST_IMAGE_TOPIC

REQUIRED_TOPICS = {
    'planner/status': 'jepa_arm_msgs/msg/PlannerStatus',
    'planner/goal': 'jepa_arm_msgs/msg/Goal',
    'planner/joint_trajectory': 'trajectory_msgs/msg/JointTrajectory',
    'camera/image_raw': 'sensor_msgs/msg/Image',
    'joint_states': 'sensor_msgs/msg/JointState',
}
OPTIONAL_TOPICS = {
    'camera/camera_info': 'sensor_msgs/msg/CameraInfo',
    WRIST_IMAGE_TOPIC: 'sensor_msgs/msg/Image',
    'planner/plan_markers': 'visualization_msgs/msg/MarkerArray',
    'move_to_goal/_action/status': 'action_msgs/msg/GoalStatusArray',
}
MESSAGES_LIMIT = 2_000_000_000
"""Largest total size of the decoded messages, in bytes."""
TimedMessages = list[tuple[float, Message]]
"""Pairs (publication time in s of the system clock, message), in order of publication."""
TopicName = tuple[str, str]
"""(namespace, name in the namespace)."""


def read_topics(
    path: Path, namespace: str | None = None
) -> tuple[dict[str, TimedMessages], dict[str, str]]:
    """Read the messages of the graph in the MCAP file ``path``.

    Args:
        path: MCAP file.
        namespace: namespace of the graph; required if the file contains several.

    Returns:
        messages by topic name as in ``REQUIRED_TOPICS`` and ``OPTIONAL_TOPICS`` (optional topics
        may have no messages), and the metadata written by the recorder.

    Raises:
        RecordingError: the file is not MCAP, truncated or damaged, or a required topic is missing.
        OSError: the file cannot be read.
    """
    found, notes = _read(path)
    namespace = _select_namespace(path, found, namespace)
    missing = [name for name in REQUIRED_TOPICS if (namespace, name) not in found]
    if missing:
        raise RecordingError(
            f'{path}: expected the topics {", ".join(REQUIRED_TOPICS)}, got no '
            f'{", ".join(missing)}'
        )
    names = (*REQUIRED_TOPICS, *OPTIONAL_TOPICS)
    return {name: found.get((namespace, name), []) for name in names}, notes


def _read(path: Path) -> tuple[dict[TopicName, TimedMessages], dict[str, str]]:
    """Return messages by topic, and the recorder's metadata.

    If the planner was remapped to another topic, that topic's messages are returned under the
    default name, and messages of other nodes on the default name are dropped.
    """
    factory, schemas = DecoderFactory(), dict[int, Schema]()
    channels: dict[int, tuple[Callable[[bytes], Message], TimedMessages]] = {}
    remapped: dict[TopicName, TimedMessages] = defaultdict(list)
    default: dict[TopicName, TimedMessages] = defaultdict(list)
    notes: dict[str, str] = {}
    size = 0
    with path.open('rb') as stream:
        for record in read_records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Metadata) and record.name == 'jepa_arm':
                notes = dict(record.metadata)
            elif isinstance(record, Channel) and record.schema_id in schemas:
                schema = schemas[record.schema_id]
                default_topic = record.metadata.get(DEFAULT_TOPIC_KEY)
                name = _known_topic(default_topic or record.topic, schema.name)
                if name is not None and record.id not in channels:
                    messages = (default if default_topic is None else remapped)[name]
                    channels[record.id] = _decoder(path, factory, record, schema), messages
            elif isinstance(record, MessageRecord) and record.channel_id in channels:
                size += len(record.data)
                if size > MESSAGES_LIMIT:
                    raise RecordingError(f'{path}: expected at most {MESSAGES_LIMIT} bytes')
                decode, messages = channels[record.channel_id]
                messages.append((record.publish_time / 1e9, decode(record.data)))
    found = {name: remapped[name] or default[name] for name in {*remapped, *default}}
    for messages in found.values():
        messages.sort(key=lambda timed: timed[0])
    return found, notes


def _known_topic(topic: str, message_type: str) -> TopicName | None:
    """Return the namespace and name of a topic that is read; None for any other topic."""
    for name, expected in (REQUIRED_TOPICS | OPTIONAL_TOPICS).items():
        if topic.endswith('/' + name) and message_type == expected:
            return topic.removesuffix('/' + name), name
    return None


def _decoder(
    path: Path, factory: DecoderFactory, channel: Channel, schema: Schema
) -> Callable[[bytes], Message]:
    """Return a decoder of a channel's messages; it raises ``RecordingError`` for damaged ones."""
    try:
        decode = factory.decoder_for(channel.message_encoding, schema)
    except Exception as error:  # the parser raises many types
        raise RecordingError(f'{path}, {schema.name}: unreadable definition: {error}') from None
    if decode is None:
        raise RecordingError(
            f'{path}, {channel.topic}: expected encodings cdr and ros2msg, got '
            f'{channel.message_encoding} and {schema.encoding}'
        )

    def decode_checked(data: bytes) -> Message:
        try:
            return decode(data)
        except Exception as error:  # damaged bytes: struct.error, UnicodeDecodeError, ...
            raise RecordingError(
                f'{path}, {channel.topic}: a message cannot be decoded: {error}'
            ) from None

    return decode_checked


def _select_namespace(path: Path, found: Mapping[TopicName, Any], wanted: str | None) -> str:
    """Return ``wanted``, or the only namespace that contains a planner."""
    namespaces = sorted({namespace for namespace, name in found if name == 'planner/status'})
    if wanted is not None:
        wanted = f'/{wanted.strip("/")}' if wanted.strip('/') else ''
        if wanted in namespaces:
            return wanted
    if not namespaces:
        raise RecordingError(f'{path}: expected a recording of a planner, got no planner/status')
    if wanted is not None or len(namespaces) > 1:
        names = ', '.join(namespace or '/' for namespace in namespaces)
        raise RecordingError(f'{path}: expected --namespace to be one of {names}')
    return namespaces[0]
