"""Recorder: writes the messages of a graph to one MCAP file, for ``jepa-arm record``.

Messages are written as received (CDR), with the times of publication and arrival on the system
clock, which neither stands still nor jumps when simulated time does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any

import yaml
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.duration import Duration
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from jepa_arm import __version__
from jepa_arm.core.files import git_hash
from jepa_arm.datasets.mcap_file import DEFAULT_TOPIC_KEY, McapWriter, RecordingError
from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.runtime.compat import take
from jepa_arm.ros.runtime.executors import ManualGroup
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC
from jepa_arm.ros.runtime.process import StopRequest

from .message_definitions import DefinitionError, definition, message_class
from .topics_in_use import topics_in_use

TOPICS = (
    'camera/image_raw',
    'camera/camera_info',
    'wrist_camera/image_raw',
    'joint_states',
    'planner/joint_trajectory',
    'planner/status',
    'planner/goal',
    'planner/plan_markers',
    'planner/plan_preview',
    'guard/status',
    COMMAND_TOPIC,
    'move_to_goal/_action/status',
    'ground_truth/objects',
    'robot_description',
    '/tf',
    '/tf_static',
    '/diagnostics',
    '/rosout',
    '/clock',
    'clock',  # of a virtual arm in a namespace
)
"""Topics that are recorded by default if they are published; where guard and planner use another
name, that one is recorded. The feedback of ``move_to_goal`` is left out: all but its yaw error is
in ``planner/status``."""
FIRST_MESSAGE_S = 10.0
"""Shortest time for which a recording of a given duration waits for its first message."""
DISCOVERY_PERIOD_S = 0.5
"""Period at which new topics and publishers are looked for."""
FLUSH_PERIOD_S = 1.0
"""Period at which a chunk is completed; at most this much is lost if the process dies."""
DEPTH = 100
"""Messages of a topic that may wait to be written."""
POLL_S = 0.02
"""Period at which messages are taken: an executor that wakes up for each message takes four times
the processor time from the recorded nodes. Messages carry their time of arrival."""
NODES = ('planner', 'guard')
"""Nodes whose parameters are recorded."""
SERVICES = (ListParameters, 'list_parameters'), (GetParameters, 'get_parameters')
"""Services of each node that list and get its parameters."""
PATH_PARAMETERS = (
    *('checkpoint', 'arm', 'planner_config', 'sim_config', 'guard_config', 'belief_file'),
)
"""Parameters that may be paths of this machine; only the last part is recorded."""


QOS_FIELDS = (
    *('history', 'depth', 'reliability', 'durability', 'deadline', 'lifespan'),
    *('liveliness', 'liveliness_lease_duration', 'avoid_ros_namespace_conventions'),
)
"""Policies in the metadata of rosbag2, in the same order."""


class Recorder:
    """Subscribes to topics as they appear and writes their messages to a file.

    Attributes:
        skipped: reason for each published topic that cannot be recorded.
        default_names: default name of each topic that guard and planner use under another name.
    """

    def __init__(self, file: McapWriter, topics: Sequence[str], client: GraphClient) -> None:
        """Start without subscriptions.

        Args:
            file: file to write to.
            topics: names, relative to the namespace of ``client``; empty for ``TOPICS``.
            client: client of the graph.
        """
        self._file, self._client, self._node = file, client, client.node
        self._is_chosen = bool(topics)
        names = [self._node.resolve_topic_name(name) for name in topics or TOPICS]
        self._wanted = dict.fromkeys(names)
        self.default_names: dict[str, str] = {}
        self._subscriptions: dict[str, tuple[Subscription, QoSProfile]] = {}
        self._channels: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self._parameters = ParameterReader(client)
        self._group = ManualGroup()

    def run(self, stop: StopRequest, duration: float | None) -> float:
        """Record until a stop signal or for ``duration`` s, then add the metadata.

        The ``duration`` counts from the first message, since discovery may take some seconds.

        Returns:
            s since the first message.

        Raises:
            OSError: the file cannot be written.
        """
        limit = float('inf') if duration is None else duration
        first, ends_at = None, monotonic() + max(limit, FIRST_MESSAGE_S)
        discovers_at = flushes_at = monotonic()
        while not stop.is_set and (now := monotonic()) < ends_at:
            if now >= discovers_at:
                self._discover()
                discovers_at = now + DISCOVERY_PERIOD_S
            if now >= flushes_at:
                self._file.flush()
                flushes_at = now + FLUSH_PERIOD_S
            self._write_messages()
            if first is None and self._file.counts:
                first = monotonic()
                ends_at = first + limit
            sleep(POLL_S)
        notes = {
            'version': __version__,
            'git': git_hash(),
            'namespace': self._node.get_namespace(),
            'domain': os.environ.get('ROS_DOMAIN_ID', '0'),
        }
        self._file.add_metadata('jepa_arm', notes | self._parameters.values)
        return 0.0 if first is None else monotonic() - first

    def _discover(self) -> None:
        """Subscribe to the wanted topics that are published."""
        self._parameters.request()
        self._find_remapped_topics()
        kinds = dict(self._node.get_topic_names_and_types())
        for topic in self._wanted:
            offers = self._node.get_publishers_info_by_topic(topic) if topic in kinds else []
            if not offers or topic in self.skipped:
                continue
            offered = [offer.qos_profile for offer in offers]
            try:
                self._subscribe(topic, kinds[topic], offered)
            except DefinitionError as problem:
                self.skipped[topic] = str(problem)

    def _find_remapped_topics(self) -> None:
        """Record remapped topics of guard and planner in place of the default ones."""
        for role, topic in topics_in_use(self._node).items():
            usual = self._node.resolve_topic_name(role)
            if topic != usual:
                self.default_names[topic] = usual
            if not self._is_chosen:
                self._wanted[topic] = None
                if topic != usual and usual not in self._subscriptions:
                    self._wanted.pop(usual, None)

    def _subscribe(self, topic: str, kinds: list[str], offered: list[QoSProfile]) -> None:
        """Subscribe to a topic, and again whenever its publishers' QoS profiles have changed."""
        if len(kinds) != 1:
            raise DefinitionError(f'expected one type of messages, got {", ".join(kinds)}')
        qos, node = matching(offered), self._node
        kind = message_class(kinds[0])
        before = self._subscriptions.get(topic)
        if before is not None:
            if before[1] == qos:
                return
            self._client.execute(lambda: node.destroy_subscription(before[0]))
        else:
            about = {'offered_qos_profiles': describe(offered)}
            if topic in self.default_names:
                about[DEFAULT_TOPIC_KEY] = self.default_names[topic]
            text = definition(kinds[0])
            self._channels[topic] = self._file.add_topic(topic, kinds[0], text, about)
        subscription = self._client.execute(
            lambda: node.create_subscription(
                kind, topic, _taken_by_polling, qos, callback_group=self._group, raw=True
            )
        )
        self._subscriptions[topic] = subscription, qos

    def _write_messages(self) -> None:
        """Write the messages that have arrived."""
        for topic, (subscription, _) in self._subscriptions.items():
            while (taken := take(subscription)) is not None:
                data, info = taken
                received = info['received_timestamp'] or time_ns()
                published = info['source_timestamp'] or received
                self._file.write(self._channels[topic], data, received, published)


class ParameterReader:
    """Requests the node parameters that a replay needs, without waiting for the answers.

    Attributes:
        values: received parameters as text, by names such as ``planner.seed``.
    """

    def __init__(self, client: GraphClient) -> None:
        self.values: dict[str, str] = {}
        node = client.node
        self._clients = {
            name: [
                client.execute(partial(node.create_client, kind, f'{name}/{service}'))
                for kind, service in SERVICES
            ]
            for name in NODES
        }
        self._answered = set[str]()

    def request(self) -> None:
        """Request the parameters of the nodes that have not answered yet."""
        for name, clients in self._clients.items():
            if name not in self._answered and all(c.service_is_ready() for c in clients):
                future = clients[0].call_async(ListParameters.Request())
                future.add_done_callback(partial(self._on_names, name))

    def _on_names(self, name: str, future: Any) -> None:
        names = list(future.result().result.names)
        values = self._clients[name][1].call_async(GetParameters.Request(names=names))
        values.add_done_callback(partial(self._on_values, name, names))

    def _on_values(self, name: str, names: list[str], future: Any) -> None:
        for key, value in zip(names, future.result().values, strict=False):
            text = str(parameter_value_to_python(value))
            self.values[f'{name}.{key}'] = Path(text).name if key in PATH_PARAMETERS else text
        self._answered.add(name)


def matching(offered: Sequence[QoSProfile]) -> QoSProfile:
    """Return a profile that connects to all publishers and receives their latched messages."""
    is_reliable = all(q.reliability == ReliabilityPolicy.RELIABLE for q in offered)
    is_kept = all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offered)
    return QoSProfile(
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_kept else DurabilityPolicy.VOLATILE,
    )


def describe(offered: Sequence[QoSProfile]) -> str:
    """Return profiles as YAML, in the form of rosbag2's metadata (version 9)."""
    profiles = [{name: _plain(getattr(q, name)) for name in QOS_FIELDS} for q in offered]
    return yaml.safe_dump(profiles, sort_keys=False)


def _plain(value: Any) -> Any:
    """Return the value of a quality-of-service policy as in rosbag2's metadata."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Duration):
        seconds, nanoseconds = divmod(value.nanoseconds, 10**9)
        return {'sec': seconds, 'nsec': nanoseconds}
    return value


def record(path: Path, topics: Sequence[str], duration: float | None, namespace: str) -> str:
    """Record until SIGINT, SIGTERM or ``duration`` s, and return a summary.

    See ``Recorder.run`` for ``duration``.

    Raises:
        OSError: the file exists or cannot be written; the message says what was kept.
        RecordingError: nothing was recorded.
    """
    stop_request = StopRequest()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = McapWriter(path)
    try:
        with GraphClient('recorder', namespace) as client:
            recorder = Recorder(file, topics, client)
            print(f'recording to {file.partial}; Ctrl-C ends it', flush=True)
            seconds = recorder.run(stop_request, duration)
        if not file.counts:
            raise RecordingError(_nothing_recorded(recorder))
        file.finish()
    except OSError as error:
        kept = file.abandon()
        text = f'{path} could not be written ({error.strerror or error}); {kept}'
        raise OSError(text) from None
    except BaseException:
        file.abandon()
        raise
    return _summary(file, seconds, recorder)


def _nothing_recorded(recorder: Recorder) -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    skipped = ''.join(f'; {topic}: {why}' for topic, why in recorder.skipped.items())
    return (
        f'nothing was published on the topics to be recorded (domain {domain}){skipped}; is the '
        'graph up, in this domain and namespace?'
    )


def _summary(file: McapWriter, seconds: float, recorder: Recorder) -> str:
    lines = []
    for topic, count in sorted(file.counts.items()):
        usual = recorder.default_names.get(topic)
        lines.append(f'{count:8d}  {topic}' + (f', as {usual}' if usual else ''))
    lines += [f' skipped  {topic}: {why}' for topic, why in recorder.skipped.items()]
    size = file.path.stat().st_size / 1e6
    lines.append(f'{file.counts.total()} messages, {size:.1f} MB, {seconds:.1f} s: {file.path}')
    return '\n'.join(lines)


def _taken_by_polling(message: Any) -> None:
    """Do nothing: rclpy wants a callback, but the recorder polls its subscriptions itself."""
