"""Graph description: the nodes of a graph as data, for the supervisor and the launch files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jepa_arm.config import ArmConfig, ConfigError, GuardConfig, load, read_plain
from jepa_arm.core.files import arm_path, checkpoint_path, config_names, config_path, given_path
from jepa_arm.ros.runtime.node_contract import CONTROLLERS, EXIT_BAD_SETTING

Value = str | bool | int | float

ARGUMENT_HELP = {
    'arm': f'{", ".join(config_names("arms"))}, or the path of a YAML file of your own',
    'checkpoint': 'a shipped world model, or the path of a folder',
    'task': f'{", ".join(config_names("tasks"))}; avoid_* need a guard_config with the obstacles '
    'of their scene, which the error message lists',
    'controller': 'controller that the guard commands',
    'guard_config': 'limits and obstacles: a file of config/, or a path; empty: guard.yaml',
    'params_file': 'YAML file of further ROS parameters of the nodes; empty: none',
    'dry_run': 'plan and show the plans, but send none to the guard',
}
"""Help texts of the arguments shared by the launch files and ``jepa-arm up``."""
MIN_UPTIME_S = 5.0
"""Shortest run, s, after which a node is restarted: after a shorter one it would end again."""


@dataclass(frozen=True)
class NodeSpec:
    """One node and the arguments to start it with.

    Attributes:
        name: name of the node and of its package in ``jepa_arm.ros``.
        parameters: ROS parameters.
        ready_topic: a topic whose publisher the node creates once it works.
        remappings: topic names, from -> to.
        respawn: whether the node is restarted, inactive, when it ends by itself; otherwise the
            whole graph is ended.
    """

    name: str
    parameters: Mapping[str, Value]
    ready_topic: str
    remappings: Mapping[str, str] = field(default_factory=dict)
    respawn: bool = False

    def arguments(self, namespace: str = '') -> list[str]:
        """Return the command-line arguments of the executable."""
        out = ['--ros-args']
        if namespace:
            out += ['-r', f'__ns:=/{namespace.strip("/")}']
        for old, new in self.remappings.items():
            out += ['-r', f'{old}:={new}']
        for key, value in self.parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            out += ['-p', f'{key}:={text}']
        return out

    def respawned(self, uptime: float, exit_code: int) -> NodeSpec | None:
        """Return the specification with which the node is restarted, or None if it is not.

        A restarted node stays inactive, as the cause of its end may persist.

        Args:
            uptime: s from its start to its end.
            exit_code: exit code of its process.
        """
        if not self.respawn or uptime < MIN_UPTIME_S or exit_code == EXIT_BAD_SETTING:
            return None
        return replace(self, parameters={**self.parameters, 'autoactivate': False})


@dataclass(frozen=True)
class GraphArguments:
    """Arguments of every graph.

    Attributes:
        arm: name or path of the arm.
        checkpoint: name or folder of the world model; empty for the planner's default.
        controller: one of ``CONTROLLERS``.
        guard_config: file with limits and obstacles; empty for the guard's default.
        dry_run: send no proposals to the guard.
        belief_file: absolute path of a file in which the planner's belief survives a restart;
            empty for none.
        autostart: activate guard and planner without a lifecycle manager.
        namespace: namespace of all nodes.
    """

    arm: str = 'panda'
    checkpoint: str = ''
    controller: str = 'joint_trajectory'
    guard_config: str = ''
    dry_run: bool = False
    belief_file: str = ''
    autostart: bool = True
    namespace: str = ''

    def check(self) -> None:
        """Check the arguments before the first node is started.

        Raises:
            FileNotFoundError: there is no such arm, checkpoint, task or guard_config.
            ConfigError: there is no such controller, or the guard_config is invalid.
        """
        arm_path(self.arm)
        if self.checkpoint:
            checkpoint_path(self.checkpoint)
        if self.guard_config:
            load(GuardConfig, given_path(self.guard_config))
        if self.controller not in CONTROLLERS:
            raise ConfigError(
                f'controller: expected one of {sorted(CONTROLLERS)}, got {self.controller!r}'
            )

    def _shared(self) -> dict[str, Value]:
        """Return the parameters that all nodes share; they must know the same obstacles."""
        shared: dict[str, Value] = {'arm': self.arm}
        if self.guard_config:
            shared['guard_config'] = str(given_path(self.guard_config))
        return shared

    def _managed(
        self, parameters: Mapping[str, Value], remappings: Mapping[str, str]
    ) -> tuple[NodeSpec, NodeSpec]:
        """Return guard and planner, both with ``parameters`` added."""
        both = {**self._shared(), 'autostart': self.autostart, **parameters}
        given = {'checkpoint': self.checkpoint, 'belief_file': self.belief_file}
        planner = {**both, **{name: value for name, value in given.items() if value}}
        if self.dry_run:
            planner['dry_run'] = True
        guard = {**both, 'controller': self.controller}
        topic = 'planner/joint_trajectory'
        return (
            NodeSpec('guard', guard, 'guard/status', remappings),
            NodeSpec('planner', planner, topic, remappings, respawn=True),
        )


@dataclass(frozen=True)
class SimulationGraph(GraphArguments):
    """Graph of the virtual arm, the guard and the planner.

    In a namespace the nodes have their own clock topic, so that several graphs can run at once.

    Attributes:
        task, seed: task and seed of the first scene.
        lock_step: simulated time advances only in the service ``sim/step``.
        gui: open the window of the physics engine.
        with_planner: False leaves the planner out.
    """

    task: str = 'push'
    seed: int = 0
    lock_step: bool = False
    gui: bool = False
    with_planner: bool = True

    def check(self) -> None:
        """Check the arguments; see ``GraphArguments.check``."""
        super().check()
        config_path(f'tasks/{self.task}.yaml')

    @property
    def nodes(self) -> tuple[NodeSpec, ...]:
        """Return the nodes in the order in which they start."""
        space = self.namespace.strip('/')
        clock = {'/clock': f'/{space}/clock'} if space else {}
        managed: dict[str, Value] = {'lock_step': self.lock_step, 'use_sim_time': True}
        parameters: dict[str, Value] = {
            **self._shared(),
            'lock_step': self.lock_step,
            'task': self.task,
            'seed': self.seed,
            'gui': self.gui,
        }
        sim = NodeSpec('sim', parameters, 'joint_states', clock)
        guard, planner = self._managed(managed, clock)
        return (sim, guard, planner) if self.with_planner else (sim, guard)


@dataclass(frozen=True)
class BringupGraph(GraphArguments):
    """Graph of the guard and the planner beside the driver of a physical arm.

    Attributes:
        topics: names of the topics that the arm and camera drivers publish, by the names that
            our nodes use by default.
        commands: topic or action of the controller; empty: as ``command_name`` returns.
        use_sim_time: follow ``/clock``.
    """

    topics: Mapping[str, str] = field(default_factory=dict)
    commands: str = ''
    use_sim_time: bool = False

    @property
    def nodes(self) -> tuple[NodeSpec, ...]:
        """Return the nodes in the order in which they start."""
        managed: dict[str, Value] = {'use_sim_time': True} if self.use_sim_time else {}
        arm = load(ArmConfig, arm_path(self.arm))
        commands = self.commands or command_name(arm, self.controller)
        names = {**self.topics, CONTROLLERS[self.controller]: commands}
        names = {usual: name for usual, name in names.items() if usual != name}
        return self._managed(managed, names)


def command_name(arm: ArmConfig, controller: str) -> str:
    """Return the topic or action on which the driver of ``arm`` takes commands."""
    usual = CONTROLLERS[controller]
    return f'{arm.controller}/{usual.split("/")[1]}' if 'trajectory' in usual else usual


def with_parameter_file(
    specs: Sequence[NodeSpec], file: str, namespace: str = ''
) -> tuple[NodeSpec, ...]:
    """Return the nodes with the parameters of a ROS 2 parameter file added; '' adds none.

    The section ``guard: {ros__parameters: {rest_period: 0.02}}`` is for the guard in any
    namespace, the section ``/**`` for all nodes. A node rejects a parameter that it does not
    have.

    Raises:
        ConfigError: there is no such file, or it names a node that is not in the graph or a
            parameter that is an argument of the graph.
    """
    if not file:
        return tuple(specs)
    path = Path(file).expanduser().absolute()
    sections = read_plain(path)
    if not isinstance(sections, dict):
        raise ConfigError(f'{path}: expected the names of nodes, got {sections!r}')
    added: dict[str, dict[str, Value]] = {spec.name: {} for spec in specs}
    for section, content in sections.items():
        names = _matching_nodes(str(section), list(added), namespace.strip('/'))
        if not names:
            raise ConfigError(
                f'{path}: no node {section}; expected one of {sorted(added)}, or /**'
            )
        for name in names:
            added[name].update(_section_parameters(content, f'{path}: {section}'))
    for spec in specs:
        twice = sorted(set(added[spec.name]) & set(spec.parameters))
        if twice:
            raise ConfigError(
                f'{path}: {twice[0]} of {spec.name} is an argument of the launch file and of '
                'jepa-arm up; give it there'
            )
    return tuple(replace(s, parameters={**s.parameters, **added[s.name]}) for s in specs)


def _matching_nodes(section: str, names: list[str], namespace: str) -> list[str]:
    """Return the nodes that a section of a parameter file applies to."""
    word = section.strip('/')
    if word == '**':
        return names
    return [n for n in names if word in (n, f'**/{n}', f'*/{n}', f'{namespace}/{n}')]


def _section_parameters(content: object, where: str) -> dict[str, Value]:
    """Return the parameters in a section of a parameter file; ``where`` is for errors."""
    if not isinstance(content, dict) or list(content) != ['ros__parameters']:
        raise ConfigError(f'{where}: expected ros__parameters and nothing else, got {content!r}')
    values = content['ros__parameters']
    if not isinstance(values, dict):
        raise ConfigError(f'{where}: ros__parameters: expected a mapping, got {values!r}')
    for name, value in values.items():
        if not isinstance(value, (str, bool, int, float)):
            raise ConfigError(f'{where}: {name}: expected one plain value, got {value!r}')
    return {str(name): value for name, value in values.items()}
