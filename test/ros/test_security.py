"""Who may do what on the live graph, who can be reached, and that security fails closed."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from jepa_arm.nodes.client import GraphClient
from jepa_arm.nodes.description import CONTROLLERS, simulation
from jepa_arm.nodes.graph import GraphError, Supervisor
from policy import permissions

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
COMMANDS = '/joint_trajectory_controller/joint_trajectory'
ACTION_TOPICS = ('feedback', 'status')
ACTION_SERVICES = ('send_goal', 'cancel_goal', 'get_result')
OF_A_WRIST_CAMERA = {'/wrist_camera/image_raw'}
ONLY_SOMETIMES = {'/planner/status', *(f'/{topic}' for topic in CONTROLLERS.values())} - {COMMANDS}
"""What the guard uses in lock-step alone, or with another controller."""
ONLY_AT_FIRST = {'guard': {COMMANDS}, 'sim': {'/joint_states', '/clock'}}
"""What they listen to for others before they publish it."""


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    """Simulator, guard and planner."""
    with Supervisor(simulation(), log_dir=tmp_path_factory.mktemp('graph')) as graph:
        graph.wait_ready(120.0)
        yield graph


@pytest.fixture(scope='module')
def onlooker(graph):
    """A node that knows no other graph: of nodes that ended, one may list names for ever."""
    client = GraphClient('onlooker')
    node = client.node

    def unseen():
        if set(graph.processes) - set(node.get_node_names()):
            return True
        return '/move_to_goal/_action/send_goal' not in services(
            node, 'planner'
        ) or '/sim/inject_fault' not in services(node, 'sim')

    client.wait(lambda: not unseen(), 'all nodes with their services')
    yield client
    client.close()


def services(node, name):
    return {s for s, _ in node.get_service_names_and_types_by_node(name, '/')}


def used(node, name):
    """(kind, right) -> full names of what the node ``name`` really has; actions as such."""
    published = {t for t, _ in node.get_publisher_names_and_types_by_node(name, '/')}
    subscribed = {t for t, _ in node.get_subscriber_names_and_types_by_node(name, '/')}
    served, asked = (
        services(node, name),
        {s for s, _ in node.get_client_names_and_types_by_node(name, '/')},
    )
    actions = {s.removesuffix('/_action/send_goal') for s in served if s.endswith('send_goal')}
    for action in actions:
        published -= {f'{action}/_action/{part}' for part in ACTION_TOPICS}
        served -= {f'{action}/_action/{part}' for part in ACTION_SERVICES}
    return {
        ('topics', 'publish'): published,
        ('topics', 'subscribe'): subscribed,
        ('services', 'reply'): served,
        ('services', 'request'): asked,
        ('actions', 'execute'): actions,
    }


def unused(name, right):
    """Of the policy, what a node need not have now."""
    sometimes = ONLY_SOMETIMES if name == 'guard' else OF_A_WRIST_CAMERA
    return sometimes | (ONLY_AT_FIRST.get(name, set()) if right == 'subscribe' else set())


@pytest.mark.parametrize('name', ['sim', 'guard', 'planner'])
def test_the_policy_allows_a_node_what_it_has_and_nothing_else(name, onlooker):
    allowed = permissions()

    def is_whole():
        """What a node has becomes known piece by piece."""
        return all(
            allowed.get((name, kind, right), set()) - unused(name, right) <= names
            for (kind, right), names in used(onlooker.node, name).items()
        )

    with suppress(GraphError):  # the assertions below say what is missing
        onlooker.wait(is_whole, 'all of the node')
    has = used(onlooker.node, name)
    for (kind, right), names in has.items():
        may = allowed.get((name, kind, right), set())
        assert names - may == set(), f'{name} has {kind} to {right} that the policy denies'
        assert may - names <= unused(name, right), f'{name} may {right} {kind} it does not have'


def test_nobody_but_the_guard_publishes_commands(onlooker):
    infos = onlooker.node.get_publishers_info_by_topic(COMMANDS)
    assert [info.node_name for info in infos] == ['guard']


def start_guard(**environment):
    """A guard with changed environment; its process."""
    return subprocess.Popen(
        [sys.executable, '-m', 'jepa_arm.nodes.guard'],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_with_security_enforced_and_no_good_keys_a_node_does_not_start(tmp_path):
    """Neither with a middleware built without security nor with one that finds bad keys."""
    enclave = tmp_path / 'enclaves' / 'jepa_arm' / 'guard'
    enclave.mkdir(parents=True)
    for name in (
        'identity_ca.cert.pem',
        'cert.pem',
        'key.pem',
        'permissions_ca.cert.pem',
        'governance.p7s',
        'permissions.p7s',
    ):
        (enclave / name).write_text('not a key')
    process = start_guard(
        ROS_SECURITY_ENABLE='true',
        ROS_SECURITY_STRATEGY='Enforce',
        ROS_SECURITY_KEYSTORE=str(tmp_path),
        ROS_SECURITY_ENCLAVE_OVERRIDE='/jepa_arm/guard',
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and 'ecurity' in output


DISCOVERY = """
import os, sys, time
from jepa_arm.nodes.environment import discovery_range, prepare_ros

def listeners():
    lines = open('/proc/net/igmp').read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == '0100FFEF')

prepare_ros(shares_memory='shares' in sys.argv)
import rclpy
before = listeners()
rclpy.init()
node = rclpy.create_node('lonely')
time.sleep(0.5)
print('RANGE', discovery_range())
print('JOINED', listeners() > before)
print('SHARES', '/dev/shm/fastdds' in open('/proc/self/maps').read())
"""
"""Prints whether a node listens to the multicast group by which machines find each other, and
whether it shares memory with other nodes.
"""


@pytest.mark.parametrize('shares', [True, False])
@pytest.mark.parametrize(
    ('set_before', 'expected'),
    [
        ({}, 'LOCALHOST'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, 'SUBNET'),
        ({'ROS_LOCALHOST_ONLY': '1'}, 'LOCALHOST'),
        ({'ROS_LOCALHOST_ONLY': '0'}, 'unset'),
    ],
)
def test_nodes_are_found_on_this_machine_only_unless_somebody_says_so(
    set_before, expected, shares
):
    """By default no node joins the multicast group of discovery.

    Once ROS_LOCALHOST_ONLY=1 opened what it should close: rclpy 9.1 ignores it.
    """
    names = ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY')
    environment = {k: v for k, v in os.environ.items() if k not in names} | set_before
    result = subprocess.run(
        [sys.executable, '-c', DISCOVERY, 'shares' if shares else 'alone'],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f'RANGE {expected}' in result.stdout, result.stderr
    assert f'JOINED {expected != "LOCALHOST"}' in result.stdout, result.stdout
    assert f'SHARES {shares}' in result.stdout, result.stdout
