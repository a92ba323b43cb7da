"""What the launch files share: arguments, and the graph of ``description`` as launch actions.

Needs ``launch`` and ``launch_ros`` of a ROS 2 installation.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
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
TOPICS = {
    'joint_states': ('joint_states', 'topic of the measured joints'),
    'image': ('camera/image_raw', 'topic of the camera image'),
    'camera_info': ('camera/camera_info', 'topic of the camera intrinsics'),
    'wrist_image': ('wrist_camera/image_raw', 'topic of the wrist camera, for models with one'),
}
"""Arguments for what the drivers of arm and camera publish: the usual name, and a description."""
OF_LAUNCH = {
    *('launch-prefix', 'launch-prefix-filter', 'emulate_tty'),
    *('sigterm_timeout', 'sigkill_timeout', 'ros_namespace'),
}
"""Arguments that ``launch`` and ``launch_ros`` look at in every launch file."""


class EndedError(RuntimeError):
    """A node failed. Only an exception in what handles its end makes ``ros2 launch`` return 1."""


def describe(
    arguments: Mapping[str, tuple[str, str] | tuple[str, str, list[str]]],
    start: Callable[[dict[str, str]], Sequence[Any]],
    file: str,
) -> Any:
    """A launch description; an argument that it does not have is refused on the command line.

    Args:
        arguments: by name: default, description and, unless it is a boolean or free, choices.
        start: makes the actions, given the arguments' values; it raises what is wrong with
            them before any process starts.
        file: path of the launch file.
    """
    declared = []
    for name, (default, text, *choices) in arguments.items():
        allowed = choices[0] if choices else BOOLEAN if default in BOOLEAN else None
        declared.append(
            DeclareLaunchArgument(name, default_value=default, description=text, choices=allowed)
        )

    def begin(context: LaunchContext) -> Sequence[Any]:
        if _is_launched(file):  # else these are the arguments of the one that includes it
            _check_known(context.argv, arguments)
        return start({name: LaunchConfiguration(name).perform(context) for name in arguments})

    return LaunchDescription([*declared, OpaqueFunction(function=begin)])


def topics(given: Mapping[str, str]) -> dict[str, str]:
    """Remappings for the ``TOPICS`` that were given other names."""
    return {usual: given[name] for name, (usual, _) in TOPICS.items() if given[name] != usual}


def _is_launched(file: str) -> bool:
    """Whether ``ros2 launch`` was called with this launch file, by its path or package."""
    words = [word for word in sys.argv if ':=' not in word]
    by_package = ('jepa_arm', os.path.basename(file))
    return by_package in zip(words, words[1:], strict=False) or any(
        word.endswith('.py') and os.path.isfile(word) and os.path.samefile(word, file)
        for word in words[1:]
    )


def _check_known(words: Iterable[str], arguments: Iterable[str]) -> None:
    """``launch`` drops names that it does not know, and ``dryrun:=true`` would move the arm.

    Raises:
        ConfigError: ``words`` give such a one.
    """
    known = list(arguments)
    for name in (word.partition(':=')[0] for word in words if ':=' in word):
        if name not in known and name not in OF_LAUNCH:
            near = get_close_matches(name, known, 1)
            guess = f', did you mean {near[0]}' if near else ''
            raise ConfigError(
                f'unknown argument {name!r}{guess}? Expected some of: {", ".join(known)}'
            )


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
