"""A client that keeps a graph at work: resets, resumes, sends goals, and waits with a limit."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal, GuardStatus
from jepa_arm_msgs.srv import ResetScene
from rclpy.action.client import ActionClient
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from . import conversions as convert
from .client import ask
from .goal_server import OUTCOME_NAMES
from .graph import GraphError, Supervisor
from .parameters import SENSOR, STATUS

AT_ONCE = 6
"""Messages taken at once: more than come while one is sent."""
ANSWER_S = 20.0
"""Longest wait for a service or an action."""


class Attendant:
    """A node in a context of its own, spun by its caller.

    Attributes:
        node: for further publishers and subscriptions.
        guard: the newest status; None before.
        guard_resets: answered with success, and those that the guard made by itself after a pause
            of its process, as its status says.
    """

    node: Node

    def __init__(self, graph: Supervisor, name: str = 'attendant') -> None:
        self._graph, self._name = graph, name
        self.guard: GuardStatus | None = None
        self.guard_resets, self._pause = 0, ''
        self._clock: tuple[float, float] | None = None

    def __enter__(self) -> Attendant:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(self._name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.action = ActionClient(self.node, MoveToGoal, 'move_to_goal')
        self._scene = self.node.create_client(ResetScene, 'sim/reset')
        self._triggers = {
            name: self.node.create_client(Trigger, name)
            for name in ('guard/reset', 'guard/resume')
        }
        self.node.create_subscription(GuardStatus, 'guard/status', self._on_guard, STATUS)
        self.node.create_subscription(PoseArray, 'ground_truth/objects', self._on_truth, SENSOR)
        self.wait(self.action.server_is_ready, 'move_to_goal')
        self.wait(lambda: self._clock is not None, 'ground_truth/objects')
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.action.destroy()  # else the participant lives on until it is collected
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    @property
    def now(self) -> float:
        """s, simulated time, by the newest ground truth and its arrival."""
        assert self._clock is not None
        stamp, arrived = self._clock
        return stamp + monotonic() - arrived

    def spin(self, seconds: float = 0.0) -> None:
        """Takes what comes for ``seconds``; what is there already if 0."""
        deadline = monotonic() + seconds
        for _ in range(AT_ONCE):
            self._executor.spin_once(timeout_sec=0.0)
        while monotonic() < deadline:
            self._executor.spin_once(timeout_sec=min(0.1, seconds))

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = ANSWER_S) -> Any:
        """What ``condition`` returns once it is true.

        Raises:
            GraphError: not in time.
        """
        value = self._comes(condition, timeout)
        if value:
            return value
        raise GraphError(f'{what}: nothing within {timeout} s')

    def call(self, client: Client, request: Any, timeout: float = ANSWER_S) -> Any:
        """The answer to ``request``.

        Raises:
            GraphError: none in time.
        """
        return ask(client, request, self._comes, timeout)

    def reset_scene(self, seed: int, task: str) -> ResetScene.Response:
        """Draws a scene: the virtual arm stands elsewhere at once, and so does the guard then.

        Raises:
            GraphError: refused, or the guard does not get ready.
        """
        response = self.call(self._scene, ResetScene.Request(seed=seed, task=task))
        if not response.success:
            raise GraphError(f'sim/reset: {response.message}')
        self.rescue()
        return response

    def rescue(self) -> None:
        """Resets the guard and ends a hold until it takes proposals.

        Raises:
            GraphError: it does not in time.
        """
        deadline = monotonic() + ANSWER_S
        while True:
            self.spin(0.3)
            done = self.call(self._triggers['guard/reset'], Trigger.Request())
            self.guard_resets += done.success
            if (
                done.success
                and self.call(self._triggers['guard/resume'], Trigger.Request()).success
            ):
                return
            if monotonic() > deadline:
                raise GraphError(f'the guard does not get ready: {done.message}')

    def pursue(self, goal: Goal, timeout: float, each: Callable[[], None] | None = None) -> str:
        """Name of the outcome of a goal; ``each`` is called again and again until then.

        Raises:
            GraphError: no answer in time.
        """
        request = MoveToGoal.Goal(goal=goal, timeout=timeout)
        sent = self.action.send_goal_async(request)
        self.wait(sent.done, 'move_to_goal')
        handle: Any = sent.result()
        result: Future = handle.get_result_async()

        def is_done() -> bool:
            if each is not None:
                each()
            return result.done()

        self.wait(is_done, 'the result of move_to_goal', timeout + ANSWER_S)
        response: Any = result.result()
        return OUTCOME_NAMES[response.result.outcome]

    def _comes(self, condition: Callable[[], Any], timeout: float) -> Any:
        deadline = monotonic() + timeout
        while not (value := condition()) and monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def _on_guard(self, msg: GuardStatus) -> None:
        self.guard = msg
        pause = next((reason for reason in msg.reasons if reason.startswith('paused:')), '')
        self.guard_resets += bool(pause) and pause != self._pause
        self._pause = pause

    def _on_truth(self, msg: PoseArray) -> None:
        self._clock = convert.to_seconds(msg.header.stamp), monotonic()


def place_goal(position: np.ndarray, subject: str, frame: str) -> Goal:
    """Goal of bringing the tip or the object to ``position`` (3,) m in ``frame``."""
    goal = Goal(kind=Goal.OBJECT_POSE if subject == 'object' else Goal.TIP_POSE)
    goal.pose.header.frame_id = frame
    goal.pose.pose.position = convert.point_to_msg(position)
    goal.pose.pose.orientation.w = 1.0
    return goal
