"""What a running graph shows: topics, rates, quality of service, stamps, camera, joints, guard.

Topics are looked at under the names that guard and planner use, see ``roles``.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from time import monotonic, time
from typing import Any

import numpy as np
import rclpy
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, Image, JointState

from ..config import ArmConfig, CameraConfig, GuardConfig, SimConfig
from ..data.recording import WRIST_IMAGES
from ..installation import Finding, Level
from ..sight import camera_difference
from . import conversions as convert
from .description import CONTROLLERS, FOLLOW, commands_to
from .environment import discovery_range
from .roles import COMMANDS, nodes_seen, topics_in_use

LOOK_S = 5.0
"""How long a first node is looked for."""
LISTEN_S = 2.5
NODES_S = 1.5
"""How long the second of guard and planner is looked for."""
PATIENCE_S = 6.0
"""How long a publisher that is seen may stay unheard: a lost datagram of discovery is repeated
after 3 s."""
KEPT = 2000
RATE_SHARE = 0.8
"""Of the expected rate, at least."""
STAMP_SLACK_S = 1.0
EVERY = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
ASK_S = 1.0
"""Longest wait for the answer of a service."""
START = '(jepa-arm up, or bringup.launch.py beside a driver)'
WHO = {
    'camera/image_raw': 'the camera driver',
    'camera/camera_info': 'the camera driver',
    'joint_states': 'the joint_state_broadcaster',
    'guard/status': f'the guard {START}',
    'planner/status': f'the planner {START}',
}
IMAGES = {'camera/image_raw': 'image', WRIST_IMAGES: 'wrist image'}
"""What is said of the images of a topic."""
TRIGGER = 'std_srvs/srv/Trigger'
NODES = {'guard/status': 'guard', 'planner/status': 'planner'}
TRANSITIONS = {'unconfigured': 'configure', 'inactive': 'activate'}
"""What brings a managed node in such a state on."""


class Examiner:
    """Listens to the graph of ``namespace`` for a few seconds; publishes nothing."""

    def __init__(
        self,
        arm: ArmConfig,
        sim: SimConfig,
        namespace: str = '',
        guard: GuardConfig | None = None,
        camera: CameraConfig | None = None,
    ) -> None:
        """See ``examine_graph``."""
        self._arm, self._sim, self._camera_config = arm, sim, camera
        seen_by, self._who = camera or arm.camera, dict(WHO)
        self._sizes = {'camera/image_raw': (seen_by.width, seen_by.height)}
        if seen_by.wrist is not None:
            self._who[WRIST_IMAGES] = 'the driver of the wrist camera'
            self._sizes[WRIST_IMAGES] = seen_by.width, seen_by.wrist.height
        self._max_gap = np.inf if guard is None else guard.max_joint_age
        self._names: dict[str, str] = {}
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node(
            'doctor', context=self._context, namespace=namespace or None
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._log: dict[str, deque[tuple[float, Any]]] = defaultdict(lambda: deque(maxlen=KEPT))

    def close(self) -> None:
        """Leaves the graph."""
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def examine(self) -> Iterator[Finding]:
        """What is found on the live graph; one finding if there is none."""
        yield self._middleware()
        if not self._finds_a_node():
            yield Finding('graph', Level.WARN, 'no node of a graph is seen', 'jepa-arm up')
            return
        self._find_names()
        kinds = (Image, CameraInfo, JointState, GuardStatus, PlannerStatus, Image)
        for topic, kind in zip(self._who, kinds, strict=False):
            self._listen(topic, kind)
        listened = self._listen_for_all()
        yield from self._publishers()
        yield from self._rates(listened)
        yield from self._qualities()
        yield from self._joints()
        yield from self._camera()
        yield from self._guard()
        yield from self._planner()

    def _middleware(self) -> Finding:
        name = get_rmw_implementation_identifier()
        domain = os.environ.get('ROS_DOMAIN_ID', '0')
        distro = os.environ.get('ROS_DISTRO', 'wheels')
        text = f'ROS 2 {distro}, {name}, domain {domain}, discovery range {discovery_range()}'
        return Finding('middleware', Level.OK, text)

    def _publishers(self) -> Iterator[Finding]:
        for topic, who in self._who.items():
            count = self._count(topic)
            if count == 1:
                continue
            name = self._shown(topic)
            if count == 0:
                advice = self._transition(NODES.get(topic, '')) or f'start {who}, or remap'
                yield Finding(name, Level.FAIL, 'nobody publishes it', advice)
            else:
                advice = 'end all but one, or use namespaces'
                yield Finding(name, Level.FAIL, f'{count} publishers, expected 1', advice)
        for topic in self._command_topics():
            commanders = self._node.get_publishers_info_by_topic(self._name(topic))
            names = sorted(f'{i.node_namespace.rstrip("/")}/{i.node_name}' for i in commanders)
            if len(names) > 1:
                advice = 'only the guard may command the robot: end the others'
                yield Finding('command topic', Level.FAIL, f'published by {names}', advice)
            if names and not self._has_listener(topic):
                advice = (
                    'is the controller loaded (ros2 control list_controllers), is it this one?'
                )
                text = f'{names[0]} commands {topic}, and nobody listens'
                yield Finding('command topic', Level.FAIL, text, advice)

    def _unheard(self) -> list[str]:
        """Topics that somebody publishes and of which nothing has come."""
        return [t for t in self._who if not self._log[t] and self._count(t)]

    def _find_names(self) -> None:
        """Notes the names that guard and planner use; it takes a moment until both are seen."""
        until = monotonic() + NODES_S
        while len(nodes_seen(self._node)) < len(NODES) and monotonic() < until:
            self._spin(0.1)
        self._names = topics_in_use(self._node)

    def _name(self, topic: str) -> str:
        """Whole name of a topic, given its usual one."""
        return self._names.get(topic) or self._node.resolve_topic_name(topic)

    def _shown(self, topic: str) -> str:
        """As users know it: its usual name, or the whole one where that is another."""
        name = self._name(topic)
        return topic if name == self._node.resolve_topic_name(topic) else name

    def _count(self, topic: str) -> int:
        return self._node.count_publishers(self._name(topic))

    def _full(self, node: str) -> str:
        """Whole name of a node of the graph."""
        return f'{self._node.get_namespace().rstrip("/")}/{node}'

    def _transition(self, node: str) -> str:
        """What has a managed node act; empty where it does, or is not there."""
        if node not in nodes_seen(self._node):
            return ''
        client = self._node.create_client(GetState, f'{node}/get_state')
        try:
            if not client.wait_for_service(ASK_S):
                return ''
            asked = client.call_async(GetState.Request())
            until = monotonic() + ASK_S
            while not asked.done() and monotonic() < until:
                self._spin(0.05)
            answer = asked.result() if asked.done() else None
        finally:
            self._node.destroy_client(client)
        word = '' if answer is None else TRANSITIONS.get(answer.current_state.label, '')
        return word and f'when it is safe: ros2 lifecycle set {self._full(node)} {word}'

    def _has_listener(self, topic: str) -> bool:
        """Whether a node hears ``topic`` that does not command by it; a guard hears itself."""
        name = self._name(topic)
        commanders, listeners = (
            {(end.node_namespace, end.node_name) for end in look(name)}
            for look in (
                self._node.get_publishers_info_by_topic,
                self._node.get_subscriptions_info_by_topic,
            )
        )
        return bool(listeners - commanders)

    def _command_topics(self) -> list[str]:
        """The guard's; where it is not known yet, those of the virtual arm and the driver."""
        if COMMANDS in self._names and not self._names[COMMANDS].endswith('/_action/status'):
            return [self._names[COMMANDS]]
        outputs = [output for output in CONTROLLERS if output != FOLLOW]
        topics = {CONTROLLERS[output] for output in outputs}
        return sorted(topics | {commands_to(self._arm, output) for output in outputs})

    def _rates(self, listened: float) -> Iterator[Finding]:
        time_config = self._sim.time
        expected = {topic: 1.0 / time_config.control_dt for topic in self._sizes}
        expected['joint_states'] = 50.0
        for topic, wanted in expected.items():
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
            if rate < RATE_SHARE * wanted:
                yield Finding(name, Level.FAIL, f'{text}; expected >= {wanted:.0f} Hz', advice)
            elif topic == 'joint_states' and gap > self._max_gap:
                text = f'{text}; the guard stops the arm after {self._max_gap * 1000:.0f} ms'
                yield Finding(name, Level.WARN, text, advice)
            else:
                yield Finding(name, Level.OK, text)

    def _qualities(self) -> Iterator[Finding]:
        for topic in (*self._who, *self._command_topics()):
            name = self._name(topic)
            for writer in self._node.get_publishers_info_by_topic(name):
                for reader in self._node.get_subscriptions_info_by_topic(name):
                    compatibility, reason = qos_check_compatible(
                        writer.qos_profile, reader.qos_profile
                    )
                    if compatibility == QoSCompatibility.ERROR:
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
        finite = bool(np.all(np.isfinite(sample.position)))
        yield (
            Finding('joints', Level.OK, f'all {len(self._arm.joints)} of {self._arm.name}')
            if finite
            else Finding('joints', Level.FAIL, f'not finite: {sample.position.tolist()}')
        )
        yield self._clock(sample.stamp, at)

    def _clock(self, stamp: float, arrived: float) -> Finding:
        """Stamps run on /clock, or that of the namespace, else on the system's clock."""
        is_simulated = any(self._node.count_publishers(name) for name in ('/clock', 'clock'))
        age = time() - (monotonic() - arrived) - stamp
        if is_simulated:
            return Finding('clock', Level.OK, 'simulated (/clock): nodes need use_sim_time')
        if abs(age) <= STAMP_SLACK_S:
            return Finding(
                'clock', Level.OK, f'system time; joint states are {age * 1e3:.0f} ms old'
            )
        advice = 'synchronise the clocks (chrony), or start a publisher of /clock'
        text = f'joint states are {age:.1f} s old by their stamps and there is no /clock'
        return Finding('clock', Level.FAIL, text, advice)

    def _camera(self) -> Iterator[Finding]:
        for topic, size in self._sizes.items():
            if not self._log[topic]:
                continue
            image, name = self._log[topic][-1][1], IMAGES[topic]
            try:
                convert.image_from_msg(image, size)
            except convert.ConversionError as error:
                yield Finding(name, Level.FAIL, str(error), 'change the driver settings')
            else:
                text = f'{image.width}x{image.height} {image.encoding}'
                yield Finding(name, Level.OK, text)
        if not self._log['camera/camera_info']:
            return
        info = self._log['camera/camera_info'][-1][1]
        if info.k[0] <= 0.0:
            advice = 'calibrate it: ros2 run camera_calibration cameracalibrator'
            yield Finding('calibration', Level.WARN, 'the camera is not calibrated', advice)
            return
        difference = camera_difference(info, self._camera_config or self._arm.camera)
        if self._camera_config is None:
            told = difference or "as in the arm's file; there is no checkpoint to compare with"
            yield Finding('calibration', Level.WARN if difference else Level.OK, told)
        elif difference:
            advice = 'move or crop the camera as the model was trained, or train for it'
            yield Finding('calibration', Level.FAIL, difference, advice)
        else:
            text = 'size and intrinsics as the model was trained; its place cannot be seen here'
            yield Finding('calibration', Level.OK, text)

    def _guard(self) -> Iterator[Finding]:
        if not self._log['guard/status']:
            return
        status = self._log['guard/status'][-1][1]
        state = next(
            name
            for name in ('INACTIVE', 'IDLE', 'FOLLOWING', 'STOPPING', 'HOLDING', 'LATCHED')
            if getattr(GuardStatus, name) == status.state
        )
        text = ': '.join([state, *status.reasons])
        if status.state == GuardStatus.LATCHED:
            advice = f'when it is safe: ros2 service call {self._full("guard")}/reset {TRIGGER}'
            yield Finding('guard', Level.FAIL, text, advice)
        elif status.state == GuardStatus.INACTIVE:
            waits = (
                f'it takes over once joint states of the arm come on {self._name("joint_states")}'
            )
            yield Finding('guard', Level.FAIL, text, self._transition('guard') or waits)
        else:
            jitter = max(msg.tick_jitter_ms for _, msg in self._log['guard/status'])
            yield Finding('guard', Level.OK, f'{text}; tick jitter up to {jitter:.1f} ms')

    def _planner(self) -> Iterator[Finding]:
        if not self._log['planner/status']:
            return
        status = self._log['planner/status'][-1][1]
        advice = self._transition('planner')
        if advice:
            yield Finding('planner', Level.WARN, 'not active: it takes no goals', advice)
        elif status.state in (PlannerStatus.IDLE, PlannerStatus.PLANNING):
            yield Finding('planner', Level.OK, status.reason or 'ready')
        else:
            yield Finding('planner', Level.WARN, status.reason, 'see /diagnostics')

    def _listen(self, topic: str, kind: type) -> None:
        log = self._log[topic]
        self._node.create_subscription(
            kind, self._name(topic), lambda msg: log.append((monotonic(), msg)), EVERY
        )

    def _finds_a_node(self) -> bool:
        """Whether somebody publishes one of the graph's topics."""
        until = monotonic() + LOOK_S
        while not any(self._node.count_publishers(topic) for topic in WHO):
            if monotonic() > until:
                return False
            self._spin(0.1)
        return True

    def _listen_for_all(self) -> float:
        """Seconds for which was listened: longer where a publisher is seen and not heard."""
        started = monotonic()
        self._spin(LISTEN_S)
        if self._unheard():
            while self._unheard() and monotonic() < started + PATIENCE_S:
                self._spin(0.25)
            self._spin(LISTEN_S)  # a rate takes more than one message
        return monotonic() - started

    def _spin(self, seconds: float) -> None:
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)


def examine_graph(
    arm: ArmConfig,
    sim: SimConfig,
    namespace: str = '',
    guard: GuardConfig | None = None,
    camera: CameraConfig | None = None,
) -> Iterator[Finding]:
    """Findings on the live graph of ``namespace``.

    Args:
        arm, sim, namespace: what is expected, and where.
        guard: how old joint states may grow; None: it is not judged.
        camera: that of the model; None: there is none, and that of ``arm`` is compared with.
    """
    examiner = Examiner(arm, sim, namespace, guard, camera)
    try:
        yield from examiner.examine()
    finally:
        examiner.close()
