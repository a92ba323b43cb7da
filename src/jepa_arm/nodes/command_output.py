"""What the guard's commands look like to the controllers of ros2_control that may stand behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from ..config import ConfigError
from ..types import Command, FloatArray
from . import conversions as convert
from .description import CONTROLLERS

LOCK_STEP = 'joint_trajectory'
"""The only one with a stamp and as little as needed."""


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
class CommandOutput:
    """One way to command.

    Attributes:
        topic: where the commands go. kind: of their messages. make: a message.
        has_stop: whether the stop that could follow a command goes with it.
        holds_position: whether the robot goes where it is told and stays there. One that is told
            velocities keeps the last one, so it must hear of rest before the guard is silent.
    """

    topic: str
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


def at_rest(width: int) -> Command:
    """A command of ``width`` joints for one that looks at the velocities alone."""
    return Command(*(np.zeros(width) for _ in range(3)))


FORMS: dict[str, tuple[type, Make, bool, bool]] = {
    'joint_trajectory': (JointTrajectory, convert.command_to_msg, False, True),
    'joint_trajectory_with_stop': (JointTrajectory, convert.command_to_msg, True, True),
    'forward_position': (Float64MultiArray, _plain(lambda c: c.position), False, True),
    'forward_velocity': (Float64MultiArray, _plain(lambda c: c.velocity), False, False),
}


def command_output(controller: str, is_lock_step: bool) -> CommandOutput:
    """The output for ``controller``.

    Raises:
        ConfigError: no such controller, or another than ``LOCK_STEP`` in lock-step.
    """
    if controller not in FORMS:
        raise ConfigError(f'controller: expected one of {sorted(FORMS)}, got {controller!r}')
    if is_lock_step and controller != LOCK_STEP:
        raise ConfigError(f'controller: expected {LOCK_STEP} in lock-step, got {controller}')
    return CommandOutput(CONTROLLERS[controller], *FORMS[controller])
