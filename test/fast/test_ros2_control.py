"""What ros2_control is told of the arms: tags in their URDF, and controllers for each."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import xacro
import yaml

from jepa_arm.core.files import config_path, urdf_path
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.runtime.node_contract import CONTROLLERS

PLUGINS = {
    'mock': 'mock_components/GenericSystem',
    'topic': 'joint_state_topic_hardware_interface/JointStateTopicSystem',
}
BOTH = ['position', 'velocity']


def expanded(arm_config, **arguments):
    return xacro.process_file(str(urdf_path(arm_config.urdf)), mappings=arguments).toxml()


def test_a_urdf_has_ros2_control_tags_only_on_request(each_arm):
    assert 'ros2_control' not in each_arm.urdf


def tagged_joints(arm_config, **arguments):
    [system] = ElementTree.fromstring(expanded(arm_config, **arguments)).findall('ros2_control')
    plugin = PLUGINS[arguments['ros2_control']]
    assert system.get('type') == 'system' and system.findtext('hardware/plugin') == plugin
    joints = system.findall('joint')
    assert tuple(j.get('name') for j in joints) == arm_config.joints
    for joint in joints:
        assert interfaces(joint, 'state') == BOTH
    return joints


def interfaces(joint, kind):
    return [i.get('name') for i in joint.findall(f'{kind}_interface')]


def test_a_mock_arm_starts_at_home_with_both_command_interfaces(each_arm_config, each_arm):
    joints = tagged_joints(each_arm_config, ros2_control='mock')
    assert all(interfaces(joint, 'command') == BOTH for joint in joints)
    first = [float(j.findtext('state_interface/param[@name="initial_value"]')) for j in joints]
    np.testing.assert_array_equal(first, each_arm.home)


def test_a_topic_arm_has_one_command_interface_and_no_initial_position(
    each_arm_config,
):
    """Of an interface that no controller commands it would be told NaN, and an arm that is given
    a first position stands there for all the graph before there is one."""
    for arguments, told in (({}, 'position'), ({'command_interface': 'velocity'}, 'velocity')):
        joints = tagged_joints(each_arm_config, ros2_control='topic', **arguments)
        assert all(interfaces(joint, 'command') == [told] for joint in joints)
        assert not any(joint.findall('state_interface/param') for joint in joints)
        first = [joint.findtext('command_interface/param') for joint in joints]
        assert set(first) == {'0.0' if told == 'velocity' else None}


def test_ros2_control_tags_do_not_change_the_arm(each_arm_config, each_arm, tmp_path):
    path = tmp_path / 'arm.urdf'
    path.write_text(expanded(each_arm_config, ros2_control='mock'))
    arm = Arm(dataclasses.replace(each_arm_config, urdf=str(path)))
    np.testing.assert_array_equal(arm.tip_position(arm.home), each_arm.tip_position(arm.home))
    np.testing.assert_array_equal(arm.velocity_limit, each_arm.velocity_limit)


def test_the_topics_of_a_topic_arm_are_arguments(arm_config):
    topics = {'joint_commands_topic': '/isaac/commands', 'joint_states_topic': '/isaac/states'}
    root = ElementTree.fromstring(expanded(arm_config, ros2_control='topic', **topics))
    found = {p.get('name'): p.text for p in root.findall('ros2_control/hardware/param')}
    assert found == topics


def test_an_unknown_hardware_kind_is_refused_with_the_known_ones(arm_config):
    with pytest.raises(xacro.XacroException, match='none, mock or topic, got gazebo'):
        expanded(arm_config, ros2_control='gazebo')
    with pytest.raises(xacro.XacroException, match='position or velocity, got effort'):
        expanded(arm_config, ros2_control='topic', command_interface='effort')


def test_the_controllers_list_the_joints_in_command_order(each_arm_config, sim_config):
    file = config_path(f'controllers/{each_arm_config.name}.yaml')
    told = {name: part['ros__parameters'] for name, part in yaml.safe_load(file.open()).items()}
    usual = 'joint_trajectory_controller'  # serves a topic and an action
    names = {name: name.split('/')[0] for name in CONTROLLERS.values()}
    names = {n: each_arm_config.controller if c == usual else c for n, c in names.items()}
    manager = told.pop('controller_manager')
    assert manager.pop('update_rate') >= 1.0 / sim_config.time.stream_dt
    assert set(manager) == {'joint_state_broadcaster', *names.values()}
    assert set(told) == set(names.values())
    for part in told.values():
        assert tuple(part['joints']) == each_arm_config.joints
    trajectory = told[each_arm_config.controller]
    assert trajectory['command_interfaces'] == ['position']
    assert trajectory['state_interfaces'] == BOTH
    # The default refuses what the guard sends: one point that is passed at speed.
    assert trajectory['allow_nonzero_velocity_at_trajectory_end'] is True
    for kind in BOTH:
        assert told[f'forward_{kind}_controller']['interface_name'] == kind


def test_controller_files_have_no_duplicate_keys_and_no_anchors(each_arm_config):
    """The parser of ROS 2 knows no anchors."""
    text = config_path(f'controllers/{each_arm_config.name}.yaml').read_text()
    assert '&' not in text and '*' not in text
