"""Launch actions: arguments and nodes of the launch files, made from a graph description.

Needs ``launch`` and ``launch_ros`` of a ROS 2 installation.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from launch import LaunchContext  # pyright: ignore
from launch.actions import DeclareLaunchArgument, LogInfo, Shutdown  # pyright: ignore
from launch_ros.actions import Node  # pyright: ignore

from jepa_arm.config import ConfigError
from jepa_arm.core.errors import JepaArmError
from jepa_arm.ros.runtime.environment import end_with_this_process
from jepa_arm.ros.runtime.node_contract import CONTROLLERS

from .description import ARGUMENT_HELP, GraphArguments, NodeSpec, with_parameter_file

G = TypeVar('G', bound=GraphArguments)

BOOLEAN = ['false', 'true']
TOPICS = {
    'joint_states': ('joint_states', 'topic of the measured joints'),
    'image': ('camera/image_raw', 'topic of the camera image'),
    'camera_info': ('camera/camera_info', 'topic of the camera intrinsics'),
    'wrist_image': ('wrist_camera/image_raw', 'topic of the wrist camera, for models with one'),
}
"""Topics of the arm and camera drivers, by launch argument: default name, description."""
LAUNCH_ARGUMENTS = {
    *('launch-prefix', 'launch-prefix-filter', 'emulate_tty'),
    *('sigterm_timeout', 'sigkill_timeout', 'ros_namespace'),
}
"""Arguments that ``launch`` and ``launch_ros`` read in every launch file."""


class NodeEndedError(JepaArmError, RuntimeError):
    """A node failed. Only an exception in its exit handler makes ``ros2 launch`` return 1."""


def argument(
    name: str, default: str = '', description: str = '', choices: Sequence[str] | None = None
) -> DeclareLaunchArgument:
    """Return a launch argument; one whose default is 'true' or 'false' is a boolean."""
    if default in BOOLEAN:
        choices = BOOLEAN
    return DeclareLaunchArgument(
        name,
        default_value=default,
        description=description or ARGUMENT_HELP[name],
        choices=None if choices is None else list(choices),
    )


def graph_arguments() -> list[DeclareLaunchArgument]:
    """Return the launch arguments that every graph has; see ``GraphArguments``."""
    return [
        argument('arm', 'panda'),
        argument('checkpoint', '', f'{ARGUMENT_HELP["checkpoint"]}; empty: the default one'),
        argument('controller', 'joint_trajectory', choices=sorted(CONTROLLERS)),
        argument('guard_config'),
        argument('params_file'),
        argument('dry_run', 'false'),
        argument('autostart', 'true', 'false: a lifecycle manager configures and activates'),
        argument('namespace', '', 'namespace of all nodes'),
    ]


def topic_arguments() -> list[DeclareLaunchArgument]:
    """Return a launch argument for each of ``TOPICS``."""
    return [argument(name, *usual_and_text) for name, usual_and_text in TOPICS.items()]


def argument_values(
    context: LaunchContext, arguments: Sequence[DeclareLaunchArgument], file: str
) -> dict[str, Any]:
    """Return the values of the launch arguments by name; booleans as bool.

    Args:
        context: context of the launch.
        arguments: arguments that the launch file declares.
        file: path of the launch file.

    Raises:
        ConfigError: the command line sets an argument that the launch file does not declare.
    """
    names = [declared.name for declared in arguments]
    if _is_launched(file):  # otherwise the words are for a launch file that includes it
        _check_known(context.argv, names)
    values = context.launch_configurations
    return {
        a.name: values[a.name] == 'true' if a.choices == BOOLEAN else values[a.name]
        for a in arguments
    }


def remapped_topics(values: Mapping[str, Any]) -> dict[str, str]:
    """Return remappings for those of ``TOPICS`` whose arguments differ from the default name."""
    return {usual: values[name] for name, (usual, _) in TOPICS.items() if values[name] != usual}


def graph_nodes(kind: type[G], values: Mapping[str, Any], **others: Any) -> list[Node]:
    """Return the nodes of a graph as launch actions.

    Args:
        kind: class of the graph; its fields are set from the launch arguments of the same name.
        values: values of the launch arguments, by name.
        others: further fields of the graph.

    Raises:
        ConfigError, FileNotFoundError: an argument is invalid; see ``GraphArguments.check``.
    """
    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in values.items() if name in names}
    graph = kind(**{**given, **others})
    graph.check()
    specs = with_parameter_file(graph.nodes, values['params_file'], graph.namespace)
    return [launch_node(spec, graph.namespace) for spec in specs]


def launch_node(spec: NodeSpec, namespace: str = '') -> Node:
    """Return the launch action that runs the process of a node.

    When the node ends, the whole launch ends, unless ``spec`` has the node restarted. ``ros2
    launch`` returns 1 if a node ends by itself with a nonzero exit code.
    """
    began = time.monotonic()

    def on_exit(event: Any, context: LaunchContext) -> Sequence[Any]:
        code = event.returncode
        again = None
        if not context.is_shutdown:
            again = spec.respawned(time.monotonic() - began, code)
        if again is not None:
            text = f'{spec.name} ended with {code}; it runs again, inactive'
            return [LogInfo(msg=text), launch_node(again, namespace)]
        if code != 0 and not context.is_shutdown:
            raise NodeEndedError(f'{spec.name} ended with {code}, see above')
        return [Shutdown(reason=f'{spec.name} ended')]

    return Node(
        package='jepa_arm',
        executable=f'jepa_arm_{spec.name}',
        name=spec.name,
        namespace=namespace,
        parameters=[dict(spec.parameters)],
        remappings=list(spec.remappings.items()),
        output='screen',
        additional_env=end_with_this_process(),  # on SIGTERM, ros2 launch ends no nodes
        on_exit=on_exit,
    )


def parse_seed(text: str) -> int:
    """Parse a seed, an integer >= 0.

    Raises:
        ConfigError: ``text`` is not such an integer.
    """
    if not text.isdecimal():
        raise ConfigError(f'seed: expected a whole number from 0, got {text!r}')
    return int(text)


def _is_launched(file: str) -> bool:
    """Return whether ``ros2 launch`` was called with this launch file, by path or package."""
    words = [word for word in sys.argv if ':=' not in word]
    by_package = ('jepa_arm', os.path.basename(file))
    return by_package in zip(words, words[1:], strict=False) or any(
        word.endswith('.py') and os.path.isfile(word) and os.path.samefile(word, file)
        for word in words[1:]
    )


def _check_known(words: Iterable[str], known: Sequence[str]) -> None:
    """Check that ``words`` set known arguments only; ``launch`` silently ignores unknown ones.

    Raises:
        ConfigError: an argument is unknown; with ``dryrun:=true`` ignored, the arm would move.
    """
    for name in (word.partition(':=')[0] for word in words if ':=' in word):
        if name not in known and name not in LAUNCH_ARGUMENTS:
            near = get_close_matches(name, known, 1)
            guess = f', did you mean {near[0]}' if near else ''
            raise ConfigError(
                f'unknown argument {name!r}{guess}? Expected some of: {", ".join(known)}'
            )
