"""Graph client: the Python interface to a running graph of simulator, guard and planner.

Example::

    with GraphClient.connect() as graph:
        scene = graph.reset(seed=3, task='push')
        result = graph.move_to(scene.goal)
        print(result.outcome, result.final_distance)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar, cast

import numpy as np
import rclpy
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import ResetScene, Step
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.client import Client
from rclpy.context import Context
from rclpy.exceptions import InvalidNamespaceException
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from jepa_arm.core.goals import PositionGoal
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.compat import service_name
from jepa_arm.ros.runtime.executors import PollingExecutor, PollingGroup
from jepa_arm.ros.runtime.node_contract import GraphError
from jepa_arm.ros.runtime.qos import STATUS_QOS

T = TypeVar('T')
MessageLog = list[tuple[float, Any]]
"""Arrival time (s, ``time.monotonic``) and message, oldest first."""

ANSWER_S = 20.0
"""Longest wait for a service, an action or a message."""
READY_S = 60.0
"""Longest wait for a graph that has just been started."""
RETRY_S = 3.0
"""Time without a response after which a request is sent again."""
REJOIN_S = 20.0
"""Time after which ``connect`` replaces a client that has not discovered the action server, as was
seen with Fast DDS."""
POLL_S = 0.02
"""Period at which a condition is checked while no message arrives."""
SPIN_S = 0.1
GUARD_RETRY_S = 0.2
"""Time between two requests to reset the guard."""
SETTLE_S = 0.6
"""Time after a reset, s, after which the planner's belief contains only the new scene."""
AT_SETPOINT_RAD = 0.01
"""Distance of the measured joints from the guard's command within which the guard is ready."""
MOVING = (GuardStatus.FOLLOWING, GuardStatus.STOPPING)
EVERY_SAMPLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass(frozen=True)
class GoalResult:
    """Result of a goal.

    Attributes:
        outcome: name of the outcome in ``MoveToGoal.action``, such as ``'SUCCEEDED'``.
        message: the planner's explanation.
        final_distance: m, estimated distance to the goal; NaN without an estimate.
        replans: number of plans made for the goal.
    """

    outcome: str
    message: str
    final_distance: float
    replans: int

    @property
    def succeeded(self) -> bool:
        """Return whether the goal was reached."""
        return self.outcome == 'SUCCEEDED'


class SentGoal:
    """A goal that the planner has accepted."""

    def __init__(self, client: GraphClient, handle: ClientGoalHandle) -> None:
        self._client, self._handle = client, handle
        self._future: Future = handle.get_result_async()

    @property
    def is_done(self) -> bool:
        """Return whether the result has arrived."""
        return self._future.done()

    def cancel(self) -> None:
        """Ask the planner to cancel the goal; the result follows."""
        self._handle.cancel_goal_async()

    def result(self, timeout: float = ANSWER_S) -> GoalResult:
        """Wait for the result and return it.

        Raises:
            GraphError: no result within ``timeout`` s.
        """
        self._client.wait(lambda: self.is_done, 'the result of move_to_goal', timeout)
        response: Any = self._future.result()
        result = response.result
        outcome = convert.OUTCOME_NAMES.get(result.outcome, str(result.outcome))
        return GoalResult(outcome, result.message, result.final_distance, result.replans)


class GraphClient:
    """Client of one graph: topics, services, resets and goals.

    A background thread spins a node in its own ROS context and runs all callbacks.
    Every wait has a timeout. Names are relative to the namespace of the graph.

    Attributes:
        node: the ROS node, for anything that this class does not offer.
        guard, planner, joints: newest status of guard and planner, and newest joint state; None
            until one arrives. Received from ``wait_until_ready`` on.
    """

    def __init__(
        self,
        name: str = 'jepa_arm_client',
        namespace: str = '',
        poll_period: float | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Create the node and start to spin it, without waiting for other nodes.

        Args:
            name: name of the node.
            namespace: namespace of the graph.
            poll_period: s, period at which messages are received; None: each as it arrives, which
                takes four times the processor time.
            check: called during every wait; raises an exception if waiting is pointless, as
                ``Supervisor.check_running`` does when a process has ended.

        Raises:
            GraphError: the namespace is malformed.
        """
        self._context = Context()
        rclpy.init(context=self._context)
        try:
            self.node = rclpy.create_node(
                name, context=self._context, namespace=namespace.strip('/') or None
            )
        except InvalidNamespaceException:
            rclpy.shutdown(context=self._context)
            raise GraphError(
                'namespace: expected words of letters, digits and _ that begin with a letter, a '
                f'/ between them, got {namespace!r}'
            ) from None
        self.guard: GuardStatus | None = None
        self.planner: PlannerStatus | None = None
        self.joints: JointState | None = None
        self._own_resets, self._pauses, self._last_pause = 0, 0, ''
        self._check = check
        self._services: dict[str, Client] = {}
        self._action: ActionClient | None = None
        self._has_status = False
        self._error: BaseException | None = None
        self._group: PollingGroup | None = None
        if poll_period is not None:
            self._group = PollingGroup(poll_period, 0.0, lambda take: take())
        self._executor = PollingExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._received = threading.Condition()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    @classmethod
    def connect(
        cls,
        name: str = 'jepa_arm_client',
        namespace: str = '',
        poll_period: float | None = None,
        check: Callable[[], None] | None = None,
        timeout: float = READY_S,
    ) -> GraphClient:
        """Return a client once its graph is ready; see ``__init__`` and ``wait_until_ready``.

        Raises:
            GraphError: the graph is not ready within ``timeout`` s.
        """
        deadline = monotonic() + timeout
        while True:
            client = cls(name, namespace, poll_period, check)
            try:
                left = deadline - monotonic()
                is_served = client.poll(client._goals().server_is_ready, min(left, REJOIN_S))
                if is_served or left <= REJOIN_S:
                    client.wait_until_ready(max(0.0, deadline - monotonic()))
                    return client
            except BaseException:
                client.close()
                raise
            client.close()

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and destroy the node."""
        self._is_closing.set()
        self._thread.join(5.0)
        self._executor.shutdown()
        if self._action is not None:
            self._action.destroy()  # otherwise the participant lives until garbage collection
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    @property
    def guard_resets(self) -> int:
        """Return how often the guard's setpoint was set to the measured joints.

        This counts resets by this client and the guard's own after a pause of its process.
        """
        return self._own_resets + self._pauses

    # Waiting.

    def wait(self, condition: Callable[[], T], what: str, timeout: float = ANSWER_S) -> T:
        """Wait until ``condition`` is true and return its value; ``what`` names it in the error.

        Raises:
            GraphError: it is still false after ``timeout`` s.
        """
        value = self.poll(condition, timeout)
        if value:
            return value
        raise GraphError(f'expected {what} within {timeout:.0f} s')

    def poll(self, condition: Callable[[], T], timeout: float) -> T:
        """Return the value of ``condition`` as soon as it is true, or after ``timeout`` s.

        The condition is checked after each message and every ``POLL_S``.

        Raises:
            GraphError: a callback or ``check`` has raised an exception.
        """
        deadline = monotonic() + timeout
        while not (value := condition()) and monotonic() < deadline:
            if self._error is not None:
                raise GraphError(f'a callback failed: {self._error!r}') from self._error
            if self._check is not None:
                self._check()
            with self._received:
                self._received.wait(POLL_S)
        return value

    def wait_until_ready(self, timeout: float = READY_S) -> None:
        """Wait until the planner accepts goals, and statuses and joint states have publishers.

        From then on ``guard``, ``planner`` and ``joints`` are kept up to date.

        Raises:
            GraphError: something is missing after ``timeout`` s; the message names the nodes
                found.
        """
        if not self._has_status:
            self._has_status = True
            self.subscribe(GuardStatus, 'guard/status', self._on_guard, STATUS_QOS)
            self.subscribe(PlannerStatus, 'planner/status', self._on_planner, STATUS_QOS)
            self.subscribe(JointState, 'joint_states', self._on_joints, EVERY_SAMPLE)
        if not self.poll(lambda: not self._missing(), timeout):
            names = sorted(name for name, _ in self.node.get_node_names_and_namespaces())
            raise GraphError(
                f'expected {", ".join(self._missing())} within {timeout:.0f} s; nodes: '
                f'{", ".join(names)}'
            )

    # Topics and services.

    def execute(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the thread that spins the node and return its result.

        Use it to create and destroy entities of the node: rclpy adds an action client to its node
        before the client is complete, and spinning the node at that moment raises an exception.
        """
        if threading.current_thread() is self._thread:
            return function()
        future = self._executor.create_task(function)
        self.wait(future.done, 'a reaction of the thread that spins')
        return cast(T, future.result())

    def subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> None:
        """Call ``callback`` with each message of ``topic``, on the thread that spins."""
        node, group = self.node, self._group
        self.execute(
            lambda: node.create_subscription(kind, topic, callback, qos, callback_group=group)
        )

    def record(self, kind: type, topic: str, qos: QoSProfile) -> MessageLog:
        """Return a list to which each message of ``topic`` is appended with its arrival time."""
        log: MessageLog = []
        self.subscribe(kind, topic, lambda message: log.append((monotonic(), message)), qos)
        return log

    def publisher(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        """Return a publisher that has found at least one subscription.

        Raises:
            GraphError: nobody subscribes to ``topic``.
        """
        publisher = self.execute(lambda: self.node.create_publisher(kind, topic, qos))
        self.wait(lambda: publisher.get_subscription_count() > 0, f'a subscription of {topic}')
        return publisher

    def call(
        self,
        kind: Any,
        name: str,
        request: Any = None,
        timeout: float = ANSWER_S,
        retry_after: float = RETRY_S,
    ) -> Any:
        """Return the response of a service.

        The request is repeated if no response comes: a server that has not fully discovered a new
        client drops its response (rmw_fastrtps waits 0.1 s for discovery), although the client
        already sees the server. A request may therefore be served twice. The last one is answered
        before this method returns, so that none takes effect after a later call.

        Args:
            kind: type of the service.
            name: name of the service.
            request: None for an empty one.
            timeout: s, including repetitions.
            retry_after: s without a response after which the request is sent again.

        Raises:
            GraphError: the service is not there or does not answer.
        """
        deadline, futures = monotonic() + timeout, list[Future]()
        client = self._services.get(name)
        if client is None:
            client = self.execute(lambda: self.node.create_client(kind, name))
            self._services[name] = client
        self.wait(client.service_is_ready, f'the service {name}', timeout)
        request = kind.Request() if request is None else request
        while (left := deadline - monotonic()) > 0.0:
            if not any(future.done() for future in futures):
                futures.append(client.call_async(request))
            if self.poll(futures[-1].done, min(left, retry_after)):
                return futures[-1].result()
        raise GraphError(f'no answer from {service_name(client)} for {timeout:.0f} s')

    # Scenes, guard and goals.

    def reset(self, seed: int, task: str = '') -> ResetScene.Response:
        """Reset the virtual arm to the scene of ``seed`` and return it once a goal can be sent.

        Args:
            seed: seed of the scene.
            task: name of a task; empty for the current one.

        Raises:
            GraphError: the reset fails, or guard or planner does not become ready.
        """
        self.wait_for_rest()
        scene = self.reset_scene(seed, task)
        self.settle(convert.to_seconds(scene.goal.image.header.stamp))
        return scene

    def reset_scene(self, seed: int, task: str = '') -> ResetScene.Response:
        """Reset the virtual arm without preparing guard and planner for the scene; see ``reset``.

        Raises:
            GraphError: the reset fails.
        """
        return self._demand(ResetScene, 'sim/reset', ResetScene.Request(seed=seed, task=task))

    def wait_for_rest(self) -> None:
        """Wait until the guard no longer moves the arm.

        Raises:
            GraphError: the arm still moves.
        """
        self.wait(lambda: self.guard is None or self.guard.state not in MOVING, 'the arm at rest')

    def settle(self, stamp: float) -> None:
        """Wait until guard and planner are ready for the scene that began at ``stamp`` (s).

        Raises:
            GraphError: one of them does not become ready.
        """
        self.prepare_guard(stamp)
        self.wait(
            lambda: self.has_planner_observed(stamp + SETTLE_S), 'a planner that sees the scene'
        )
        self.prepare_guard(stamp)

    def prepare_guard(self, stamp: float) -> None:
        """Reset the guard until it holds the arm at joints measured at ``stamp`` (s) or later.

        Raises:
            GraphError: the guard does not become ready.
        """
        deadline = monotonic() + ANSWER_S
        while not self._is_guard_ready(stamp):
            self.reset_guard()
            is_ready = self.poll(lambda: self._is_guard_ready(stamp), GUARD_RETRY_S)
            if not is_ready and monotonic() > deadline:
                reasons = [] if self.guard is None else list(self.guard.reasons)
                raise GraphError(f'the guard is not ready for {ANSWER_S:.0f} s: {reasons}')

    def reset_guard(self) -> bool:
        """Reset the guard to the measured joints and end its hold; return whether it agreed."""
        if not self.call(Trigger, 'guard/reset').success:
            return False
        self._own_resets += 1
        return self.call(Trigger, 'guard/resume').success

    def has_planner_observed(self, stamp: float) -> bool:
        """Return whether the planner has used an observation stamped ``stamp`` (s) or later."""
        if self.planner is None:
            return False
        return convert.to_seconds(self.planner.observation_stamp) >= stamp - 1e-6

    def step(self, control_steps: int = 1) -> float:
        """Advance a virtual arm in lock-step mode and return the simulated time, s.

        Raises:
            GraphError: it is not in lock-step mode, or does not answer.
        """
        request = Step.Request(control_steps=control_steps)
        response = self._demand(Step, 'sim/step', request, retry_after=ANSWER_S)  # never repeated
        return convert.to_seconds(response.sim_time)

    def send_goal(
        self, goal: Goal | PositionGoal, tolerance: float = 0.0, timeout: float = 0.0
    ) -> SentGoal:
        """Send a goal to the planner and return it once it is accepted.

        Args:
            goal: goal message, or position in the arm's base frame.
            tolerance: m; 0 for the default of the task.
            timeout: s of ROS time; 0 for the default of the planner.

        Raises:
            GraphError: the planner is not there, or does not accept the goal.
        """
        if isinstance(goal, PositionGoal):
            goal = convert.position_goal_to_msg(goal, '', convert.to_time(0.0))
        action = self._goals()
        self.wait(action.server_is_ready, 'the action move_to_goal')
        request = MoveToGoal.Goal(goal=goal, tolerance=tolerance, timeout=timeout)
        future = action.send_goal_async(request)
        self.wait(future.done, 'an answer of move_to_goal')
        handle: Any = future.result()
        if handle is None or not handle.accepted:
            raise GraphError('move_to_goal did not accept the goal')
        return SentGoal(self, handle)

    def move_to(
        self, goal: Goal | PositionGoal, tolerance: float = 0.0, timeout: float = 15.0
    ) -> GoalResult:
        """Send a goal and return its result; see ``send_goal``.

        Raises:
            GraphError: see ``send_goal``; or no result within ``timeout`` and ``ANSWER_S``.
        """
        return self.send_goal(goal, tolerance, timeout).result(timeout + ANSWER_S)

    def hold(self) -> None:
        """Make the planner end its goal, so that the arm stops.

        Raises:
            GraphError: the planner does not answer or refuses.
        """
        self._demand(Trigger, 'planner/hold')

    # Internals.

    def _demand(self, kind: Any, name: str, *request: Any, **waits: float) -> Any:
        """Call a service as ``call`` does, return its response, and raise if it refuses."""
        response = self.call(kind, name, *request, **waits)
        if not response.success:
            raise GraphError(f'{name}: {response.message}')
        return response

    def _missing(self) -> list[str]:
        """Return the required topics and actions that the graph does not have yet."""
        topics = ('guard/status', 'planner/status', 'joint_states')
        missing = [topic for topic in topics if not self.node.count_publishers(topic)]
        return missing if self._goals().server_is_ready() else [*missing, 'move_to_goal']

    def _goals(self) -> ActionClient:
        if self._action is None:
            self._action = self.execute(
                lambda: ActionClient(self.node, MoveToGoal, 'move_to_goal')
            )
        return self._action

    def _is_guard_ready(self, stamp: float) -> bool:
        """Return whether the guard idles at the joints measured at ``stamp`` (s) or later."""
        guard, joints = self.guard, self.joints
        if guard is None or joints is None or guard.state != GuardStatus.IDLE:
            return False
        try:
            sample = convert.joints_from_msg(joints, list(guard.joint_names))
        except convert.ConversionError:
            return False
        distance = np.abs(sample.position - np.array(guard.command)).max(initial=0.0)
        return bool(sample.stamp >= stamp - 1e-6 and distance < AT_SETPOINT_RAD)

    def _spin(self) -> None:
        while not self._is_closing.is_set():
            try:
                self._executor.spin_once(timeout_sec=SPIN_S)
            except Exception as error:  # the next wait raises it as a GraphError
                self._error = error
                self._is_closing.set()
            with self._received:
                self._received.notify_all()

    def _on_guard(self, msg: GuardStatus) -> None:
        self.guard = msg
        pause = next((reason for reason in msg.reasons if reason.startswith('paused:')), '')
        self._pauses += bool(pause) and pause != self._last_pause
        self._last_pause = pause

    def _on_planner(self, msg: PlannerStatus) -> None:
        self.planner = msg

    def _on_joints(self, msg: JointState) -> None:
        self.joints = msg
