"""Graph checks: topics, rates, quality of service, stamps, camera, joints and guard of a graph.

Topics are looked up under the names that guard and planner use, see ``topics_in_use``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

import numpy as np
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, Image, JointState

from jepa_arm.config import ArmConfig, CameraConfig, GuardConfig, SimConfig
from jepa_arm.core.installation import Finding, Level
from jepa_arm.core.types import GuardState
from jepa_arm.datasets.recording import WRIST_IMAGE_TOPIC
from jepa_arm.robot.camera_checks import camera_difference
from jepa_arm.ros.client import EVERY_SAMPLE, GraphClient, MessageLog
from jepa_arm.ros.graph.description import command_name
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.environment import discovery_range
from jepa_arm.ros.runtime.node_contract import CONTROLLERS, FOLLOW_TRAJECTORY, GraphError

from .topics_in_use import COMMANDS, MANAGED_NODES, STATUS, nodes_seen, topics_in_use

if TYPE_CHECKING:
    from rclpy.topic_endpoint_info import TopicEndpointInfo  # in endpoint_info since Lyrical

DISCOVERY_S = 5.0
"""Longest wait for the first node to be discovered."""
LISTEN_S = 2.5
NODES_S = 1.5
"""Longest further wait for both guard and planner to be discovered."""
UNHEARD_S = 6.0
"""Longest wait for the first message of a discovered publisher: a lost discovery datagram is
repeated after 3 s."""
MIN_RATE_SHARE = 0.8
"""Lowest rate relative to the expected one."""
JOINTS_HZ = 50.0
"""Lowest expected rate of joint states, before ``MIN_RATE_SHARE``."""
STAMP_SLACK_S = 1.0
ANSWER_S = 1.0
"""Longest wait for the answer of a service."""
START = '(jepa-arm up, or bringup.launch.py beside a driver)'
TOPICS: dict[str, tuple[type, str]] = {
    'camera/image_raw': (Image, 'the camera driver'),
    'camera/camera_info': (CameraInfo, 'the camera driver'),
    'joint_states': (JointState, 'the joint_state_broadcaster'),
    'guard/status': (GuardStatus, f'the guard {START}'),
    'planner/status': (PlannerStatus, f'the planner {START}'),
    WRIST_IMAGE_TOPIC: (Image, 'the driver of the wrist camera'),
}
"""Message type and expected publisher of each topic, by the topic's default name."""
IMAGES = {'camera/image_raw': 'image', WRIST_IMAGE_TOPIC: 'wrist image'}
"""Names of the findings on images, by topic."""
TRANSITIONS = {'unconfigured': 'configure', 'inactive': 'activate'}
"""Next transition of a managed node towards being active, by its state."""


class GraphExaminer:
    """Listens to a graph for a few seconds; publishes nothing."""

    def __init__(
        self,
        client: GraphClient,
        arm: ArmConfig,
        sim: SimConfig,
        guard: GuardConfig | None,
        camera: CameraConfig | None,
    ) -> None:
        """Prepare; see ``examine_graph`` for the arguments."""
        self._client, self._node = client, client.node
        self._arm, self._sim, self._camera_config = arm, sim, camera
        expected = camera or arm.camera
        self._sizes = {'camera/image_raw': (expected.width, expected.height)}
        if expected.wrist is not None:
            self._sizes[WRIST_IMAGE_TOPIC] = expected.width, expected.wrist.height
        self._topics = [t for t in TOPICS if t not in IMAGES or t in self._sizes]
        self._max_gap = np.inf if guard is None else guard.max_joint_age
        self._names: dict[str, str] = {}
        self._log: dict[str, MessageLog] = {}

    def examine(self) -> Iterator[Finding]:
        """Yield the findings on the middleware and the graph; stop early if no node is seen."""
        yield self._middleware()
        if not self._client.poll(lambda: any(map(self._count, TOPICS)), DISCOVERY_S):
            yield Finding('graph', Level.WARN, 'no node of a graph is seen', 'jepa-arm up')
            return
        self._client.poll(lambda: nodes_seen(self._node) == MANAGED_NODES, NODES_S)
        self._names = topics_in_use(self._node)
        for topic in self._topics:
            kind, name = TOPICS[topic][0], self._name(topic)
            self._log[topic] = self._client.record(kind, name, EVERY_SAMPLE)
        listened = self._listen()
        yield from self._check_publishers()
        yield from self._check_commands()
        yield from self._rates(listened)
        yield from self._qualities()
        yield from self._joints()
        yield from self._images()
        yield from self._calibration()
        yield from self._guard()
        yield from self._planner()

    def _middleware(self) -> Finding:
        name = get_rmw_implementation_identifier()
        domain = os.environ.get('ROS_DOMAIN_ID', '0')
        distro = os.environ.get('ROS_DISTRO', 'wheels')
        text = f'ROS 2 {distro}, {name}, domain {domain}, discovery range {discovery_range()}'
        return Finding('middleware', Level.OK, text)

    def _listen(self) -> float:
        """Listen for messages and return the duration, s; wait longer for silent publishers."""
        began = monotonic()
        sleep(LISTEN_S)
        if self._unheard():
            self._client.poll(lambda: not self._unheard(), UNHEARD_S - LISTEN_S)
            sleep(LISTEN_S)  # a rate takes more than one message
        return monotonic() - began

    def _check_publishers(self) -> Iterator[Finding]:
        for topic in self._topics:
            count, name = self._count(topic), self._shown(topic)
            if count == 0:
                start = f'start {TOPICS[topic][1]}, or remap'
                advice = self._transition(topic.removesuffix('/status')) or start
                yield Finding(name, Level.FAIL, 'nobody publishes it', advice)
            elif count > 1:
                advice = 'end all but one, or use namespaces'
                yield Finding(name, Level.FAIL, f'{count} publishers, expected 1', advice)

    def _check_commands(self) -> Iterator[Finding]:
        for topic in self._command_topics():
            commanders, listeners = map(_full_names, self._endpoints(topic))
            if len(commanders) > 1:
                advice = 'only the guard may command the robot: end the others'
                yield Finding('command topic', Level.FAIL, f'published by {commanders}', advice)
            if commanders and not set(listeners) - set(commanders):  # the guard hears itself
                advice = (
                    'is the controller loaded (ros2 control list_controllers), is it this one?'
                )
                text = f'{commanders[0]} commands {topic}, and nobody listens'
                yield Finding('command topic', Level.FAIL, text, advice)

    def _unheard(self) -> list[str]:
        """Return the topics that have a publisher and no message yet."""
        return [t for t in self._topics if not self._log[t] and self._count(t)]

    def _name(self, topic: str) -> str:
        """Return the full name of a topic, given its default name."""
        return self._names.get(topic) or self._node.resolve_topic_name(topic)

    def _shown(self, topic: str) -> str:
        """Return the default name of a topic, or its full name if it was remapped."""
        name = self._name(topic)
        return topic if name == self._node.resolve_topic_name(topic) else name

    def _count(self, topic: str) -> int:
        return self._node.count_publishers(self._name(topic))

    def _endpoints(self, topic: str) -> tuple[list[TopicEndpointInfo], list[TopicEndpointInfo]]:
        """Return the publishers and the subscriptions of a topic."""
        node, name = self._node, self._name(topic)
        publishers = node.get_publishers_info_by_topic(name)
        return publishers, node.get_subscriptions_info_by_topic(name)

    def _full(self, node: str) -> str:
        """Return the full name of a node of the graph."""
        return f'{self._node.get_namespace().rstrip("/")}/{node}'

    def _transition(self, node: str) -> str:
        """Return the command that activates a managed node; '' if it is active or not there."""
        if node not in nodes_seen(self._node):
            return ''
        try:
            answer = self._client.call(GetState, f'{node}/get_state', timeout=ANSWER_S)
        except GraphError:
            return ''
        word = TRANSITIONS.get(answer.current_state.label, '')
        return word and f'when it is safe: ros2 lifecycle set {self._full(node)} {word}'

    def _command_topics(self) -> list[str]:
        """Return the guard's command topic; if unknown, those of virtual arm and driver."""
        known = self._names.get(COMMANDS, STATUS)
        if not known.endswith(STATUS):
            return [known]
        outputs = CONTROLLERS.keys() - {FOLLOW_TRAJECTORY}
        usual = {CONTROLLERS[output] for output in outputs}
        return sorted(usual | {command_name(self._arm, output) for output in outputs})

    def _rates(self, listened: float) -> Iterator[Finding]:
        expected = dict.fromkeys(self._sizes, 1.0 / self._sim.time.control_dt)
        for topic, wanted in {**expected, 'joint_states': JOINTS_HZ}.items():
            arrivals, name = [at for at, _ in self._log[topic]], self._shown(topic)
            if len(arrivals) < 2:
                if self._count(topic):
                    advice = 'see the quality of service below, and the driver'
                    text = f'no message in {listened:.1f} s'
                    yield Finding(name, Level.FAIL, text, advice)
                continue
            rate = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])
            gap = float(np.diff(arrivals).max())
            text = f'{rate:.1f} Hz, longest gap {gap * 1000:.0f} ms'
            advice = 'raise the rate of the driver, or free processor time'
            if rate < MIN_RATE_SHARE * wanted:
                yield Finding(name, Level.FAIL, f'{text}; expected >= {wanted:.0f} Hz', advice)
            elif topic == 'joint_states' and gap > self._max_gap:
                text = f'{text}; the guard stops the arm after {self._max_gap * 1000:.0f} ms'
                yield Finding(name, Level.WARN, text, advice)
            else:
                yield Finding(name, Level.OK, text)

    def _qualities(self) -> Iterator[Finding]:
        for topic in (*self._topics, *self._command_topics()):
            for writer, reader in product(*self._endpoints(topic)):
                verdict, reason = qos_check_compatible(writer.qos_profile, reader.qos_profile)
                if verdict == QoSCompatibility.ERROR:
                    text = f'{writer.node_name} -> {reader.node_name}: {reason.strip()}'
                    advice = 'make the publisher reliable, or the subscriber best effort'
                    yield Finding(f'QoS of {self._shown(topic)}', Level.FAIL, text, advice)

    def _joints(self) -> Iterator[Finding]:
        if not self._log['joint_states']:
            return
        at, msg = self._log['joint_states'][-1]
        try:
            sample = convert.joints_from_msg(msg, self._arm.joints)
        except convert.ConversionError as error:
            yield Finding('joints', Level.FAIL, str(error), 'is it the arm that was named?')
            return
        if np.all(np.isfinite(sample.position)):
            text = f'all {len(self._arm.joints)} of {self._arm.name}'
            yield Finding('joints', Level.OK, text)
        else:
            yield Finding('joints', Level.FAIL, f'not finite: {sample.position.tolist()}')
        yield self._clock(sample.stamp, at)

    def _clock(self, stamp: float, arrived: float) -> Finding:
        """Check that stamps follow ``/clock``, the clock of the namespace, or the system clock."""
        if any(self._node.count_publishers(name) for name in ('/clock', 'clock')):
            return Finding('clock', Level.OK, 'simulated (/clock): nodes need use_sim_time')
        age = time() - (monotonic() - arrived) - stamp
        if abs(age) <= STAMP_SLACK_S:
            text = f'system time; joint states are {age * 1e3:.0f} ms old'
            return Finding('clock', Level.OK, text)
        advice = 'synchronise the clocks (chrony), or start a publisher of /clock'
        text = f'joint states are {age:.1f} s old by their stamps and there is no /clock'
        return Finding('clock', Level.FAIL, text, advice)

    def _images(self) -> Iterator[Finding]:
        for topic, size in self._sizes.items():
            image, name = self._newest(topic), IMAGES[topic]
            if image is None:
                continue
            try:
                convert.image_from_msg(image, size)
            except convert.ConversionError as error:
                yield Finding(name, Level.FAIL, str(error), 'change the driver settings')
            else:
                text = f'{image.width}x{image.height} {image.encoding}'
                yield Finding(name, Level.OK, text)

    def _calibration(self) -> Iterator[Finding]:
        info = self._newest('camera/camera_info')
        if info is None:
            return
        level, advice = Level.OK, ''
        difference = camera_difference(info, self._camera_config or self._arm.camera)
        if info.k[0] <= 0.0:
            level, text = Level.WARN, 'the camera is not calibrated'
            advice = 'calibrate it: ros2 run camera_calibration cameracalibrator'
        elif self._camera_config is None:
            level = Level.WARN if difference else Level.OK
            text = difference or "as in the arm's file; there is no checkpoint to compare with"
        elif difference:
            level, text = Level.FAIL, difference
            advice = 'move or crop the camera as the model was trained, or train for it'
        else:
            text = 'size and intrinsics as the model was trained; its place cannot be seen here'
        yield Finding('calibration', level, text, advice)

    def _guard(self) -> Iterator[Finding]:
        status = self._newest('guard/status')
        if status is None:
            return
        text = ': '.join([GuardState(status.state).name, *status.reasons])
        if status.state == GuardStatus.LATCHED:
            reset = f'{self._full("guard")}/reset std_srvs/srv/Trigger'
            advice = f'when it is safe: ros2 service call {reset}'
            yield Finding('guard', Level.FAIL, text, advice)
        elif status.state == GuardStatus.INACTIVE:
            joints = self._name('joint_states')
            waits = f'it takes over once joint states of the arm come on {joints}'
            yield Finding('guard', Level.FAIL, text, self._transition('guard') or waits)
        else:
            jitter = max(msg.tick_jitter_ms for _, msg in self._log['guard/status'])
            yield Finding('guard', Level.OK, f'{text}; tick jitter up to {jitter:.1f} ms')

    def _planner(self) -> Iterator[Finding]:
        status = self._newest('planner/status')
        if status is None:
            return
        advice = self._transition('planner')
        if advice:
            yield Finding('planner', Level.WARN, 'not active: it takes no goals', advice)
        elif status.state in (PlannerStatus.IDLE, PlannerStatus.PLANNING):
            yield Finding('planner', Level.OK, status.reason or 'ready')
        else:
            yield Finding('planner', Level.WARN, status.reason, 'see /diagnostics')

    def _newest(self, topic: str) -> Any:
        """Return the newest message of a topic; None without one."""
        return self._log[topic][-1][1] if self._log[topic] else None


def _full_names(ends: list[TopicEndpointInfo]) -> list[str]:
    """Return the sorted full names of the nodes that own the topic endpoints ``ends``."""
    return sorted(f'{end.node_namespace.rstrip("/")}/{end.node_name}' for end in ends)


def examine_graph(
    arm: ArmConfig,
    sim: SimConfig,
    namespace: str = '',
    guard: GuardConfig | None = None,
    camera: CameraConfig | None = None,
) -> Iterator[Finding]:
    """Yield findings on the running graph of ``namespace``.

    Args:
        arm: arm whose joints and camera are expected.
        sim: sets the control period, and thus the expected image rate.
        namespace: namespace of the graph.
        guard: sets how old joint states may get; None: gaps between them are not judged.
        camera: camera of the model; None without a model: the camera of ``arm`` is expected.

    Raises:
        GraphError: the namespace is malformed.
    """
    with GraphClient('doctor', namespace) as client:
        yield from GraphExaminer(client, arm, sim, guard, camera).examine()
