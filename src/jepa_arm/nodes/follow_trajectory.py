"""Commands as goals of the action FollowJointTrajectory, for a controller that replaces them.

The guard decides at every tick. A goal holds what was given and is not due yet, what comes next as
far as it is checked, and the stop behind it, with the time of each point; so the robot carries out
the guard's own commands, ``LEAD`` ticks later, and without another goal it ends at rest
(``told_motion``). Nothing is sent where the robot knows already, as at rest.

The services of the action are called directly, as its protocol has them
(https://design.ros2.org/articles/actions.html): rclpy's ``ActionClient`` reads each status message
with all goals of the last 10 s, and in rclpy 9.1 it keeps a future of every goal for ever.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import numpy as np
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory

from ..arm import Arm
from ..config import ConfigError, GuardConfig
from ..guard import Guard
from ..types import Command, FloatArray, GuardState, JointSample
from . import conversions as convert
from .diagnostics import Rate, percentiles
from .goal_book import GoalBook, Trouble
from .guard_watch import OtherClients, Rivals, start_anew
from .parameters import SENSOR
from .told_motion import AHEAD, Motion, ToldMotion

LOOK_EVERY_S = 0.1
SETTLE_S = 0.2
"""How long an arm must have stood still before the guard takes it over again."""
STILL_RAD = 2e-3
RETRY_S = 1.0
"""After trouble, before the next goal."""
CLOCK_S = 0.05
"""By how much joint states may be stamped off this computer's time."""
MOST_RESULTS = 10
"""Results that are waited for; those of goals that were replaced come at once, if at all."""
FIRST = 'controller: has not accepted the first goal yet'


def _action() -> Any:
    try:
        from control_msgs.action import FollowJointTrajectory  # pyright: ignore
    except ImportError:
        raise ConfigError(
            'controller: follow_joint_trajectory needs the package control_msgs, which cannot be '
            'imported; get it with: sudo apt install ros-$ROS_DISTRO-control-msgs'
        ) from None
    return FollowJointTrajectory


class FollowTrajectory:
    """The guard's output to a controller's action server.

    Where the server rejects a goal, ends one, does not answer or is gone, no more goals are sent;
    the robot goes on to rest as it was told last, and the guard starts anew where it stands.

    Attributes:
        name: of the action, as remapped.
    """

    holds_position, may_rest = True, False

    def __init__(self, node: Node, action: str, arm: Arm, dt: float, config: GuardConfig) -> None:
        """Calls nobody yet.

        Raises:
            ConfigError: control_msgs is not installed.
        """
        self._action = _action()
        self._node, self._arm = node, arm
        self.name = node.resolve_topic_name(action)
        self._tolerance = self._tolerances(config.lost_tracking_error)
        self._told = ToldMotion(dt, arm.velocity_limit)
        self._book = GoalBook(self.name)
        self._rate = Rate()
        self._clients: tuple[Client, Client] | None = None
        self._asked: list[Future] = []
        self._results: list[Future] = []
        self._begin()

    def _begin(self) -> None:
        self._reason, self.is_open = FIRST, False
        self._is_finishing = False
        self._trouble: Trouble | None = None
        self._quiet_until = self._looked_at = -np.inf
        self._is_there = False
        self._still_at: FloatArray | None = None
        self._still_since = np.inf
        self._offsets: deque[float] = deque(maxlen=10)
        self._told.forget()
        self._forget_goals()

    def listen(self) -> None:
        """Looks for the server, and for others who command the robot."""
        node, impl = self._node, self._action.Impl
        self._begin()
        self._clients = (
            node.create_client(impl.SendGoalService, f'{self.name}/_action/send_goal'),
            node.create_client(impl.GetResultService, f'{self.name}/_action/get_result'),
        )
        # `ros2 node info` and `ros2 action info` know clients of an action by this.
        feedback = f'{self.name}/_action/feedback'
        self._feedback = node.create_subscription(
            impl.FeedbackMessage, feedback, lambda _: None, SENSOR, raw=True
        )
        topic = f'{self.name.rsplit("/", 1)[0]}/joint_trajectory'
        self._rivals = Rivals(node, JointTrajectory, topic, own=0)
        self._others = OtherClients(node, self.name)

    @property
    def reason(self) -> str:
        """Why no proposal can be followed now; empty if it can."""
        return self._reason if self.is_open else self._obstacle(monotonic()) or FIRST

    @property
    def is_clear(self) -> bool:
        """Whether the server is there, the clocks agree, and nobody is heard to command it."""
        return not self._obstacle(monotonic()) and self._rivals.is_clear

    def open(self) -> None:
        """From now on the guard commands."""
        self._rivals.stop_listening()
        self._others.begin()
        self.is_open = True

    def close(self) -> None:
        """Calls nobody any more."""
        if self._clients is None:
            return
        self._forget_goals()
        for client in self._clients:
            self._node.destroy_client(client)
        self._node.destroy_subscription(self._feedback)
        self._rivals.close()
        self._clients, self.is_open = None, False

    def say_rest(self) -> None:
        """It was told of rest with every goal."""

    def repeat(self) -> None:
        """A goal need not be told twice."""

    def finish(self) -> None:
        """The arm comes to rest and nothing follows: answers may stay out."""
        self._is_finishing = True

    def is_over(self, ros_now: float) -> bool:
        """Whether the robot has carried out all that it was told."""
        return ros_now > self._told.end

    def ticks_due(self, ros_now: float) -> int:
        """How many commands are due when the guard's timer fires: as many as the robot needs."""
        return self._told.ticks_due(ros_now) if self._trouble is None else 1

    def observe(self, sample: JointSample, now: float, ros_now: float) -> None:
        """Takes the measured joints."""
        self._offsets.append(ros_now - sample.stamp)
        is_still = self._still_at is not None and bool(
            np.all(np.abs(sample.position - self._still_at) < STILL_RAD)
        )
        if not is_still:
            self._still_at, self._still_since = sample.position, now

    def watch(self, guard: Guard, now: float, ros_now: float) -> None:
        """Stops ``guard`` in trouble; starts it anew when trouble is over and the arm rests."""
        if self._is_finishing:
            return
        news = self._others.news(now) or self._rivals.news(now)
        if news:
            guard.hold(news)
        trouble = self._found(now)
        if trouble is not None and self._trouble is None:
            self._trouble, self._reason = trouble, trouble.reason
            self._quiet_until = now + RETRY_S
            if trouble.is_over_alone:
                guard.halt(trouble.reason)
            else:
                guard.hold(trouble.reason)
        elif self._trouble is not None:
            self._recover(guard, self._trouble.reason, now, ros_now)
        elif self._book.is_accepted:
            self._reason = ''

    def _found(self, now: float) -> Trouble | None:
        obstacle = self._obstacle(now)
        return Trouble(obstacle, is_over_alone=True) if obstacle else self._book.trouble(now)

    def _recover(self, guard: Guard, reason: str, now: float, ros_now: float) -> None:
        is_quiet = now > self._quiet_until and self.is_over(ros_now)
        is_still = now - self._still_since > SETTLE_S
        is_moving = guard.state in (GuardState.FOLLOWING, GuardState.STOPPING)
        if not is_quiet or not is_still or guard.is_blocked or is_moving:
            return
        if self._obstacle(now) or self._still_at is None:
            return
        if start_anew(guard, self._still_at, now, reason):
            self._trouble = None
            self._told.forget()
            self._forget_goals()

    def _forget_goals(self) -> None:
        """Answers that are out are waited for no more."""
        self._book.forget()
        for client, futures in zip(
            self._clients or (), (self._asked, self._results), strict=False
        ):
            for future in futures:
                client.remove_pending_request(future)
        self._asked.clear()
        self._results.clear()

    def _obstacle(self, now: float) -> str:
        return self._absence(now) or self._clock_fault()

    def _absence(self, now: float) -> str:
        if self._clients is None or now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._is_there = self._clients is not None and all(
                client.service_is_ready() for client in self._clients
            )
        if self._is_there:
            return ''
        return f'controller: no action server {self.name}; is the controller active?'

    def _clock_fault(self) -> str:
        offset = min(self._offsets, key=abs, default=0.0)
        if abs(offset) <= CLOCK_S:
            return ''
        return (
            f"clock: joint states are stamped {offset:.2f} s off this computer's time, expected "
            f'<= {CLOCK_S} s, as goals are carried out by their stamps; synchronise the clocks'
        )

    def send(self, guard: Guard, command: Command, now: float, ros_now: float) -> None:
        """Takes the newest command; tells the robot where it does not know of it."""
        if self._trouble is not None:
            return
        self._told.add(command, ros_now)
        is_news = not self._told.is_as_told
        if not is_news and not self._told.must_go_on:
            return
        is_stop = is_news and guard.state is not GuardState.FOLLOWING
        if self._book.may_send(is_stop):
            self._send(self._told.tell(*guard.ahead(AHEAD, now)))

    def _send(self, motion: Motion) -> None:
        if self._clients is None:
            return
        request = self._action.Impl.SendGoalService.Request()
        request.goal_id.uuid = list(uuid4().bytes)
        request.goal.trajectory = convert.motion_to_msg(
            motion.rows, motion.times, convert.to_time(motion.start), self._arm.joint_names
        )
        request.goal.path_tolerance = self._tolerance
        number = self._book.send(monotonic())
        self._rate.count()
        future = self._clients[0].call_async(request)
        self._asked.append(future)
        future.add_done_callback(partial(self._on_answer, number, request.goal_id))

    def _on_answer(self, number: int, goal_id: Any, future: Future) -> None:
        if self._clients is None or future not in self._asked:
            return
        self._asked.remove(future)
        answer: Any = future.result()
        self._book.answered(number, answer.accepted, monotonic())
        if not answer.accepted:
            return
        request = self._action.Impl.GetResultService.Request(goal_id=goal_id)
        result = self._clients[1].call_async(request)
        self._results.append(result)
        result.add_done_callback(partial(self._on_result, number))
        if len(self._results) > MOST_RESULTS:
            self._clients[1].remove_pending_request(self._results.pop(0))

    def _on_result(self, number: int, future: Future) -> None:
        if future not in self._results:
            return
        self._results.remove(future)
        answer: Any = future.result()
        result = answer.result
        self._book.ended(number, answer.status, result.error_code, result.error_string)

    def _tolerances(self, rad: float) -> list[Any]:
        """A server that knows them does not follow a goal that came too late to begin here."""
        from control_msgs.msg import JointTolerance  # pyright: ignore

        return [JointTolerance(name=name, position=rad) for name in self._arm.joint_names]

    def problems(self) -> list[str]:
        """What is wrong now, beside what the guard itself has as a reason."""
        if self._clients is None:
            return []
        problems = (self.reason, self._rivals.problem(), self._others.problem())
        return [problem for problem in problems if problem]

    def values(self) -> dict[str, object]:
        """What else there is to know."""
        return {
            'goals Hz': f'{self._rate.hz():.0f}',
            'goal to answer p50 / p99 ms': percentiles(self._book.latencies_ms),
        }
