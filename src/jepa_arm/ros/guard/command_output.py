"""Command outputs: the interface between the guard's node and a robot's controller.

``TopicOutput`` publishes one message per command, in the formats of ros2_control's controllers;
``trajectory_action_output`` sends goals of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.types import Command, FloatArray, JointSample
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.connections import ConnectionMonitor
from jepa_arm.ros.runtime.node_contract import CONTROLLERS
from jepa_arm.ros.runtime.qos import COMMAND_QOS

from .watchdogs import CompetingPublishers

LAST_MESSAGE_S = 0.3
"""Longest wait for subscribers to acknowledge the last command or status."""
LOCK_STEP_CONTROLLER = 'joint_trajectory'
"""The only controller for lock-step: its messages have a stamp and no trailing, unused stop."""
VALUES = {
    'forward_position': lambda command: command.position,
    'forward_velocity': lambda command: command.velocity,
}
"""Numbers sent to each controller that takes Float64MultiArray. Such messages have no joint names:
the controller must list the joints in the order of the arm's file."""


class CommandOutput(ABC):
    """Interface to a robot's controller, from the activation of the guard to its deactivation.

    Attributes:
        is_open: whether the guard commands the robot.
        holds_position: whether the robot goes to commanded positions and stays there. Otherwise it
            keeps the last commanded velocity and must be sent zero velocity at the end.
        may_rest: whether a robot at rest may be commanded less often than at every tick.
    """

    is_open = False
    holds_position = True
    may_rest = True

    @property
    @abstractmethod
    def is_clear(self) -> bool:
        """True if the output may open: the controller is available and has no other commander."""

    @property
    def unavailable_reason(self) -> str:
        """Why no proposal can be followed now, as 'code: text'; '' if it can."""
        return ''

    @abstractmethod
    def listen(self) -> None:
        """Start to watch for the controller and for other nodes that command the robot."""

    @abstractmethod
    def open(self) -> None:
        """Take over: the guard commands from now on."""

    @abstractmethod
    def close(self) -> None:
        """Release the robot and all ROS entities."""

    @abstractmethod
    def check(self, guard: Guard, now: float, ros_now: float) -> None:
        """Stop ``guard`` if its commands have no effect or compete with others.

        Args:
            guard: the guard whose commands are sent.
            now: s, steady clock.
            ros_now: s, ROS clock.
        """

    @abstractmethod
    def send(self, guard: Guard, command: Command, now: float, ros_now: float) -> None:
        """Send the newest ``command`` of ``guard``; clocks as in ``check``."""

    @abstractmethod
    def problems(self) -> list[str]:
        """Return the current problems, for ``/diagnostics``."""

    def values(self) -> dict[str, object]:
        """Return further values by name, for ``/diagnostics``."""
        return {}

    def repeat(self) -> None:
        """Send the last message again if losing it would matter."""

    def send_zero_velocity(self) -> None:
        """Command zero velocity if the robot would otherwise keep its last velocity."""

    def expect_rest(self) -> None:
        """Stop supervising the controller: the guard brings the arm to rest for the last time."""

    def is_finished(self, ros_now: float) -> bool:
        """Return whether the robot has executed everything sent to it, at ``ros_now`` (s)."""
        return True

    def ticks_due(self, ros_now: float) -> int:
        """Return how many commands to send when the timer fires at ``ros_now`` (s)."""
        return 1

    def observe(self, sample: JointSample, now: float, ros_now: float) -> None:
        """Record a measured joint state received at ``now`` (s, steady clock)."""


class TopicOutput(CommandOutput):
    """Publishes one message per command."""

    def __init__(
        self,
        node: Node,
        connections: ConnectionMonitor,
        controller: str,
        arm: Arm,
        dt: float,
        is_lock_step: bool,
    ) -> None:
        """Create a closed output.

        Args:
            node: node that publishes.
            connections: monitor of the node's topics.
            controller: value of the guard's parameter ``controller``.
            arm: arm whose joints are commanded.
            dt: s, period of the commands.
            is_lock_step: stamp the commands, and open without waiting to hear other publishers.
        """
        self._node, self._connections, self._topic = node, connections, CONTROLLERS[controller]
        self._arm, self._dt, self._is_lock_step = arm, dt, is_lock_step
        self._values: Callable[[Command], FloatArray] | None = VALUES.get(controller)
        self._message_type = JointTrajectory if self._values is None else Float64MultiArray
        self._has_stop = controller == 'joint_trajectory_with_stop'
        self.is_open, self.holds_position = False, controller != 'forward_velocity'
        self._publisher: Publisher | None = None
        self._others: CompetingPublishers | None = None
        self._last_message: Any = None
        self._last_command: Command | None = None

    @property
    def is_clear(self) -> bool:
        """True if no command of another node was heard for long enough; always in lock-step."""
        return self._others is not None and (self._is_lock_step or self._others.is_clear)

    def listen(self) -> None:
        """Start to listen for commands of other nodes."""
        self._others = CompetingPublishers(self._node, self._message_type, self._topic)

    def open(self) -> None:
        """Create the publisher."""
        assert self._others is not None
        self._others.stop_listening()
        events = self._connections.publisher_events(self._topic)
        self._publisher = self._node.create_publisher(
            self._message_type, self._topic, COMMAND_QOS, event_callbacks=events
        )
        self.is_open = True

    def close(self) -> None:
        """Destroy the publisher once its last message was acknowledged."""
        if self._publisher is not None:
            self.send_zero_velocity()
            self._publisher.wait_for_all_acked(Duration(seconds=LAST_MESSAGE_S))
            self._node.destroy_publisher(self._publisher)
        if self._others is not None:
            self._others.close()
        self._publisher, self._others, self.is_open = None, None, False

    def send_zero_velocity(self) -> None:
        """Publish zero velocities, whatever the last command was."""
        if self._publisher is None or self.holds_position:
            return
        rest = np.zeros(len(self._arm.home))
        self._publisher.publish(self._message(Command(rest, rest, rest), None))

    def check(self, guard: Guard, now: float, ros_now: float) -> None:
        """Hold ``guard`` if another publisher has appeared."""
        reason = '' if self._others is None else self._others.check(now)
        if reason:
            guard.hold(reason)

    def send(self, guard: Guard, command: Command, now: float, ros_now: float) -> None:
        """Publish ``command``; the message of a repeated command is reused."""
        if self._is_lock_step or command is not self._last_command:
            stop = guard.stopping_trajectory() if self._has_stop else None
            self._last_message, self._last_command = self._message(command, stop), command
            if self._is_lock_step:  # otherwise no stamp: start on arrival
                self._last_message.header.stamp = convert.to_time(now)
        self.repeat()

    def repeat(self) -> None:
        """Publish the last message again."""
        if self._publisher is not None and self._last_message is not None:
            self._publisher.publish(self._last_message)

    def problems(self) -> list[str]:
        """Return a problem if there are other publishers."""
        problem = '' if self._others is None or not self.is_open else self._others.problem()
        return [problem] if problem else []

    def _message(self, command: Command, stop: FloatArray | None) -> Any:
        """Return the message for ``command``, and for the stop after it if one is given.

        Args:
            command: the command.
            stop: (N, 2, J) rad and rad/s of the J joints.
        """
        if self._values is not None:
            return Float64MultiArray(data=self._values(command).tolist())
        return convert.command_to_msg(command, self._arm.joint_names, self._dt, stop)
