"""The graph as data: which nodes there are, how each is started, and what follows from its end.

``jepa-arm up`` and the launch files both read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import ArmConfig, ConfigError, GuardConfig, load, read_plain
from ..resources import arm_path, checkpoint_path, config_names, config_path, given_path

Value = str | bool | int | float

FOLLOW = 'follow_joint_trajectory'
"""The one that is an action; the others are topics."""
CONTROLLERS = {
    'joint_trajectory': 'joint_trajectory_controller/joint_trajectory',
    'joint_trajectory_with_stop': 'joint_trajectory_controller/joint_trajectory',
    FOLLOW: 'joint_trajectory_controller/follow_joint_trajectory',
    'forward_position': 'forward_position_controller/commands',
    'forward_velocity': 'forward_velocity_controller/commands',
}
"""Names of where the commands go, by what the guard's ``controller`` can be."""
ARM_TEXT = f'{", ".join(config_names("arms"))}, or the path of a YAML file of your own'
CHECKPOINT_TEXT = 'a shipped world model, or the path of a folder'
TASK_TEXT = (
    f'{", ".join(config_names("tasks"))}; avoid_* need a guard_config that declares the obstacles '
    'of their scene, which the refusal names'
)
CONTROLLER_TEXT = 'what the guard commands'
GUARD_CONFIG_TEXT = 'limits and obstacles: a file of config/, or a path; empty: guard.yaml'
PARAMS_TEXT = 'YAML file of further ROS parameters of the nodes; empty: none'
DRY_RUN_TEXT = 'plan and show, but send nothing to the guard'
"""Of arguments of the launch files and of ``jepa-arm up``."""
LIVED_S = 5.0
"""A node that ends sooner is not started again: it would only end again."""
SETTING_REFUSED = 78
"""Exit code (EX_CONFIG of sysexits.h) of a node that cannot use one of its settings."""


@dataclass(frozen=True)
class NodeSpec:
    """One node and how it is started.

    Attributes:
        name: of the node and its module in ``jepa_arm.nodes``.
        parameters: ROS parameters.
        shows: a topic it publishes once it works.
        remappings: topic names, from -> to.
        respawns: whether it is started again, inactive, where it ends by itself; else its end
            ends all.
    """

    name: str
    parameters: Mapping[str, Value]
    shows: str
    remappings: Mapping[str, str] = field(default_factory=dict)
    respawns: bool = False

    @property
    def executable(self) -> str:
        """Name of the installed executable."""
        return f'jepa_arm_{self.name}'

    def arguments(self, namespace: str = '') -> list[str]:
        """Command-line arguments behind the executable."""
        out = ['--ros-args']
        if namespace:
            out += ['-r', f'__ns:=/{namespace.strip("/")}']
        for old, new in self.remappings.items():
            out += ['-r', f'{old}:={new}']
        for key, value in self.parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            out += ['-p', f'{key}:={text}']
        return out

    def again(self, lived: float, code: int) -> NodeSpec | None:
        """How it is started again after ``lived`` s and exit ``code``; None: it is not.

        It waits to be activated: what ended it may do so again, and somebody should look first.
        """
        if not self.respawns or lived < LIVED_S or code == SETTING_REFUSED:
            return None
        return replace(self, parameters={**self.parameters, 'autoactivate': False})


def check_names(
    arm: str, checkpoint: str, controller: str, task: str = '', guard_config: str = ''
) -> None:
    """Call it before the first node is started: one that ends early ends the others.

    Raises:
        FileNotFoundError: no such arm, checkpoint, task or guard_config, where one is given.
        ConfigError: no such controller, or a guard_config that cannot be used.
    """
    arm_path(arm)
    if checkpoint:
        checkpoint_path(checkpoint)
    if task:
        config_path(f'tasks/{task}.yaml')
    if guard_config:
        load(GuardConfig, given_path(guard_config))
    if controller not in CONTROLLERS:
        raise ConfigError(f'controller: expected one of {sorted(CONTROLLERS)}, got {controller!r}')


def simulation(
    arm: str = 'panda',
    checkpoint: str = '',
    task: str = 'push',
    seed: int = 0,
    lock_step: bool = False,
    gui: bool = False,
    with_planner: bool = True,
    autostart: bool = True,
    dry_run: bool = False,
    controller: str = 'joint_trajectory',
    guard_config: str = '',
    namespace: str = '',
) -> tuple[NodeSpec, ...]:
    """The virtual arm, the guard and the planner, in the order in which they start.

    In a namespace they have a clock of their own, so that there may be several.
    """
    shared: dict[str, Value] = {'arm': arm, 'lock_step': lock_step, **_guarded(guard_config)}
    managed: dict[str, Value] = {**shared, 'use_sim_time': True, 'autostart': autostart}
    space = namespace.strip('/')
    clock = {'/clock': f'/{space}/clock'} if space else {}
    parameters: dict[str, Value] = {**shared, 'task': task, 'seed': seed, 'gui': gui}
    nodes = [
        NodeSpec('sim', parameters, 'joint_states', clock),
        _guard(managed, controller, clock),
    ]
    if with_planner:
        nodes.append(_planner(managed, checkpoint, dry_run, clock))
    return tuple(nodes)


def commands_to(arm: ArmConfig, controller: str) -> str:
    """Name of the topic or action with which the driver of ``arm`` takes such commands."""
    usual = CONTROLLERS[controller]
    return f'{arm.controller}/{usual.split("/")[1]}' if 'trajectory' in usual else usual


def bringup(
    arm: str = 'panda',
    checkpoint: str = '',
    topics: Mapping[str, str] | None = None,
    commands: str = '',
    autostart: bool = True,
    dry_run: bool = False,
    controller: str = 'joint_trajectory',
    guard_config: str = '',
    use_sim_time: bool = False,
    belief_file: str = '',
) -> tuple[NodeSpec, ...]:
    """Guard and planner beside the driver of a physical arm.

    Args:
        topics: names of those that it and its camera publish, by the usual names.
        commands: topic or action of the controller; empty: that of ``commands_to``.
    """
    managed: dict[str, Value] = {'arm': arm, 'autostart': autostart, **_guarded(guard_config)}
    if use_sim_time:
        managed['use_sim_time'] = True
    driver = commands or commands_to(load(ArmConfig, arm_path(arm)), controller)
    names = {**(topics or {}), CONTROLLERS[controller]: driver}
    names = {usual: name for usual, name in names.items() if usual != name}
    planner = _planner(managed, checkpoint, dry_run, names, belief_file)
    return _guard(managed, controller, names), planner


def with_parameters(
    specs: Sequence[NodeSpec], file: str, namespace: str = ''
) -> tuple[NodeSpec, ...]:
    """The nodes with what a parameter file of ROS 2 says of them; as they are if ``file`` is ''.

    ``guard: {ros__parameters: {rest_period: 0.02}}`` speaks of the guard in any namespace, a
    section ``/**`` of all nodes. A node refuses a parameter that it does not have.

    Raises:
        ConfigError: no such file, or it speaks of a node that is not there, or of a parameter
            that is given elsewhere.
    """
    if not file:
        return tuple(specs)
    path = Path(file).expanduser().absolute()
    sections, space = read_plain(path), namespace.strip('/')
    if not isinstance(sections, dict):
        raise ConfigError(f'{path}: expected the names of nodes, got {sections!r}')
    told: dict[str, dict[str, Value]] = {spec.name: {} for spec in specs}
    for section, content in sections.items():
        names = _named(str(section), list(told), space)
        if not names:
            raise ConfigError(f'{path}: no node {section}; expected one of {sorted(told)}, or /**')
        for name in names:
            told[name].update(_parameters(content, f'{path}: {section}'))
    for spec in specs:
        twice = sorted(set(told[spec.name]) & set(spec.parameters))
        if twice:
            raise ConfigError(
                f'{path}: {twice[0]} of {spec.name} is an argument of the launch file and of '
                'jepa-arm up; give it there'
            )
    return tuple(replace(s, parameters={**s.parameters, **told[s.name]}) for s in specs)


def _named(section: str, names: list[str], space: str) -> list[str]:
    """The nodes of which a section of a parameter file speaks."""
    word = section.strip('/')
    if word == '**':
        return names
    return [n for n in names if word in (n, f'**/{n}', f'*/{n}', f'{space}/{n}')]


def _parameters(content: object, where: str) -> dict[str, Value]:
    """Of one section."""
    if not isinstance(content, dict) or list(content) != ['ros__parameters']:
        raise ConfigError(f'{where}: expected ros__parameters and nothing else, got {content!r}')
    values = content['ros__parameters']
    if not isinstance(values, dict):
        raise ConfigError(f'{where}: ros__parameters: expected a mapping, got {values!r}')
    for name, value in values.items():
        if not isinstance(value, (str, bool, int, float)):
            raise ConfigError(f'{where}: {name}: expected one plain value, got {value!r}')
    return {str(name): value for name, value in values.items()}


def _guarded(config: str) -> dict[str, Value]:
    """All nodes know the same obstacles, wherever each of them runs."""
    return {'guard_config': str(given_path(config))} if config else {}


def _guard(
    parameters: Mapping[str, Value], controller: str, remappings: Mapping[str, str]
) -> NodeSpec:
    return NodeSpec('guard', {**parameters, 'controller': controller}, 'guard/status', remappings)


def _planner(
    parameters: Mapping[str, Value],
    checkpoint: str,
    dry_run: bool,
    remappings: Mapping[str, str],
    belief_file: str = '',
) -> NodeSpec:
    chosen: dict[str, Value] = {'checkpoint': checkpoint} if checkpoint else {}
    if dry_run:
        chosen['dry_run'] = True
    if belief_file:
        chosen['belief_file'] = belief_file
    return NodeSpec(
        'planner', {**parameters, **chosen}, 'planner/joint_trajectory', remappings, True
    )
