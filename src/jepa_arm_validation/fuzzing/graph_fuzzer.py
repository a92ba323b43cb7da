"""Graph fuzzing (``jepa-arm fuzz ros``): hostile messages to every topic and service.

Topics and services are discovered in the graph and messages are generated from their types, so
that later additions are covered. Only lifecycle transitions of managed nodes are left out. The
seed determines the messages, but not when they arrive.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from rclpy.client import Client
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import ArmConfig, SimConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.core.types import JointSample, Proposal
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC, GraphError
from jepa_arm.ros.runtime.qos import SENSOR_QOS
from jepa_arm_validation.graph import running_graph
from jepa_arm_validation.monitors.graph_monitors import (
    CommandMonitor,
    MemoryMonitor,
    excessive_growth,
)

from .random_messages import RandomMessages, interface_class

HOSTILE_FRAME = 'fuzz'
"""``frame_id`` of hostile commands, which distinguishes them from the guard's."""
MESSAGE_PERIOD_S = 0.001
"""Pause (s) after each message, so that the nodes receive most of them."""
TOPIC_SHARE = 0.9
"""Share of inputs that are messages on topics; the rest are service requests."""
MUTATION_SHARE = 0.7
"""Share of messages that are valid ones with some values changed; the rest are random."""
MAX_PENDING = 10
"""Largest number of pending requests per service."""
ANSWER_S = 5.0
"""Time (s) after which an unanswered request is given up."""
EXCLUDED = '/change_state'
"""Services with this in their name are not called, since shutting a node down is not a fault."""
DISCOVERY_S = 3.0
"""Time (s) without new topics or services after which discovery ends."""
LISTEN_S = 1.5
"""Time (s) at the start during which valid messages are collected."""
RECOVERY_PERIOD_S = 2.0
"""Period (s) at which the guard is reset and crashed processes are restarted."""
RECOVERY_S = 20.0
"""Longest time (s) that a reset of the guard may take."""
WARM_UP = 0.2
"""Share of the messages after which memory must not grow, in runs of ``LONG`` messages or more."""
LONG = 20_000
MAX_CRASHES = 10
TASK, GOAL_S = 'reach', 30.0
Kinds = dict[str, Any]
"""Classes of messages or services by the name of the topic or service."""
ATTEMPTS, SETTLE_S = 3, 3.0
"""Attempts at a normal goal at the end, and pause (s) before each retry: after the last hostile
messages, the planner may not trust an image until the arm has been at rest."""


def fuzz_ros(
    count: int, seed: int, checkpoint: Path, arm: str = 'panda', progress: bool = True
) -> dict[str, Any]:
    """Send hostile messages to simulator, guard and planner, then a normal goal.

    Args:
        count: number of messages. seed: seed of the messages.
        checkpoint: folder of the planner's model. arm: name of the arm.
        progress: show a progress bar.

    Returns:
        Counts of messages, crashes and judged commands, memory use, and the outcome of the goal;
        ``violations`` is the number of violations, ``examples`` describes them.

    Raises:
        GraphError: the graph did not start.
    """
    with running_graph(SimulationGraph(arm, str(checkpoint), task=TASK), 'fuzz') as running:
        return GraphFuzzer(*running, seed, arm).run(count, progress)


class GraphFuzzer:
    """Sender of hostile messages that monitors processes, memory and commands."""

    def __init__(self, graph: Supervisor, client: GraphClient, seed: int, arm: str) -> None:
        """Discover all topics and services of the graph.

        Args:
            graph: the running processes. client: client connected to them.
            seed: seed of the messages. arm: name of the arm.
        """
        self._graph, self._client, self._seed = graph, client, seed
        self._rng = np.random.default_rng(seed)
        self._messages = RandomMessages(self._rng)
        self._arm = Arm(load(ArmConfig, arm_path(arm)))
        dt = load(SimConfig, config_path('sim.yaml')).time.stream_dt
        self._commands = client.execute(
            lambda: CommandMonitor(client.node, self._arm, dt, HOSTILE_FRAME)
        )
        self._memory = MemoryMonitor(graph)
        self._counts: Counter[str] = Counter()
        self._violations: list[str] = []
        self._last: deque[str] = deque(maxlen=5)
        self._pending: deque[tuple[str, Client, Any, float]] = deque()
        self._due: list[tuple[str, type, Client]] = []
        self._crashes, self._hostile_resets = 0, 0

        self._clock: tuple[float, float] | None = None
        client.subscribe(PoseArray, 'ground_truth/objects', self._on_ground_truth, SENSOR_QOS)
        client.wait(lambda: self._clock, 'ground_truth/objects')
        topics, services = self._discover()
        self._valid = self._collect_messages(topics)
        self._publishers, self._clients = client.execute(lambda: self._connect(topics, services))

    def run(self, count: int, progress: bool) -> dict[str, Any]:
        """Send ``count`` hostile messages, then a goal that must be reached; return the report."""
        began = recovered = monotonic()
        for i in tqdm(range(count), unit='msg', disable=not progress):
            if self._rng.random() < TOPIC_SHARE:
                self._publish()
            else:
                self._request()
            sleep(MESSAGE_PERIOD_S)
            self._collect_answers()
            if monotonic() - recovered > RECOVERY_PERIOD_S:
                self._restart_crashed()
                self._recover()
                self._memory.sample(i / count)
                recovered = monotonic()
            if self._crashes > MAX_CRASHES:
                break
        self._restart_crashed()
        seconds = monotonic() - began
        return self._report(seconds, outcome=self._reach_goal())

    def _report(self, seconds: float, outcome: str) -> dict[str, Any]:
        memory, commands = self._memory.growth(WARM_UP), self._commands
        sent = self._counts.total()
        resets = self._client.guard_resets + self._hostile_resets + self._crashes
        violations = [*self._violations, *commands.findings(resets)]
        if sent >= LONG:
            violations += excessive_growth(memory)
        if outcome != 'SUCCEEDED':
            violations.append(f'a normal goal afterwards: {outcome}')
        return {
            'messages': sent,
            'seed': self._seed,
            'seconds': round(seconds, 1),
            'messages_per_s': round(sent / max(seconds, 1e-3)),
            'crashes': self._crashes,
            'commands': commands.commands,
            'commands_lost': commands.lost,
            'goal_afterwards': outcome,
            'memory': memory,
            'counts': dict(sorted(self._counts.items())),
            'violations': len(violations) + max(0, commands.violations - len(commands.examples)),
            'examples': violations,
        }

    # Targets.

    def _discover(self) -> tuple[Kinds, Kinds]:
        """Return the classes of all topics and services of the graph, by name."""
        node, known, since = self._client.node, 0, monotonic()
        while True:
            topics, services = Kinds(), Kinds()
            for name in set(self._graph.processes) & set(node.get_node_names()):
                for topic, kinds in node.get_subscriber_names_and_types_by_node(name, '/'):
                    topics[topic] = interface_class(kinds[0])
                for service, kinds in node.get_service_names_and_types_by_node(name, '/'):
                    if EXCLUDED not in service:
                        services[service] = interface_class(kinds[0])
            if len(topics) + len(services) != known:
                known, since = len(topics) + len(services), monotonic()
            if monotonic() - since > DISCOVERY_S:
                return topics, services
            self._pause(0.1)

    def _collect_messages(self, topics: Kinds) -> dict[str, Any]:
        """Return, by topic, the newest valid message of each topic that is published."""
        node, messages = self._client.node, dict[str, Any]()

        def keep(topic: str) -> Callable[[Any], None]:
            return lambda msg: messages.update({topic: msg})

        def subscribe() -> list[Any]:
            return [
                node.create_subscription(kind, topic, keep(topic), SENSOR_QOS)
                for topic, kind in topics.items()
            ]

        subscriptions = self._client.execute(subscribe)
        self._pause(LISTEN_S)
        self._client.execute(lambda: [node.destroy_subscription(s) for s in subscriptions])
        return messages

    def _connect(
        self, topics: Kinds, services: Kinds
    ) -> tuple[list[tuple[str, type, Publisher]], list[tuple[str, Any, Client]]]:
        """Return publishers and clients for all topics and services, with names and types."""
        node, qos = self._client.node, QoSProfile(depth=10)
        publishers, clients = [], []
        for topic, kind in sorted(topics.items()):
            publishers.append((topic, kind, node.create_publisher(kind, topic, qos)))
        for service, kind in sorted(services.items()):
            clients.append((service, kind.Request, node.create_client(kind, service)))
        return publishers, clients

    # Messages.

    def _publish(self) -> None:
        topic, kind, publisher = self._publishers[self._rng.integers(len(self._publishers))]
        valid = self._valid_message(topic, kind)
        if valid is not None and self._rng.random() < MUTATION_SHARE:
            msg = self._messages.mutate(valid, int(self._rng.choice([0, 1, 1, 2, 5])))
        else:
            msg = self._messages.draw(kind)
        if topic.endswith(COMMAND_TOPIC):
            msg.header.frame_id = HOSTILE_FRAME
        publisher.publish(msg)
        self._count(topic)

    def _valid_message(self, topic: str, kind: type) -> Any:
        """Return a valid message: made for the current state, else received before, else None."""
        now, position = self._now(), self._commands.position
        if position is not None and kind is JointState:
            sample = JointSample(position, np.zeros_like(position), now)
            return convert.joints_to_msg(sample, self._arm.joint_names)
        if position is not None and kind is JointTrajectory:
            steps = self._rng.uniform(-0.05, 0.05, (3, len(position)))
            waypoints, times = position + np.cumsum(steps, axis=0), np.array([0.1, 0.2, 0.3])
            proposal = Proposal(self._arm.joint_names, waypoints, times, now, 0.2)
            return convert.proposal_to_msg(proposal)
        valid: Any = self._valid.get(topic)
        if hasattr(valid, 'header'):
            valid.header.stamp = convert.to_time(now)
        return valid

    def _request(self) -> None:
        """Send a request to the next service; each round visits all services in random order."""
        if not self._due:
            self._due = [self._clients[i] for i in self._rng.permutation(len(self._clients))]
        name, kind, client = self._due.pop()
        if sum(name == pending for pending, *_ in self._pending) >= MAX_PENDING:
            return
        future = client.call_async(self._messages.draw(kind))
        self._pending.append((name, client, future, monotonic()))
        self._count(name)

    def _collect_answers(self) -> None:
        """Collect answers in the order of the requests; give up on requests that are too old."""
        while self._pending:
            name, client, future, sent_at = self._pending[0]
            if not future.done() and monotonic() - sent_at < ANSWER_S:
                return
            self._pending.popleft()
            if not future.done():
                client.remove_pending_request(future)
                self._counts['requests without an answer'] += 1
            elif name.endswith('guard/reset'):
                self._hostile_resets += future.result().success

    def _count(self, name: str) -> None:
        self._counts[name] += 1
        self._last.append(name)

    def _now(self) -> float:
        """Return the simulated time (s), extrapolated from the newest ground truth."""
        assert self._clock is not None
        stamp, arrived = self._clock
        return stamp + monotonic() - arrived

    def _on_ground_truth(self, msg: PoseArray) -> None:
        self._clock = convert.to_seconds(msg.header.stamp), monotonic()

    # Recovery.

    def _restart_crashed(self) -> None:
        name = self._graph.poll_ended()
        if name is None:
            return
        self._crashes += 1
        code, tail = self._graph.exit_codes[name], self._graph.tail(name, 6)
        self._violations.append(f'{name} ended with {code} after {list(self._last)}: {tail}')
        self._graph.start_node(name)

    def _recover(self) -> None:
        """Retry a reset of the guard until it succeeds; it is a violation if it never does."""
        try:
            deadline = monotonic() + RECOVERY_S
            self._pause(0.3)
            while not self._client.reset_guard():
                self._pause(0.3)
                if monotonic() > deadline:
                    raise GraphError('the guard cannot be reset')
        except GraphError as error:
            self._violations.append(f'recovery: {error}')

    def _reach_goal(self) -> str:
        """Send a normal goal up to ``ATTEMPTS`` times; return the outcome of the last attempt.

        Waits for pending hostile requests first.
        """
        deadline = monotonic() + 2.0 * ANSWER_S
        while self._pending and monotonic() < deadline:
            self._pause(0.1)
            self._collect_answers()
        outcome = ''
        for _ in range(ATTEMPTS):
            try:
                self._recover()
                scene = self._client.reset_scene(self._seed, TASK)
                self._recover()
                if outcome:
                    self._pause(SETTLE_S)
                outcome = self._client.move_to(scene.goal, timeout=GOAL_S).outcome
            except GraphError as error:
                return str(error)
            if outcome == 'SUCCEEDED':
                break
        return outcome

    def _pause(self, seconds: float) -> None:
        self._client.poll(lambda: False, seconds)
