"""The launch files start the nodes of ``nodes/description.py`` with their arguments.

``ros2 launch`` is not on PyPI: ``launch_stand_in`` stands in for what the files use of it.
"""

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from transforms3d.quaternions import quat2mat

import launch_stand_in
from jepa_arm.cli import main
from jepa_arm.config import ConfigError
from jepa_arm.nodes.description import (
    ARM_TEXT,
    LIVED_S,
    SETTING_REFUSED,
    TASK_TEXT,
    bringup,
    simulation,
    with_parameters,
)

LAUNCH = Path(__file__).parents[2] / 'launch'


@pytest.fixture
def installed():
    """The packages of others that ament knows."""
    return set(launch_stand_in.OTHERS)


@pytest.fixture
def load(monkeypatch, installed):
    """The nodes that a launch file starts, by name, given arguments."""
    for name, module in launch_stand_in.modules(installed).items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ('launching', 'viewing'):
        monkeypatch.delitem(sys.modules, f'jepa_arm.nodes.{name}', raising=False)
    return lambda file, *words, **given: launch_stand_in.load(LAUNCH / file, *words, **given)


def test_sim_launch_starts_the_simulation(load):
    nodes = load('sim.launch.py', task='reach', seed='7', lock_step='true', namespace='left')
    specs = simulation(task='reach', seed=7, lock_step=True)
    assert [n.options['executable'] for n in nodes] == [s.executable for s in specs]
    assert [n.options['parameters'] for n in nodes] == [[dict(s.parameters)] for s in specs]
    assert all(n.options['namespace'] == 'left' for n in nodes)
    assert all('on_exit' in n.options for n in nodes)


@pytest.mark.parametrize('file', ['sim.launch.py', 'bringup.launch.py'])
def test_without_autostart_guard_and_planner_wait_for_a_lifecycle_manager(load, file):
    nodes = {n.options['name']: n.options['parameters'][0] for n in load(file, autostart='false')}
    assert nodes['guard']['autostart'] is False and nodes['planner']['autostart'] is False


def test_the_end_of_a_node_ends_the_launch_but_a_planner_that_lived_comes_again_inactive(load):
    sim, guard, planner = load('sim.launch.py')
    ordered, killed = SimpleNamespace(returncode=0), SimpleNamespace(returncode=-9)
    up, ending = SimpleNamespace(is_shutdown=False), SimpleNamespace(is_shutdown=True)
    for node in (sim, guard, planner):  # the planner too: it ended in its start
        ended = node.options['on_exit']
        with pytest.raises(RuntimeError, match='ended with -9'):  # ros2 launch returns 1
            ended(killed, up)
        for event, context in ((ordered, up), (killed, ending)):
            [action] = ended(event, context)
            assert type(action).__name__ == 'Shutdown'
    assert [s.again(LIVED_S + 1.0, -9) is not None for s in simulation()] == [False, False, True]
    again = simulation(seed=3)[2].again(LIVED_S + 1.0, -9)
    assert again.parameters == {**simulation(seed=3)[2].parameters, 'autoactivate': False}
    assert again.again(LIVED_S + 1.0, 1) is not None and again.again(LIVED_S - 1.0, 1) is None
    assert again.again(LIVED_S + 1.0, SETTING_REFUSED) is None, 'it would be refused again'


def test_in_a_namespace_the_virtual_arm_has_a_clock_of_its_own(load):
    for node in load('sim.launch.py', namespace='left'):
        assert dict(node.options['remappings']) == {'/clock': '/left/clock'}
    assert not any(node.options['remappings'] for node in load('sim.launch.py'))


def test_bringup_launch_commands_the_controller_that_is_chosen(load):
    nodes = load('bringup.launch.py', controller='forward_position', commands='arm/commands')
    guard = {n.options['name']: n for n in nodes}['guard'].options
    assert guard['parameters'][0]['controller'] == 'forward_position'
    assert dict(guard['remappings']) == {'forward_position_controller/commands': 'arm/commands'}
    given = {'dry_run': 'true', 'belief_file': '/dev/shm/belief'}
    [planner] = [n.options for n in load('bringup.launch.py', **given)[1:]]
    assert planner['parameters'][0]['dry_run'] is True
    assert planner['parameters'][0]['belief_file'] == '/dev/shm/belief'


def test_bringup_launch_starts_guard_and_planner_on_the_topics_given(load):
    nodes = load('bringup.launch.py', image='/cam/rgb', commands='arm/joint_trajectory')
    names = [n.options['name'] for n in nodes]
    assert names == [s.name for s in bringup()] == ['guard', 'planner']
    for node in nodes:
        assert dict(node.options['remappings']) == {
            'camera/image_raw': '/cam/rgb',
            'joint_trajectory_controller/joint_trajectory': 'arm/joint_trajectory',
        }
        assert 'use_sim_time' not in node.options['parameters'][0]


def test_bringup_launch_sends_commands_to_the_controller_of_the_arms_driver(load):
    guard, _ = load('bringup.launch.py', arm='xarm6')
    topics = dict(guard.options['remappings'])
    assert topics == {
        'joint_trajectory_controller/joint_trajectory': 'xarm6_traj_controller/joint_trajectory'
    }


def test_with_the_stop_it_is_the_same_controller(load):
    for controller in ('joint_trajectory', 'joint_trajectory_with_stop'):
        guard, _ = load('bringup.launch.py', arm='xarm6', controller=controller)
        assert list(dict(guard.options['remappings']).values()) == [
            'xarm6_traj_controller/joint_trajectory'
        ]


def test_the_action_is_that_of_the_same_controller(load):
    usual = 'joint_trajectory_controller/follow_joint_trajectory'
    guard, planner = load('bringup.launch.py', arm='xarm6', controller='follow_joint_trajectory')
    driver = {usual: 'xarm6_traj_controller/follow_joint_trajectory'}
    assert dict(guard.options['remappings']) == driver
    given = {'controller': 'follow_joint_trajectory', 'commands': 'arm/follow'}
    guard, planner = load('bringup.launch.py', **given)
    assert dict(guard.options['remappings']) == {usual: 'arm/follow'}
    assert guard.options['parameters'][0]['controller'] == 'follow_joint_trajectory'


def test_view_launch_describes_the_arm_and_its_camera(load):
    nodes = {n.options['package']: n.options for n in load('view.launch.py', use_sim_time='true')}
    assert all(n['remappings'] == [('/clock', 'clock')] for n in nodes.values())
    assert all(n['parameters'][0]['use_sim_time'] is True for n in nodes.values())
    given = {'has_driver': 'true', 'image': '/cam/rgb', 'joint_states': '/robot/joint_states'}
    beside_a_driver = {n.options['package']: n.options for n in load('view.launch.py', **given)}
    assert set(beside_a_driver) == {'tf2_ros', 'rviz2'}, 'its own publishes the same frames'
    rviz = beside_a_driver['rviz2']
    assert rviz['parameters'] == [{'use_sim_time': False}]
    assert dict(rviz['remappings'])['camera/image_raw'] == '/cam/rgb'
    assert '<robot' in nodes['robot_state_publisher']['parameters'][0]['robot_description']
    assert 'camera_optical_frame' in nodes['tf2_ros']['arguments']
    flag, file, *frame = nodes['rviz2']['arguments']
    assert flag == '-d' and frame == ['-f', 'panda_link0']
    displays = yaml.safe_load(Path(file).read_text())['Visualization Manager']['Displays']
    [plan] = [d for d in displays if d.get('Topic', {}).get('Value') == 'planner/plan_markers']
    assert plan['Topic']['Durability Policy'] == 'Transient Local', 'what was drawn before it came'
    topics = [d.get('Topic', d.get('Description Topic', {})).get('Value') for d in displays]
    assert [t for t in topics if t] == [
        'robot_description',
        'planner/plan_markers',
        'ground_truth/objects',
        'camera/image_raw',
        'planner/imagined',
    ]


def test_the_frame_of_a_wrist_camera_hangs_at_the_tip(load, tmp_path):
    arm = yaml.safe_load((LAUNCH.parent / 'config/arms/panda.yaml').read_text())
    arm['camera']['wrist'] = {
        'height': 32,
        'fov_deg': 55.0,
        'position': [-0.07, 0.0, -0.16],
        'look_at': [0.02, 0.0, 0.0],
        'frame_id': 'wrist_optical',
    }
    path = tmp_path / 'arm.yaml'
    path.write_text(yaml.safe_dump(arm))
    nodes = [n.options for n in load('view.launch.py', arm=str(path))]
    first, second = (n['arguments'] for n in nodes if n['package'] == 'tf2_ros')
    assert first[-4:] == ['--frame-id', 'panda_link0', '--child-frame-id', 'camera_optical_frame']
    assert second[-4:] == ['--frame-id', arm['tip_link'], '--child-frame-id', 'wrist_optical']
    x, y, z, w = map(float, second[7:14:2])
    turn = quat2mat([w, x, y, z])
    ahead = np.array([0.09, 0.0, 0.16]) / np.hypot(0.09, 0.16)
    np.testing.assert_allclose(turn[:, 2], ahead, atol=1e-6)
    assert turn[:, 1] @ arm['tool_axis'] > 0.0, 'down in the image is where the tool goes'


def test_rviz_switches_on_what_its_file_says_and_no_more():
    config = yaml.safe_load((LAUNCH.parent / 'config/rviz/jepa_arm.rviz').read_text())
    window = config['Window Geometry']
    state = bytes.fromhex(window['QMainWindow State'])
    for display in config['Visualization Manager']['Displays']:
        assert 'Value' not in display, 'with it, it subscribes before its QoS is read'
        if display['Class'] == 'rviz_default_plugins/Image':
            name = display['Name'].encode('utf-16-be')
            assert state[state.index(name) + len(name)] == display['Enabled'], 'it switches it on'
    docks = ('Hide Left Dock', 'Hide Right Dock')
    assert [window[dock] for dock in docks] == [False, False], 'RViz has no default for them'


def test_a_viewer_comes_with_the_virtual_arm_when_asked_for_and_its_end_ends_nothing(load):
    plain = [n.options['executable'] for n in load('sim.launch.py')]
    *nodes, camera, rviz, arm = load('sim.launch.py', viewer='rviz', namespace='left', arm='ur5e')
    assert [n.options['executable'] for n in nodes] == plain
    assert rviz.options['package'] == 'rviz2' and 'base_link' in rviz.options['arguments']
    assert 'name="ur5e"' in arm.options['parameters'][0]['robot_description']
    for node in (camera, rviz, arm):
        assert node.options['namespace'] == 'left' and 'on_exit' not in node.options
        own = {'/clock': 'clock', '/tf': 'tf', '/tf_static': 'tf_static'}
        assert dict(node.options['remappings']) == own, 'another panda has the same frames'
        assert node.options['parameters'][0]['use_sim_time'] is True


def test_a_viewer_beside_a_driver_leaves_the_arm_to_it_and_sees_the_topics_given(load):
    nodes = {n.options['executable']: n.options for n in load('bringup.launch.py', viewer='rviz')}
    assert 'robot_state_publisher' not in nodes  # the driver's own publishes the same frames
    assert nodes['rviz2']['parameters'] == [{'use_sim_time': False}]
    *_, rviz = load('bringup.launch.py', viewer='rviz', image='/cam/rgb', use_sim_time='true')
    assert dict(rviz.options['remappings'])['camera/image_raw'] == '/cam/rgb'
    *_, rviz = load(
        'bringup.launch.py', viewer='rviz', namespace='left', image='/cam/rgb', use_sim_time='true'
    )
    assert '/tf' not in dict(rviz.options['remappings']), 'the frames are those of the driver'
    assert rviz.options['parameters'] == [{'use_sim_time': True}]


@pytest.mark.parametrize('file', ['sim.launch.py', 'bringup.launch.py'])
def test_all_nodes_read_the_guard_config_that_is_given(load, file, tmp_path, monkeypatch):
    def read(given):
        [path] = {
            n.options['parameters'][0]['guard_config'] for n in load(file, guard_config=given)
        }
        return path

    own = tmp_path / 'cell/walled.yaml'
    own.parent.mkdir()
    shipped = LAUNCH.parent / 'config/guard.yaml'
    shutil.copy(shipped, own)
    monkeypatch.chdir(tmp_path)
    assert {read(given) for given in ('cell/walled.yaml', str(own))} == {str(own)}
    monkeypatch.chdir(own.parent)
    assert {read(given) for given in ('walled.yaml', '../cell/walled.yaml')} == {str(own)}
    assert read('guard.yaml') == str(shipped)
    shutil.copy(shipped, 'guard.yaml')  # to be changed, and not the one that it was made from
    assert read('guard.yaml') == str(own.parent / 'guard.yaml')
    assert not any('guard_config' in n.options['parameters'][0] for n in load(file))
    own.write_text(shipped.read_text().replace('max_step:', 'max_stepp:'))
    with pytest.raises(ConfigError, match=r'cell/walled\.yaml: unknown key max_stepp'):
        read(str(own))  # before any node starts


@pytest.mark.parametrize('file', ['sim.launch.py', 'bringup.launch.py'])
def test_a_parameter_file_speaks_of_nodes_in_any_namespace(load, file, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(
        '/**: {ros__parameters: {sim_config: mine.yaml}}\n'
        'guard: {ros__parameters: {rest_period: 0.02, priority: 0}}\n'
        '/left/planner: {ros__parameters: {max_blackout: 0.1}}\n'
    )
    nodes = load(file, params_file=str(path), namespace='left')
    given = {n.options['name']: n.options['parameters'][0] for n in nodes}
    assert {p['sim_config'] for p in given.values()} == {'mine.yaml'}
    assert (given['guard']['rest_period'], given['guard']['priority']) == (0.02, 0)
    assert given['planner']['max_blackout'] == 0.1 and given['guard']['arm'] == 'panda'
    assert '-p rest_period:=0.02' in ' '.join(
        with_parameters(bringup(), str(path), 'left')[0].arguments('left')
    )
    with pytest.raises(ConfigError, match='no node /left/planner'):
        load(file, params_file=str(path), namespace='right')


@pytest.mark.parametrize(
    ('text', 'what'),
    [
        (
            'gaurd: {ros__parameters: {rest_period: 0.02}}',
            r'no node gaurd; expected one of .*guard',
        ),
        ('guard: {rest_period: 0.02}', 'guard: expected ros__parameters'),
        ('guard: {ros__parameters: [1]}', 'expected a mapping'),
        (
            'guard: {ros__parameters: {rest_period: [0.02]}}',
            'rest_period: expected one plain value',
        ),
        ('guard: {ros__parameters: {arm: ur5e}}', 'arm of guard is an argument'),
        ('/**: {ros__parameters: {use_sim_time: false}}', 'use_sim_time of guard is an argument'),
        ('[guard]', 'expected the names of nodes'),
        ('guard: {', 'not YAML'),
    ],
)
def test_a_parameter_file_that_cannot_be_meant_is_refused(load, text, what, tmp_path):
    path = tmp_path / 'cell.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=what):
        load('sim.launch.py', params_file=str(path))


def test_a_viewer_that_is_not_installed_is_told_before_any_node_starts(load, installed):
    installed.remove('rviz2')
    assert load('sim.launch.py')
    with pytest.raises(ValueError, match=r'rviz2.*apt install ros-\$ROS_DISTRO-rviz2'):
        load('sim.launch.py', viewer='rviz')


@pytest.mark.parametrize('file', ['sim.launch.py', 'bringup.launch.py', 'view.launch.py'])
def test_rerun_is_a_node_whose_end_ends_nothing(load, file, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name == 'rerun')
    *_, view = load(file, viewer='rerun', namespace='left', arm='ur5e')
    assert (view.options['package'], view.options['executable']) == ('jepa_arm', 'jepa_arm_view')
    assert view.options['namespace'] == 'left' and view.options['parameters'] == [{'arm': 'ur5e'}]
    assert 'on_exit' not in view.options
    *_, view = load('bringup.launch.py', viewer='rerun', image='/cam/rgb')
    assert dict(view.options['remappings'])['camera/image_raw'] == '/cam/rgb'


def test_without_rerun_it_is_said_how_to_get_it_before_anything_starts(load, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    advice = "rerun-sdk, which is not installed: pip install -e '.[rerun]' in the repository"
    with pytest.raises(ValueError, match=re.escape(advice)):
        load('sim.launch.py', viewer='rerun')
    assert main(['view', '--save', 'run.rrd']) == 1
    assert capsys.readouterr().err == f'jepa-arm view: viewer: needs the package {advice}\n'


@pytest.mark.parametrize(
    ('file', 'given'),
    [
        ('sim.launch.py', {'arm': 'nobody'}),
        ('sim.launch.py', {'checkpoint': 'nowhere'}),
        ('sim.launch.py', {'task': 'juggle'}),
        ('sim.launch.py', {'seed': 'nought'}),
        ('sim.launch.py', {'guard_config': 'nowhere.yaml'}),
        ('bringup.launch.py', {'arm': 'nobody'}),
        ('bringup.launch.py', {'checkpoint': 'nowhere'}),
        ('bringup.launch.py', {'guard_config': '../nowhere.yaml'}),
        ('bringup.launch.py', {'params_file': 'nowhere.yaml'}),
        ('view.launch.py', {'arm': 'nobody'}),
    ],
)
def test_a_value_that_cannot_be_used_is_named_before_any_node_starts(load, file, given):
    [value] = given.values()
    with pytest.raises((FileNotFoundError, ValueError), match=value):
        load(file, **given)


@pytest.mark.parametrize('file', ['sim.launch.py', 'bringup.launch.py', 'view.launch.py'])
def test_an_argument_that_a_launch_file_does_not_have_is_refused(
    load, file, monkeypatch, tmp_path
):
    """``dryrun:=true`` was dropped without a word, and the arm would have moved."""
    for words in (['jepa_arm', file], [str(LAUNCH / file), '--noninteractive']):
        monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', *words, 'namspace:=left'])
        with pytest.raises(ConfigError, match="'namspace', did you mean namespace"):
            load(file, 'namspace:=left')
        assert load(file, 'launch-prefix:=nice', namespace='left')
    for words in (['my_cell', file], [str(tmp_path / 'mine.launch.py')]):
        monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', *words, 'speed:=2'])
        assert load(file, 'speed:=2'), 'it is of the launch file that includes this one'


def test_the_words_of_arguments_name_what_is_shipped():
    for arm in (LAUNCH.parent / 'config/arms').glob('*.yaml'):
        assert arm.stem in ARM_TEXT
    for task in (LAUNCH.parent / 'config/tasks').glob('*.yaml'):
        assert task.stem in TASK_TEXT


def test_every_executable_is_installed():
    setup = (LAUNCH.parent / 'setup.py').read_text()
    for spec in simulation():
        assert f'{spec.executable} = jepa_arm.executables:{spec.name}' in setup
    assert 'jepa_arm_view = jepa_arm.executables:view' in setup


def test_arguments_of_a_process():
    sim = simulation(task='reach', seed=3, gui=True)[0]
    assert sim.arguments('left') == [
        *('--ros-args', '-r', '__ns:=/left'),
        *('-p', 'arm:=panda', '-p', 'lock_step:=false'),
        *('-p', 'task:=reach', '-p', 'seed:=3', '-p', 'gui:=true'),
    ]
