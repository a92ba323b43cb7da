"""What the launch files share: arguments, and the graph of ``description`` as launch actions.

Needs ``launch`` and ``launch_ros`` of a ROS 2 installation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch import LaunchContext, LaunchDescription  # pyright: ignore
from launch.actions import (  # pyright: ignore
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    Shutdown,
)
from launch.substitutions import LaunchConfiguration  # pyright: ignore
from launch_ros.actions import Node  # pyright: ignore

from ..config import ConfigError
from .description import NodeSpec
from .environment import ending_with_this

BOOLEAN = ['false', 'true']


class EndedError(RuntimeError):
    """A node failed. Only an exception in what handles its end makes ``ros2 launch`` return 1."""


def describe(
    arguments: Mapping[str, tuple[str, str] | tuple[str, str, list[str]]],
    start: Callable[[dict[str, str]], Sequence[Any]],
) -> Any:
    """A launch description.

    Args:
        arguments: by name: default, description and, unless it is a boolean or free, choices.
        start: makes the actions, given the arguments' values; it raises what is wrong with
            them before any process starts.
    """
    declared = []
    for name, (default, text, *choices) in arguments.items():
        allowed = choices[0] if choices else BOOLEAN if default in BOOLEAN else None
        declared.append(
            DeclareLaunchArgument(name, default_value=default, description=text, choices=allowed)
        )

    def begin(context: LaunchContext) -> Sequence[Any]:
        return start({name: LaunchConfiguration(name).perform(context) for name in arguments})

    return LaunchDescription([*declared, OpaqueFunction(function=begin)])


def node(spec: NodeSpec, namespace: str = '') -> Any:
    """The process of a node; its end ends the launch, unless it is one that is started again.

    ``ros2 launch`` returns 1 where the node ended by itself with another exit code than 0.
    """
    began = time.monotonic()

    def ended(event: Any, context: LaunchContext) -> Sequence[Any]:
        again = (
            None if context.is_shutdown else spec.again(time.monotonic() - began, event.returncode)
        )
        if again is None:
            if event.returncode != 0 and not context.is_shutdown:
                raise EndedError(f'{spec.name} ended with {event.returncode}, see above')
            return [Shutdown(reason=f'{spec.name} ended')]
        text = f'{spec.name} ended with {event.returncode}; it is there again, inactive'
        return [LogInfo(msg=text), node(again, namespace)]

    return Node(
        package='jepa_arm',
        executable=spec.executable,
        name=spec.name,
        namespace=namespace,
        parameters=[dict(spec.parameters)],
        remappings=list(spec.remappings.items()),
        output='screen',
        additional_env=ending_with_this(),  # SIGTERM ends ros2 launch, and it no node
        on_exit=ended,
    )


def whole_number(name: str, text: str) -> int:
    """``text`` as a number from 0.

    Raises:
        ConfigError: it is none.
    """
    if not text.isdecimal():
        raise ConfigError(f'{name}: expected a whole number from 0, got {text!r}')
    return int(text)
