"""A graph description says which nodes are started, and with which parameters and names."""

import shutil
from pathlib import Path

import pytest

from jepa_arm.config import ConfigError
from jepa_arm.ros.graph.description import (
    ARGUMENT_HELP,
    MIN_UPTIME_S,
    BringupGraph,
    SimulationGraph,
    with_parameter_file,
)
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING

REPOSITORY = Path(__file__).parents[2]
BOTH_GRAPHS = pytest.mark.parametrize('kind', [SimulationGraph, BringupGraph])


def parameters(graph):
    return {spec.name: spec.parameters for spec in graph.nodes}


def test_a_simulation_starts_sim_guard_and_planner_in_this_order():
    assert [spec.name for spec in SimulationGraph().nodes] == ['sim', 'guard', 'planner']
    assert [spec.name for spec in SimulationGraph(with_planner=False).nodes] == ['sim', 'guard']


def test_command_line_arguments_of_a_process():
    [sim, *_] = SimulationGraph(task='reach', seed=3, gui=True).nodes
    assert sim.arguments('left') == [
        *('--ros-args', '-r', '__ns:=/left'),
        *('-p', 'arm:=panda', '-p', 'lock_step:=false'),
        *('-p', 'task:=reach', '-p', 'seed:=3', '-p', 'gui:=true'),
    ]


@BOTH_GRAPHS
def test_without_autostart_guard_and_planner_wait_for_a_lifecycle_manager(kind):
    given = parameters(kind(autostart=False))
    assert given['guard']['autostart'] is False and given['planner']['autostart'] is False


def test_only_a_planner_that_lived_is_started_again_and_inactive():
    long_enough = MIN_UPTIME_S + 1.0
    graph = SimulationGraph(seed=3).nodes
    assert [spec.respawned(long_enough, -9) is not None for spec in graph] == [False, False, True]
    again = graph[2].respawned(long_enough, -9)
    assert again.parameters == {**graph[2].parameters, 'autoactivate': False}
    assert again.respawned(long_enough, 1) is not None
    assert again.respawned(MIN_UPTIME_S - 1.0, 1) is None
    assert again.respawned(long_enough, EXIT_BAD_SETTING) is None, 'it would end again'


def test_in_a_namespace_the_virtual_arm_has_a_clock_of_its_own():
    for spec in SimulationGraph(namespace='left').nodes:
        assert spec.remappings == {'/clock': '/left/clock'}
    assert not any(spec.remappings for spec in SimulationGraph().nodes)


@pytest.mark.parametrize(
    ('controller', 'usual', 'driver'),
    [
        ('joint_trajectory', 'joint_trajectory', 'xarm6_traj_controller/joint_trajectory'),
        (
            'joint_trajectory_with_stop',
            'joint_trajectory',
            'xarm6_traj_controller/joint_trajectory',
        ),
        (
            'follow_joint_trajectory',
            'follow_joint_trajectory',
            'xarm6_traj_controller/follow_joint_trajectory',
        ),
    ],
)
def test_the_guard_commands_the_controller_of_the_arms_driver(controller, usual, driver):
    guard, _ = BringupGraph(arm='xarm6', controller=controller).nodes
    assert guard.parameters['controller'] == controller
    assert guard.remappings == {f'joint_trajectory_controller/{usual}': driver}


def test_commands_and_topics_can_be_named():
    topics = {'camera/image_raw': '/cam/rgb'}
    graph = BringupGraph(topics=topics, controller='forward_position', commands='arm/commands')
    for spec in graph.nodes:
        assert spec.remappings == {
            'camera/image_raw': '/cam/rgb',
            'forward_position_controller/commands': 'arm/commands',
        }
        assert 'use_sim_time' not in spec.parameters


def test_the_planner_gets_what_it_alone_needs():
    given = parameters(BringupGraph(dry_run=True, belief_file='/dev/shm/belief'))
    assert given['planner']['dry_run'] is True
    assert given['planner']['belief_file'] == '/dev/shm/belief'
    assert not {'dry_run', 'belief_file'} & given['guard'].keys()


@BOTH_GRAPHS
def test_all_nodes_read_the_same_guard_config(kind, tmp_path, monkeypatch):
    def guard_config(given):
        [path] = {p['guard_config'] for p in parameters(kind(guard_config=given)).values()}
        return path

    own = tmp_path / 'cell/walled.yaml'
    own.parent.mkdir()
    shipped = REPOSITORY / 'config/guard.yaml'
    shutil.copy(shipped, own)
    monkeypatch.chdir(tmp_path)
    assert {guard_config(given) for given in ('cell/walled.yaml', str(own))} == {str(own)}
    monkeypatch.chdir(own.parent)
    assert guard_config('guard.yaml') == str(shipped)
    shutil.copy(shipped, 'guard.yaml')  # the changed copy counts, not its original
    assert guard_config('guard.yaml') == str(own.parent / 'guard.yaml')
    assert not any('guard_config' in p for p in parameters(kind()).values())
    own.write_text(shipped.read_text() + '\nno_such_key: 1\n')
    with pytest.raises(ConfigError, match='no_such_key'):
        kind(guard_config=str(own)).check()


@pytest.mark.parametrize(
    ('kind', 'given'),
    [
        (SimulationGraph, {'arm': 'nobody'}),
        (SimulationGraph, {'checkpoint': 'nowhere'}),
        (SimulationGraph, {'task': 'juggle'}),
        (BringupGraph, {'controller': 'nothing'}),
        (BringupGraph, {'guard_config': '../nowhere.yaml'}),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_before_any_node_starts(kind, given):
    [value] = given.values()
    with pytest.raises((FileNotFoundError, ConfigError), match=value):
        kind(**given).check()


@BOTH_GRAPHS
def test_a_parameter_file_is_for_nodes_in_any_namespace(kind, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(
        '/**: {ros__parameters: {sim_config: mine.yaml}}\n'
        'guard: {ros__parameters: {rest_period: 0.02, priority: 0}}\n'
        '/left/planner: {ros__parameters: {max_blackout: 0.1}}\n'
    )
    specs = with_parameter_file(kind().nodes, str(path), 'left')
    given = {spec.name: spec.parameters for spec in specs}
    assert {p['sim_config'] for p in given.values()} == {'mine.yaml'}
    assert (given['guard']['rest_period'], given['guard']['priority']) == (0.02, 0)
    assert given['planner']['max_blackout'] == 0.1 and given['guard']['arm'] == 'panda'
    with pytest.raises(ConfigError, match='no node /left/planner'):
        with_parameter_file(kind().nodes, str(path), 'right')


@pytest.mark.parametrize(
    'text',
    [
        'gaurd: {ros__parameters: {rest_period: 0.02}}',
        'guard: {rest_period: 0.02}',
        'guard: {ros__parameters: [1]}',
        'guard: {ros__parameters: {rest_period: [0.02]}}',
        'guard: {ros__parameters: {arm: ur5e}}',
        '/**: {ros__parameters: {use_sim_time: false}}',
        '[guard]',
        'guard: {',
    ],
)
def test_a_malformed_parameter_file_is_rejected(text, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError):
        with_parameter_file(SimulationGraph().nodes, str(path))


def test_the_help_of_arguments_names_everything_that_is_shipped():
    for folder, argument in (('arms', 'arm'), ('tasks', 'task')):
        for file in (REPOSITORY / 'config' / folder).glob('*.yaml'):
            assert file.stem in ARGUMENT_HELP[argument]


def test_every_executable_is_installed():
    setup = (REPOSITORY / 'setup.py').read_text()
    for spec in SimulationGraph().nodes:
        assert f'jepa_arm_{spec.name} = jepa_arm.ros.executables:{spec.name}' in setup
    assert 'jepa_arm_view = jepa_arm.ros.executables:view' in setup
