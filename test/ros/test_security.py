"""Security: the policy fits the live graph, discovery is limited, and bad keys stop a node."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.node_contract import CONTROLLERS, GraphError
from policy import permissions

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
COMMANDS = '/joint_trajectory_controller/joint_trajectory'
KNOWN_SERVICES = {
    'sim': '/sim/inject_fault',
    'guard': '/guard/hold',
    'planner': '/move_to_goal/_action/send_goal',
}
ACTION_TOPICS = ('feedback', 'status')
ACTION_SERVICES = ('send_goal', 'cancel_goal', 'get_result')
WRIST_CAMERA_TOPICS = {'/wrist_camera/image_raw'}
OPTIONAL_TOPICS = {'/planner/status', *(f'/{topic}' for topic in CONTROLLERS.values())} - {
    COMMANDS
}
"""Topics that the guard uses only in lock-step or with another controller."""
STARTUP_SUBSCRIPTIONS = {'guard': {COMMANDS}, 'sim': {'/joint_states', '/clock'}}
"""Topics that a node subscribes to only before it publishes them."""


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    """Return a running simulator, guard and planner."""
    with Supervisor(SimulationGraph().nodes, log_dir=tmp_path_factory.mktemp('graph')) as graph:
        graph.wait_ready(120.0)
        yield graph


@pytest.fixture(scope='module')
def observer(graph):
    """Return a new client: an older one may list nodes that have ended."""
    client = GraphClient('observer')
    node = client.node

    def missing():
        nodes = set(node.get_node_names())
        return [
            service
            for name, service in KNOWN_SERVICES.items()
            if name not in nodes or service not in services(node, name)
        ]

    try:
        client.wait(lambda: not missing(), 'all nodes with their services')
    except GraphError as error:
        pytest.fail(f'{error}; nodes: {node.get_node_names()}; missing: {missing()}')
    yield client
    client.close()


def services(node, name):
    return {s for s, _ in node.get_service_names_and_types_by_node(name, '/')}


def used(node, name):
    """Return the resolved names used by the node ``name``, by (kind, right)."""
    published = {t for t, _ in node.get_publisher_names_and_types_by_node(name, '/')}
    subscribed = {t for t, _ in node.get_subscriber_names_and_types_by_node(name, '/')}
    served, requested = (
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
        ('services', 'request'): requested,
        ('actions', 'execute'): actions,
    }


def unused(name, right):
    """Return the names in the policy that a node need not use at the moment."""
    sometimes = OPTIONAL_TOPICS if name == 'guard' else WRIST_CAMERA_TOPICS
    return sometimes | (STARTUP_SUBSCRIPTIONS.get(name, set()) if right == 'subscribe' else set())


@pytest.mark.parametrize('name', ['sim', 'guard', 'planner'])
def test_policy_allows_each_node_exactly_what_it_uses(name, observer):
    allowed = permissions()

    def is_discovered():
        return all(
            allowed.get((name, kind, right), set()) - unused(name, right) <= names
            for (kind, right), names in used(observer.node, name).items()
        )

    with suppress(GraphError):  # the assertions below name what is missing
        observer.wait(is_discovered, 'all of the node')
    has = used(observer.node, name)
    for (kind, right), names in has.items():
        may = allowed.get((name, kind, right), set())
        assert names - may == set(), f'the policy denies {name} to {right} some {kind}'
        assert may - names <= unused(name, right), (
            f'the policy allows {name} to {right} unused {kind}'
        )


def test_only_the_guard_publishes_commands(observer):
    infos = observer.node.get_publishers_info_by_topic(COMMANDS)
    assert [info.node_name for info in infos] == ['guard']


def start_guard(**environment):
    """Return the process of a guard with additional environment variables."""
    return subprocess.Popen(
        [sys.executable, '-m', 'jepa_arm.ros.guard.node'],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_node_with_enforced_security_and_bad_keys_does_not_start(tmp_path):
    """Holds for a middleware with and without security support."""
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
from jepa_arm.ros.runtime.environment import discovery_range, prepare_ros

def listeners():
    lines = open('/proc/net/igmp').read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == '0100FFEF')

prepare_ros(shares_memory='shares' in sys.argv)
import rclpy
before = listeners()
rclpy.init()
node = rclpy.create_node('lonely')
deadline = time.monotonic() + 5.0
while listeners() <= before and time.monotonic() < deadline and 'joins' in sys.argv:
    time.sleep(0.01)
print('RANGE', discovery_range())
print('JOINED', listeners() > before)
print('SHARES', '/dev/shm/fastdds' in open('/proc/self/maps').read())
"""
"""Program that prints whether a node joins the multicast group of discovery and shares memory."""


@pytest.mark.parametrize(
    ('set_before', 'expected', 'shares'),
    [
        ({}, 'LOCALHOST', True),
        ({}, 'LOCALHOST', False),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, 'SUBNET', False),
        ({'ROS_LOCALHOST_ONLY': '1'}, 'LOCALHOST', True),
        ({'ROS_LOCALHOST_ONLY': '0'}, 'unset', False),
    ],
)
def test_discovery_is_limited_to_this_machine_by_default(
    shipped_environment, set_before, expected, shares
):
    words = [*(['shares'] if shares else []), *(['joins'] if expected != 'LOCALHOST' else [])]
    kept = {k: v for k, v in shipped_environment.items() if k != 'ROS_LOCALHOST_ONLY'}
    environment = kept | set_before
    result = subprocess.run(
        [sys.executable, '-c', DISCOVERY, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f'RANGE {expected}' in result.stdout, result.stderr
    assert f'JOINED {expected != "LOCALHOST"}' in result.stdout, result.stdout
    assert f'SHARES {shares}' in result.stdout, result.stdout
