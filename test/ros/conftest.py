"""Real processes on a ROS domain of this test run, and a node that talks to them."""

import os

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from jepa_arm.nodes.domain import free_domain
from jepa_arm.nodes.environment import prepare_ros

prepare_ros()
os.environ['ROS_DOMAIN_ID'] = str(free_domain())

from jepa_arm.nodes.client import GraphClient  # noqa: E402
from jepa_arm.nodes.graph import NodeSpec, Supervisor  # noqa: E402

TIMEOUT_S = 20.0
SHOWS = {'sim': 'joint_states', 'guard': 'guard/status', 'planner': 'planner/status'}


class Harness(GraphClient):
    """A node in its own context, spun by a thread, and the processes it started."""

    def __init__(self, log_dir):
        super().__init__('tester')
        self._log_dir = log_dir
        self._supervisors = []
        self.cleanup = []

    def start(self, name, **parameters):
        """Starts one node of the graph, ready; its supervisor."""
        supervisor = Supervisor([NodeSpec(name, parameters, SHOWS[name])], '', self._log_dir)
        self._supervisors.append(supervisor)
        supervisor.start()
        supervisor.wait_ready(TIMEOUT_S)
        return supervisor

    def close(self):
        for act in reversed(self.cleanup):
            act()
        for supervisor in reversed(self._supervisors):
            supervisor.stop()
        super().close()


@pytest.fixture
def harness(tmp_path):
    harness = Harness(tmp_path)
    yield harness
    harness.close()


@pytest.fixture(scope='module')
def shared_harness(tmp_path_factory):
    """One for all tests of a module."""
    harness = Harness(tmp_path_factory.mktemp('nodes'))
    yield harness
    harness.close()
