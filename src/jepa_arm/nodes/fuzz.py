"""``jepa-arm fuzz ros``: hostile messages to every topic and service of the running graph.

What the nodes listen to is read from the graph, and what a message looks like from its type, so
nothing is left out that is added later, but for the transitions of the managed nodes. The seed
fixes what is drawn, not when it arrives.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from rclpy.client import Client
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from ..arm import Arm
from ..config import ArmConfig, SimConfig, load
from ..resources import arm_path, config_path
from ..types import JointSample, Proposal
from . import conversions as convert
from .attendant import Attendant
from .compat import service_name
from .description import simulation
from .graph import GraphError, Supervisor
from .noise import Noise, interface
from .parameters import COMMAND_TOPIC, SENSOR
from .session import own_domain
from .vitals import GROWTH, CommandWatch, MemoryLog

MARK = 'fuzz'
"""Frame of hostile commands, by which they are told from the guard's."""
TOPIC_SHARE = 0.9
"""Of messages; the rest are requests."""
SPOILED_SHARE = 0.7
"""Of messages that are true ones with some values changed; the others are random throughout."""
PENDING = 10
"""Requests under way at once to one service."""
GIVE_UP_S = 5.0
LEFT_OUT = '/change_state'
"""Whoever may call it may shut the node down, and that is no fault."""
DISCOVERY_S = 3.0
"""Without news, after which all topics and services are known."""
LISTEN_S = 1.5
"""How long true messages are collected at first."""
RESCUE_S = 2.0
"""How often a person makes the graph usable again."""
WARM_UP = 0.2
"""Share of the messages after which memory must stay, in storms of ``LONG`` or more messages."""
LONG = 20_000
MAX_CRASHES = 10
GOAL_S = 30.0
TRIES, SETTLE_S = 3, 3.0
"""At a normal goal afterwards, and s before a further one: what was heard last in the storm may
keep the planner from believing an image until the arm has rested for a while."""
TASK = 'reach'


def fuzz_ros(
    count: int, seed: int, checkpoint: Path, arm: str = 'panda', progress: bool = True
) -> dict[str, Any]:
    """Sends ``count`` hostile messages to simulator, guard and planner, then a normal goal.

    Returns:
        a report: what was sent, crashes, memory, commands judged, the outcome of the goal;
        ``violations`` counts all that must not be, ``examples`` tells it.

    Raises:
        GraphError: the graph did not come up.
    """
    with own_domain(), Supervisor(simulation(arm, str(checkpoint), TASK)) as graph:
        graph.wait_ready()
        with Attendant(graph) as attendant:
            storm = RosStorm(graph, attendant, seed, arm)
            storm.run(count, progress)
            return storm.report()


class RosStorm:
    """Draws and sends the messages; watches processes, memory and commands."""

    def __init__(self, graph: Supervisor, attendant: Attendant, seed: int, arm: str) -> None:
        self._graph, self._attendant, self._seed = graph, attendant, seed
        self._rng = np.random.default_rng(seed)
        self._noise = Noise(self._rng)
        self._arm = Arm(load(ArmConfig, arm_path(arm)))
        self._dt = load(SimConfig, config_path('sim.yaml')).time.stream_dt
        self._watch = CommandWatch(attendant.node, self._arm, self._dt, foreign=MARK)
        self._memory = MemoryLog(graph)
        self._counts: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._last: deque[str] = deque(maxlen=5)
        self._pending: deque[tuple[float, Client, Any]] = deque()
        self._waiting: Counter[str] = Counter()
        self._due: list[tuple[str, type, Client]] = []
        self._crashes, self._seconds, self._outcome = 0, 0.0, 'not tried'
        self._find_targets()

    def run(self, count: int, progress: bool = True) -> None:
        """The storm, then a goal that must be reached."""
        began = rescued = monotonic()
        for i in tqdm(range(count), unit='msg', disable=not progress):
            if self._rng.random() < TOPIC_SHARE:
                self._publish()
            else:
                self._request()
            self._attendant.spin()
            self._forget_requests()
            if monotonic() - rescued > RESCUE_S:
                self._notice_crashes()
                self._rescue()
                self._memory.sample(i / count)
                rescued = monotonic()
            if self._crashes > MAX_CRASHES:
                break
        self._notice_crashes()
        self._seconds = monotonic() - began
        self._outcome = self._reach_a_goal()

    def report(self) -> dict[str, Any]:
        """What happened."""
        memory = self._memory.growth(WARM_UP)
        wrong = [*self._wrong, *self._watch.wrong]
        if self._counts.total() >= LONG:
            wrong += [f'memory of {n}: {m}' for n, m in memory.items() if m['growth'] > GROWTH]
        extra = self._watch.jumps - self._attendant.guard_resets - self._crashes
        if extra > 0:
            wrong.append(f'{extra} jumps of the command without a reset of the guard')
        if self._outcome != 'SUCCEEDED':
            wrong.append(f'a normal goal afterwards: {self._outcome}')
        sent = self._counts.total()
        return {
            'messages': sent,
            'seed': self._seed,
            'seconds': round(self._seconds, 1),
            'messages_per_s': round(sent / max(self._seconds, 1e-3)),
            'crashes': self._crashes,
            'commands': self._watch.commands,
            'commands_unseen': self._watch.unseen,
            'goal_afterwards': self._outcome,
            'memory': memory,
            'counts': dict(sorted(self._counts.items())),
            'violations': len(wrong) + max(0, self._watch.count - len(self._watch.wrong)),
            'examples': wrong,
        }

    # What is attacked.

    def _find_targets(self) -> None:
        """All that the processes subscribe to and serve, and some true messages of each topic."""
        node = self._attendant.node
        topics, services = self._what_they_hear()
        self._true: dict[str, Any] = {}
        listeners = [
            node.create_subscription(interface(kind), topic, self._keeper(topic), SENSOR)
            for topic, kind in topics.items()
        ]
        self._attendant.spin(LISTEN_S)
        for listener in listeners:
            node.destroy_subscription(listener)
        qos = QoSProfile(depth=10)
        self._publishers: list[tuple[str, type, Publisher]] = [
            (topic, interface(kind), node.create_publisher(interface(kind), topic, qos))
            for topic, kind in sorted(topics.items())
        ]
        self._clients: list[tuple[str, type, Client]] = [
            (name, interface(kind).Request, node.create_client(interface(kind), name))  # type: ignore[attr-defined]
            for name, kind in sorted(services.items())
        ]

    def _what_they_hear(self) -> tuple[dict[str, str], dict[str, str]]:
        """Type by name of topics and services, once discovery brings nothing new."""
        node, known, since = self._attendant.node, 0, monotonic()
        while True:
            topics: dict[str, str] = {}
            services: dict[str, str] = {}
            for name in set(self._graph.processes) & set(node.get_node_names()):
                heard = node.get_subscriber_names_and_types_by_node(name, '/')
                served = node.get_service_names_and_types_by_node(name, '/')
                topics |= {topic: kinds[0] for topic, kinds in heard}
                services |= {
                    service: kinds[0] for service, kinds in served if LEFT_OUT not in service
                }
            if len(topics) + len(services) != known:
                known, since = len(topics) + len(services), monotonic()
            if monotonic() - since > DISCOVERY_S:
                return topics, services
            self._attendant.spin(0.1)

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        def keep(msg: Any) -> None:
            self._true[topic] = msg

        return keep

    # What is sent.

    def _publish(self) -> None:
        topic, kind, publisher = self._publishers[self._rng.integers(len(self._publishers))]
        true = self._true_message(topic, kind)
        if true is not None and self._rng.random() < SPOILED_SHARE:
            msg = self._noise.spoiled(true, int(self._rng.choice([0, 1, 1, 2, 5])))
        else:
            msg = self._noise.message(kind)
        if topic.endswith(COMMAND_TOPIC):
            msg.header.frame_id = MARK
        publisher.publish(msg)
        self._count(topic)

    def _true_message(self, topic: str, kind: type) -> Any:
        """One that belongs here and now, where it can be made; else one that was heard."""
        now, position = self._attendant.now, self._watch.position
        if position is not None and kind is JointState:
            sample = JointSample(position, np.zeros_like(position), now)
            return convert.joints_to_msg(sample, self._arm.joint_names)
        if position is not None and kind is JointTrajectory:
            steps = self._rng.uniform(-0.05, 0.05, (3, len(position)))
            waypoints, times = position + np.cumsum(steps, axis=0), np.array([0.1, 0.2, 0.3])
            proposal = Proposal(self._arm.joint_names, waypoints, times, now, 0.2)
            return convert.proposal_to_msg(proposal)
        true: Any = self._true.get(topic)
        if hasattr(true, 'header'):
            true.header.stamp = convert.to_time(now)
        return true

    def _request(self) -> None:
        """To each service in turn, in an order that is drawn anew each time."""
        if not self._due:
            self._due = [self._clients[i] for i in self._rng.permutation(len(self._clients))]
        name, kind, client = self._due.pop()
        if self._waiting[name] >= PENDING:
            return
        future = client.call_async(self._noise.message(kind))
        self._waiting[name] += 1
        self._pending.append((monotonic(), client, future))
        self._count(name)

    def _forget_requests(self) -> None:
        """Takes answers; gives up what nobody answered."""
        while self._pending:
            asked_at, client, future = self._pending[0]
            if not future.done() and monotonic() - asked_at < GIVE_UP_S:
                return
            self._pending.popleft()
            name = service_name(client)
            self._waiting[name] -= 1
            if not future.done():
                client.remove_pending_request(future)
                self._counts['requests without an answer'] += 1
            elif name.endswith('guard/reset'):
                self._attendant.guard_resets += future.result().success

    def _count(self, name: str) -> None:
        self._counts[name] += 1
        self._last.append(name)

    # What becomes of it.

    def _notice_crashes(self) -> None:
        name = self._graph.ended()
        if name is None:
            return
        self._crashes += 1
        code, tail = self._graph.exit_codes[name], self._graph.tail(name, 6)
        self._wrong.append(f'{name} ended with {code} after {list(self._last)}: {tail}')
        self._graph.start_node(name)

    def _rescue(self) -> None:
        try:
            self._attendant.rescue()
        except GraphError as error:
            self._wrong.append(f'rescue: {error}')

    def _reach_a_goal(self) -> str:
        """The last outcome of a normal goal, once no hostile request is under way."""
        deadline = monotonic() + 2.0 * GIVE_UP_S
        while self._pending and monotonic() < deadline:
            self._attendant.spin(0.1)
            self._forget_requests()
        outcome = ''
        for _ in range(TRIES):
            try:
                scene = self._attendant.reset_scene(self._seed, TASK)
                if outcome:
                    self._attendant.spin(SETTLE_S)
                outcome = self._attendant.pursue(scene.goal, GOAL_S)
            except GraphError as error:
                return str(error)
            if outcome == 'SUCCEEDED':
                break
        return outcome


def format_fuzz(report: dict[str, Any]) -> str:
    """The report as a table for a terminal."""
    lines = [f'{name:<50} {number:>8}' for name, number in report['counts'].items()]
    for name, memory in report['memory'].items():
        lines.append(f'memory of {name}: {memory["first_mb"]} MB, later {memory["last_mb"]} MB')
    for key in (
        'messages',
        'messages_per_s',
        'crashes',
        'commands',
        'commands_unseen',
        'violations',
    ):
        lines.append(f'{key:<50} {report[key]:>8}')
    lines.append(f'a normal goal afterwards: {report["goal_afterwards"]}')
    return '\n'.join([*lines, *report['examples']])
