"""What the launch files use of ``launch``, ``launch_ros`` and the ament index, without them.

``python test/launch_stand_in.py FOLDER`` loads the launch files of a folder with their defaults
and prints, as JSON, the nodes that each would start.
"""

import json
import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

OTHERS = {'robot_state_publisher', 'tf2_ros', 'rviz2'}
"""The packages of others whose nodes a launch file may start."""


@dataclass
class Stub:
    """Remembers what it was made with."""

    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, name):
        return type(name, (cls,), {'__init__': cls.make})

    def make(self, *args, **options):
        self.args, self.options = args, options


class LaunchConfiguration(Stub):
    def __init__(self, name):
        self.name = name

    def perform(self, context):
        return context[self.name]


class Context(dict):
    """Values of the arguments, and the words of the command line."""

    argv: tuple[str, ...] = ()


class PackageNotFoundError(KeyError):
    pass


def modules(installed: set[str]) -> dict[str, Any]:
    """Modules by name; the ament index knows the packages that are ``installed`` when asked."""

    def get_package_prefix(name):
        if name not in installed:
            raise PackageNotFoundError(name)

    contents = {
        'launch': ('LaunchContext', 'LaunchDescription'),
        'launch.actions': ('DeclareLaunchArgument', 'LogInfo', 'OpaqueFunction', 'Shutdown'),
        'launch_ros.actions': ('Node',),
    }
    others = ('launch_ros', 'launch.substitutions', 'ament_index_python.packages')
    made: dict[str, Any] = {name: ModuleType(name) for name in (*others, *contents)}
    for name, items in contents.items():
        for item in items:
            setattr(made[name], item, Stub.named(item))
    made['launch.substitutions'].LaunchConfiguration = LaunchConfiguration
    ament = made['ament_index_python.packages']
    ament.PackageNotFoundError, ament.get_package_prefix = PackageNotFoundError, get_package_prefix
    return made


def load(path: Path, *words: str, **given: str) -> list[Any]:
    """The nodes that a launch file starts, given arguments; ``modules`` stand in already.

    The ``words`` are further ones of the command line, which ``launch`` would drop.
    """
    description = runpy.run_path(str(path))['generate_launch_description']()
    *declared, start = description.args[0]
    defaults = {d.args[0]: d.options['default_value'] for d in declared}
    assert all(d.options['description'] for d in declared)
    choices = {d.args[0]: d.options.get('choices') for d in declared}
    boolean = {name for name, value in defaults.items() if value in ('true', 'false')}
    limited = {name for name, values in choices.items() if values}
    assert limited - {'controller', 'viewer', 'task'} == boolean
    assert set(given) <= set(defaults)
    context = Context({**defaults, **given})
    context.argv = (*(f'{name}:={value}' for name, value in given.items()), *words)
    return start.options['function'](context)


if __name__ == '__main__':
    from ament_index_python.packages import get_package_share_directory

    made = modules(OTHERS)
    made['ament_index_python.packages'].get_package_share_directory = get_package_share_directory
    sys.modules.update(made)
    started = {
        path.name: [[n.options['package'], n.options['executable']] for n in load(path)]
        for path in sorted(Path(sys.argv[1]).glob('*.launch.py'))
    }
    print(json.dumps(started))
