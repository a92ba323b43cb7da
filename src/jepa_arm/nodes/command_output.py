"""What the guard's commands look like to the controllers of ros2_control that may stand behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from ..arm import Arm
from ..config import ConfigError, GuardConfig
from ..guard import Guard
from ..types import Command, FloatArray, JointSample
from . import conversions as convert
from .connections import Connections
from .description import CONTROLLERS, FOLLOW
from .follow_trajectory import FollowTrajectory
from .guard_watch import Rivals
from .parameters import COMMAND

LOCK_STEP = 'joint_trajectory'
"""The only one with a stamp and as little as needed."""
LAST_WORD_S = 0.3
"""Longest wait for the last command or status to be received."""


class Output(Protocol):
    """Where the guard's commands go, from being activated until it is deactivated.

    Attributes:
        holds_position: whether the robot goes where it is told and stays there. One that is told
            velocities keeps the last one, so it must hear of rest before the guard is silent.
        may_rest: whether a robot at rest may be told so less often than at every tick.
    """

    holds_position: bool
    may_rest: bool

    @property
    def reason(self) -> str:
        """Why no proposal can be followed now; empty if it can."""
        ...

    @property
    def is_clear(self) -> bool:
        """Whether it may be opened: the way is there, and nobody else commands the robot."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the guard commands by it."""
        ...

    def listen(self) -> None:
        """Begins to look for others who command the robot."""

    def open(self) -> None:
        """From now on the guard commands."""

    def close(self) -> None:
        """The guard commands no more."""

    def say_rest(self) -> None:
        """Tells a robot that would keep its velocity to stand still."""

    def finish(self) -> None:
        """The arm comes to rest and nothing follows."""

    def is_over(self, ros_now: float) -> bool:
        """Whether the robot has carried out what it was told, at ROS time ``ros_now`` (s)."""
        ...

    def ticks_due(self, ros_now: float) -> int:
        """How many commands are due when the timer of the stream fires."""
        ...

    def observe(self, sample: JointSample, now: float, ros_now: float) -> None:
        """Takes the measured joints, come at ``now`` (s, steady clock)."""

    def watch(self, guard: Guard, now: float, ros_now: float) -> None:
        """Stops ``guard`` where its commands would be in vain, or not the only ones."""

    def send(self, guard: Guard, command: Command, now: float, ros_now: float) -> None:
        """Takes the newest command of ``guard``."""

    def repeat(self) -> None:
        """Sends what was sent last once more."""

    def problems(self) -> list[str]:
        """What is wrong now."""
        ...

    def values(self) -> dict[str, object]:
        """What else there is to know, for ``/diagnostics``."""
        ...


class Make(Protocol):
    """Makes a message of a command, the joints' names, the tick in s, a stamp, and the stop."""

    def __call__(
        self,
        command: Command,
        names: Sequence[str],
        duration: float,
        stamp: Time | None = None,
        stop: FloatArray | None = None,
    ) -> Any:
        """The message."""


@dataclass(frozen=True)
class Form:
    """What goes out on a topic.

    Attributes:
        kind: of the messages. make: a message.
        has_stop: whether the stop that could follow a command goes with it.
        holds_position: see ``Output``.
    """

    kind: type
    make: Make
    has_stop: bool = False
    holds_position: bool = True


def _plain(pick: Callable[[Command], FloatArray]) -> Make:
    """Numbers alone: the controller must list the joints in the order of the arm's file."""

    def make(
        command: Command,
        names: Sequence[str],
        duration: float,
        stamp: Time | None = None,
        stop: FloatArray | None = None,
    ) -> Float64MultiArray:
        return Float64MultiArray(data=pick(command).tolist())

    return make


FORMS = {
    'joint_trajectory': Form(JointTrajectory, convert.command_to_msg),
    'joint_trajectory_with_stop': Form(JointTrajectory, convert.command_to_msg, has_stop=True),
    'forward_position': Form(Float64MultiArray, _plain(lambda c: c.position)),
    'forward_velocity': Form(
        Float64MultiArray, _plain(lambda c: c.velocity), holds_position=False
    ),
}


class TopicOutput:
    """A message with each command."""

    reason, may_rest = '', True

    def __init__(
        self,
        node: Node,
        connections: Connections,
        topic: str,
        form: Form,
        arm: Arm,
        dt: float,
        is_lock_step: bool,
    ) -> None:
        """Publishes nothing yet.

        Args:
            node, connections, topic, form: where and what.
            arm: whose joints are commanded.
            dt: s, a tick.
            is_lock_step: commands are stamped with their time, and nobody is listened for.
        """
        self._node, self._connections, self._topic, self._form = node, connections, topic, form
        self._arm, self._dt, self._is_lock_step = arm, dt, is_lock_step
        self.holds_position = form.holds_position
        self._publisher: Publisher | None = None
        self._rivals: Rivals | None = None
        self._last: Any = None
        self._sent: Command | None = None

    def listen(self) -> None:
        """Listens for commands of others."""
        self._rivals = Rivals(self._node, self._form.kind, self._topic)
        self._last = self._sent = None

    @property
    def is_clear(self) -> bool:
        """Whether nobody else was heard."""
        return self._rivals is not None and (self._is_lock_step or self._rivals.is_clear)

    @property
    def is_open(self) -> bool:
        """Whether there is a publisher."""
        return self._publisher is not None

    def open(self) -> None:
        """Makes the publisher."""
        assert self._rivals is not None
        self._rivals.stop_listening()
        events = self._connections.say(self._topic)
        self._publisher = self._node.create_publisher(
            self._form.kind, self._topic, COMMAND, event_callbacks=events
        )

    def close(self) -> None:
        """Releases the topic, once its last message was received."""
        if self._publisher is not None:
            self.say_rest()
            self._publisher.wait_for_all_acked(Duration(seconds=LAST_WORD_S))
            self._node.destroy_publisher(self._publisher)
        if self._rivals is not None:
            self._rivals.close()
        self._publisher = self._rivals = None

    def say_rest(self) -> None:
        """Tells a robot that would keep its velocity to stand still, however it moves."""
        if self._publisher is None or self.holds_position:
            return
        rest = Command(*(np.zeros(len(self._arm.home)) for _ in range(3)))
        self._publisher.publish(self._form.make(rest, (), 0.0))

    def finish(self) -> None:
        """Every command says all that is to be said."""

    def is_over(self, ros_now: float) -> bool:
        """The robot was told a tick ago."""
        return True

    def ticks_due(self, ros_now: float) -> int:
        """One; those that the guard missed are left out."""
        return 1

    def observe(self, sample: JointSample, now: float, ros_now: float) -> None:
        """Nothing that a topic needs."""

    def watch(self, guard: Guard, now: float, ros_now: float) -> None:
        """Holds where another publisher came."""
        news = '' if self._rivals is None else self._rivals.news(now)
        if news:
            guard.hold(news)

    def send(self, guard: Guard, command: Command, now: float, ros_now: float) -> None:
        """Publishes it; at rest, where it is the one before, as it was."""
        if self._is_lock_step or command is not self._sent:
            stop = guard.stop_ahead() if self._form.has_stop else None
            stamp = convert.to_time(now) if self._is_lock_step else None
            self._last = self._form.make(command, self._arm.joint_names, self._dt, stamp, stop)
            self._sent = command
        self.repeat()

    def repeat(self) -> None:
        """Publishes the last message again."""
        if self._publisher is not None and self._last is not None:
            self._publisher.publish(self._last)

    def problems(self) -> list[str]:
        """Other publishers."""
        problem = '' if self._rivals is None or not self.is_open else self._rivals.problem()
        return [problem] if problem else []

    def values(self) -> dict[str, object]:
        """Nothing."""
        return {}


def command_output(
    controller: str,
    is_lock_step: bool,
    node: Node,
    connections: Connections,
    arm: Arm,
    dt: float,
    config: GuardConfig,
) -> TopicOutput | FollowTrajectory:
    """The output for ``controller``; the rest is for the outputs.

    Raises:
        ConfigError: no such controller, another than ``LOCK_STEP`` in lock-step, or what it
            needs is not installed.
    """
    if controller not in CONTROLLERS:
        raise ConfigError(f'controller: expected one of {sorted(CONTROLLERS)}, got {controller!r}')
    if is_lock_step and controller != LOCK_STEP:
        raise ConfigError(f'controller: expected {LOCK_STEP} in lock-step, got {controller}')
    name = CONTROLLERS[controller]
    if controller == FOLLOW:
        return FollowTrajectory(node, name, arm, dt, config)
    return TopicOutput(node, connections, name, FORMS[controller], arm, dt, is_lock_step)
