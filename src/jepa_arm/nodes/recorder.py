"""``jepa-arm record``: what the graph says, as it is said, into one MCAP file.

Messages are written as they came (CDR), with the time at which they were published and received
on the system clock, which neither stands still nor jumps when simulated time does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any

import rclpy
import yaml
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

from .. import __version__
from ..data.mcap_file import ROLE, McapFile
from ..resources import git_hash
from .compat import take
from .definitions import DefinitionError, definition, message_class
from .executors import ByHand
from .parameters import COMMAND_TOPIC
from .process import Ending
from .roles import topics_in_use

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
"""Recorded where no topics are named, or those that guard and planner use in their place; those
that nobody publishes are left out. The feedback of ``move_to_goal`` says nothing that
``planner/status`` does not."""
DISCOVERY_S = 10.0
"""How long a recording of a certain duration waits for its first message, at least."""
LOOK_S = 0.5
"""How often new topics and publishers are looked for."""
FLUSH_S = 1.0
"""How often a chunk ends: what is lost at most if the process or the machine dies."""
DEPTH = 100
"""Messages of a topic that may wait to be written."""
POLL_S = 0.02
"""How often messages are taken: an executor that wakes up for each takes four times the
processor from what is recorded. They carry the time of their arrival."""
NODES = ('planner', 'guard')
"""Whose parameters are kept."""
PATHS = ('checkpoint', 'arm', 'planner_config', 'sim_config', 'guard_config', 'belief_file')
"""Parameters that may be paths of this machine; of these the last part is kept."""


class Recorder:
    """Subscribes to topics as they appear and writes what comes into a file.

    Attributes:
        skipped: topics that are published and cannot be recorded, with the reason.
        roles: usual names of topics that guard and planner know by others, by these.
    """

    def __init__(self, file: McapFile, topics: Sequence[str], namespace: str = '') -> None:
        """Joins the graph.

        Args:
            file: to write to.
            topics: names, relative ones in ``namespace``; the usual ones without any.
            namespace: of the graph.
        """
        self._file = file
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(
            'recorder', context=self._context, namespace=namespace or None
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._is_chosen = bool(topics)
        names = [self._node.resolve_topic_name(name) for name in topics or TOPICS]
        self._wanted = dict.fromkeys(names)
        self.roles: dict[str, str] = {}
        self._subscriptions: dict[str, tuple[Subscription, QoSProfile]] = {}
        self._channels: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self._notes = Notes(self._node)
        self._looked_at = self._flushed_at = -float('inf')
        self._by_hand = ByHand()

    def close(self) -> None:
        """Leaves the graph."""
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def run(self, may_go_on: Callable[[], bool]) -> None:
        """Records while ``may_go_on``, and completes the file.

        Raises:
            OSError: it cannot be written.
        """
        while may_go_on():
            now = monotonic()
            if now - self._looked_at > LOOK_S:
                self._look()
                self._looked_at = now
            if now - self._flushed_at > FLUSH_S:
                self._file.flush()
                self._flushed_at = now
            if self._notes.is_waiting:
                self._executor.spin_once(timeout_sec=0.0)
            self._take_all()
            sleep(POLL_S)
        about = {'domain': os.environ.get('ROS_DOMAIN_ID', '0'), **self._notes.values}
        namespace = self._node.get_namespace()
        self._file.add_metadata(
            'jepa_arm',
            {'version': __version__, 'git': git_hash(), 'namespace': namespace, **about},
        )

    def _look(self) -> None:
        """Subscribes to what is wanted and published, as reliably as all its publishers allow."""
        self._notes.look()
        self._look_for_other_names()
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

    def _look_for_other_names(self) -> None:
        """Notes what guard and planner were remapped to, and takes it in place of the usual."""
        for role, topic in topics_in_use(self._node).items():
            usual = self._node.resolve_topic_name(role)
            if topic != usual:
                self.roles[topic] = usual
            if not self._is_chosen:
                self._wanted[topic] = None
                if topic != usual and usual not in self._subscriptions:
                    self._wanted.pop(usual, None)

    def _subscribe(self, topic: str, kinds: list[str], offered: list[QoSProfile]) -> None:
        if len(kinds) != 1:
            raise DefinitionError(f'expected one type of messages, got {", ".join(kinds)}')
        qos = matching(offered)
        before = self._subscriptions.get(topic)
        if before is not None:
            if same(before[1], qos):
                return
            self._node.destroy_subscription(before[0])
        else:
            kind = message_class(kinds[0])
            about = {'offered_qos_profiles': describe(offered)}
            if topic in self.roles:
                about[ROLE] = self.roles[topic]
            text = definition(kinds[0])
            self._channels[topic] = self._file.add_topic(topic, kinds[0], text, about)
        kind = message_class(kinds[0])
        made = self._node.create_subscription(
            kind, topic, _never, qos, callback_group=self._by_hand, raw=True
        )
        self._subscriptions[topic] = made, qos

    def _take_all(self) -> None:
        """Writes what has come."""
        for topic, (subscription, _) in self._subscriptions.items():
            while (taken := take(subscription)) is not None:
                data, info = taken
                received = info['received_timestamp'] or time_ns()
                published = info['source_timestamp'] or received
                self._file.write(self._channels[topic], data, received, published)


class Notes:
    """Asks the nodes of the graph for their parameters, which a replay needs; never waits.

    Attributes:
        values: such as ``planner.seed``, as text; those that were answered.
    """

    def __init__(self, node: Node) -> None:
        self.values: dict[str, str] = {}
        self._node = node
        self._clients = {
            name: (
                node.create_client(ListParameters, f'{name}/list_parameters'),
                node.create_client(GetParameters, f'{name}/get_parameters'),
            )
            for name in NODES
        }
        self._asked, self._answered = set[str](), set[str]()

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._asked - self._answered)

    def look(self) -> None:
        """Asks those that are there and have not answered."""
        for name, (lister, getter) in self._clients.items():
            if name in self._answered or not (
                lister.service_is_ready() and getter.service_is_ready()
            ):
                continue
            self._asked.add(name)
            future = lister.call_async(ListParameters.Request())
            future.add_done_callback(partial(self._on_names, name))

    def _on_names(self, name: str, future: Any) -> None:
        names = list(future.result().result.names)
        request = GetParameters.Request(names=names)
        asked = self._clients[name][1].call_async(request)
        asked.add_done_callback(partial(self._on_values, name, names))

    def _on_values(self, name: str, names: list[str], future: Any) -> None:
        for key, value in zip(names, future.result().values, strict=False):
            text = str(parameter_value_to_python(value))
            self.values[f'{name}.{key}'] = Path(text).name if key in PATHS else text
        self._answered.add(name)


def matching(offered: Sequence[QoSProfile]) -> QoSProfile:
    """A profile that connects to all publishers, and gets all that they keep."""
    is_reliable = all(q.reliability == ReliabilityPolicy.RELIABLE for q in offered)
    is_kept = all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offered)
    return QoSProfile(
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_kept else DurabilityPolicy.VOLATILE,
    )


def same(a: QoSProfile, b: QoSProfile) -> bool:
    """Whether both ask for the same."""
    return (a.reliability, a.durability) == (b.reliability, b.durability)


def describe(offered: Sequence[QoSProfile]) -> str:
    """Profiles as YAML, in the form of rosbag2's metadata (version 9)."""

    def time(duration: Any) -> dict[str, int]:
        seconds, nanoseconds = divmod(duration.nanoseconds, 10**9)
        return {'sec': seconds, 'nsec': nanoseconds}

    return yaml.safe_dump(
        [
            {
                'history': q.history.name.lower(),
                'depth': q.depth,
                'reliability': q.reliability.name.lower(),
                'durability': q.durability.name.lower(),
                'deadline': time(q.deadline),
                'lifespan': time(q.lifespan),
                'liveliness': q.liveliness.name.lower(),
                'liveliness_lease_duration': time(q.liveliness_lease_duration),
                'avoid_ros_namespace_conventions': q.avoid_ros_namespace_conventions,
            }
            for q in offered
        ],
        sort_keys=False,
    )


def record(path: Path, topics: Sequence[str], duration: float | None, namespace: str) -> str:
    """Records until SIGINT, SIGTERM or ``duration`` s; what was recorded, in words.

    The ``duration`` counts from the first message: finding the publishers may take some seconds.

    Raises:
        OSError: the file is there already, or cannot be written; what was kept is said.
        ValueError: nothing was recorded.
    """
    ending = Ending()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = McapFile(path)
    time = Duration(duration)
    try:
        recorder = Recorder(file, topics, namespace)
        try:
            print(f'recording to {file.partial}; Ctrl-C ends it', flush=True)
            recorder.run(lambda: not ending.is_wanted and time.goes_on(bool(file.counts)))
        finally:
            recorder.close()
        if not file.counts:
            raise ValueError(_nothing(recorder))
        took = time.since_first
        file.finish()
    except OSError as error:
        kept = file.give_up()
        text = f'{path} could not be written ({error.strerror or error}); {kept}'
        raise OSError(text) from None
    except BaseException:
        file.give_up()
        raise
    return _summary(file, took, recorder)


class Duration:
    """How long is recorded."""

    def __init__(self, seconds: float | None) -> None:
        """For ``seconds`` from the first message; None: for ever."""
        self._seconds = seconds
        self._began = monotonic()
        self._first: float | None = None

    @property
    def since_first(self) -> float:
        """s since the first message; 0 where none has come."""
        return 0.0 if self._first is None else monotonic() - self._first

    def goes_on(self, has_come: bool) -> bool:
        """Whether to record further, given whether a message ``has_come``."""
        if has_come and self._first is None:
            self._first = monotonic()
        if self._seconds is None:
            return True
        if self._first is None:
            return monotonic() - self._began < max(self._seconds, DISCOVERY_S)
        return self.since_first < self._seconds


def _nothing(recorder: Recorder) -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    skipped = ''.join(f'; {topic}: {why}' for topic, why in recorder.skipped.items())
    return (
        f'nothing was published on the topics to be recorded (domain {domain}){skipped}; is the '
        'graph up, in this domain and namespace?'
    )


def _summary(file: McapFile, seconds: float, recorder: Recorder) -> str:
    lines = [
        f'{count:8d}  {topic}{_as_role(recorder.roles.get(topic))}'
        for topic, count in sorted(file.counts.items())
    ]
    lines += [f' skipped  {topic}: {why}' for topic, why in recorder.skipped.items()]
    size = file.path.stat().st_size / 1e6
    total = sum(file.counts.values())
    lines.append(f'{total} messages, {size:.1f} MB, {seconds:.1f} s: {file.path}')
    return '\n'.join(lines)


def _as_role(usual: str | None) -> str:
    return '' if usual is None else f', as {usual}'


def _never(message: Any) -> None:
    """What a subscription calls whose messages are taken by hand."""
