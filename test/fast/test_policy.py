"""The SROS2 policy: each node may do what is its own, and only the guard commands the robot."""

import pytest

from jepa_arm.ros.runtime.node_contract import CONTROLLERS, FOLLOW_TRAJECTORY
from policy import permissions, policy

COMMANDS = '/joint_trajectory_controller/joint_trajectory'
OWNERS = {
    COMMANDS: {'guard'},
    '/guard/status': {'guard'},
    '/planner/joint_trajectory': {'planner'},
    '/planner/status': {'planner'},
    '/joint_states': {'sim'},
    '/camera/image_raw': {'sim'},
    '/camera/camera_info': {'sim'},
    '/clock': {'sim'},
    '/forward_position_controller/commands': {'guard'},
    '/forward_velocity_controller/commands': {'guard'},
}


def test_there_is_one_enclave_for_each_node_and_no_wildcard():
    paths = [enclave.get('path') for enclave in policy().iter('enclave')]
    assert paths == [f'/jepa_arm/{name}' for name in ('guard', 'planner', 'sim', 'client')]
    assert not any('*' in name for names in permissions().values() for name in names)


def test_the_guard_may_command_every_controller_and_listen_for_others_there():
    """It might not listen: under SROS2 it would have ended before its first command."""
    commands = {f'/{topic}' for name, topic in CONTROLLERS.items() if name != FOLLOW_TRAJECTORY}
    assert commands <= set(OWNERS)
    for right in ('publish', 'subscribe'):
        assert commands <= permissions()['guard', 'topics', right]
    assert commands <= permissions()['sim', 'topics', 'subscribe']
    callers = {node for node, kind, right in permissions() if (kind, right) == ('actions', 'call')}
    assert permissions()['guard', 'actions', 'call'] == {f'/{CONTROLLERS[FOLLOW_TRAJECTORY]}'}
    assert callers == {'guard', 'client'}
    assert permissions()['client', 'actions', 'call'] == {'/move_to_goal'}


@pytest.mark.parametrize(('topic', 'owners'), OWNERS.items())
def test_nobody_but_its_owner_may_publish_a_topic(topic, owners):
    publishers = {
        node
        for (node, kind, right), names in permissions().items()
        if (kind, right) == ('topics', 'publish') and topic in names
    }
    assert publishers == owners
