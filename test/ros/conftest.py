"""Real processes on a ROS domain of this test run, and a node that talks to them."""

import faulthandler
import gc
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from jepa_arm.core.files import config_path
from jepa_arm.ros.runtime.environment import LOCAL_PROFILE, find_free_domain, prepare_ros

prepare_ros(shares_memory=False)  # of what the tests kill
os.environ['ROS_DOMAIN_ID'] = str(find_free_domain())

from jepa_arm.ros.client import GraphClient  # noqa: E402
from jepa_arm.ros.graph.description import NodeSpec  # noqa: E402
from jepa_arm.ros.graph.supervisor import Supervisor  # noqa: E402

PROFILE_VARIABLES = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
LEASE = '<leaseDuration><sec>5</sec></leaseDuration>'
"""Time for which a killed process stays listed; 20 s without it."""
TIMEOUT_S = 20.0
HANG_S = 30.0
HAS_LAUNCH = bool(shutil.which('ros2') and find_spec('launch_ros'))
START = (
    ['ros2', 'launch', 'jepa_arm', 'sim.launch.py']
    if HAS_LAUNCH
    else [sys.executable, '-m', 'jepa_arm', 'up']
)
SHOWS = {'sim': 'joint_states', 'guard': 'guard/status', 'planner': 'planner/joint_trajectory'}


def pytest_terminal_summary(terminalreporter):
    missing = '' if HAS_LAUNCH else ' (ros2 launch is not installed)'
    terminalreporter.write_line(f'The graph as users start it: {" ".join(START[-2:])}{missing}')
    ran = 'tried' if find_spec('control_msgs') else 'not tried (control_msgs is not installed)'
    view = 'tried' if find_spec('rerun') else 'not tried (rerun-sdk is not installed)'
    terminalreporter.write_line(f'The graph in Rerun: {view}')
    terminalreporter.write_line(f'Commands by the action FollowJointTrajectory: {ran}')


class Harness(GraphClient):
    """A node that lives as long as the tests, spun by a thread, and the processes it starts."""

    def __init__(self):
        super().__init__('tester')
        self._log_dir = None
        self._supervisors = []
        self.cleanup = []

    def start(self, name, shows='', **parameters):
        """Starts one node of the graph, ready, which a topic shows; its supervisor."""
        spec = NodeSpec(name, parameters, shows or SHOWS[name])
        supervisor = Supervisor([spec], '', self._log_dir, self.node)
        self._supervisors.append(supervisor)
        supervisor.start()
        supervisor.wait_ready(TIMEOUT_S)
        return supervisor

    @contextmanager
    def use(self, log_dir):
        """What is started or made in this context is gone after it."""
        before = self._log_dir, self._supervisors, self.cleanup
        known = {id(entity) for entity, _ in self._entities()}
        self._log_dir, self._supervisors, self.cleanup = log_dir, [], []
        try:
            yield self
        finally:
            for act in reversed(self.cleanup):
                act()
            for supervisor in reversed(self._supervisors):
                supervisor.stop()
            # rclpy holds the interpreter's lock while Fast DDS destroys, so that no deadline of
            # ours runs if it hangs: the process ends then, and its test has failed.
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            try:
                self.execute(lambda: self._destroy_all_but(known))
            finally:
                faulthandler.cancel_dump_traceback_later()
            self._log_dir, self._supervisors, self.cleanup = before

    def _destroy_all_but(self, known):
        for entity, destroy in self._entities():
            if id(entity) not in known:
                destroy(entity)

    def _entities(self):
        """All of the node but the clients that ``call`` keeps, each with what destroys it."""
        kept, node = self._services.values(), self.node
        return [
            *((entity, node.destroy_publisher) for entity in node.publishers),
            *((entity, node.destroy_subscription) for entity in node.subscriptions),
            *((entity, node.destroy_client) for entity in node.clients if entity not in kept),
            *((entity, node.destroy_timer) for entity in node.timers),
        ]


@pytest.fixture(scope='session', autouse=True)
def ros_logs():
    """ROS's log folder for these tests, gone after them."""
    with (
        tempfile.TemporaryDirectory(prefix='jepa_arm_test_') as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv('ROS_LOG_DIR', folder)
        yield Path(folder)


@pytest.fixture(scope='session', autouse=True)
def short_lease(tmp_path_factory):
    """The profile of Fast DDS for these tests: the shipped one with a shorter lease."""
    text = config_path(LOCAL_PROFILE).read_text()
    assert '<leaseAnnouncement>' in text
    profile = tmp_path_factory.mktemp('fastdds') / LOCAL_PROFILE
    profile.write_text(text.replace('<leaseAnnouncement>', f'{LEASE}<leaseAnnouncement>'))
    with pytest.MonkeyPatch.context() as patch:
        for name in PROFILE_VARIABLES:
            if os.environ.get(name, '').endswith(LOCAL_PROFILE):  # else the user has another one
                patch.setenv(name, str(profile))
        yield


@pytest.fixture(scope='session')
def shipped_environment(short_lease):
    """Environment in which a process chooses its transport itself, as it does for users."""
    names = (*PROFILE_VARIABLES, 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'RMW_FASTRTPS_USE_QOS_FROM_XML')
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.fixture(scope='session')
def tester(ros_logs, short_lease):
    gc.collect()
    gc.freeze()  # the tests play the robot: looking through torch and all takes 0.15 s
    tester = Harness()
    yield tester
    tester.close()


@pytest.fixture
def start_command():
    """How a user starts the graph here."""
    return START


@pytest.fixture
def harness(tester, tmp_path):
    with tester.use(tmp_path) as harness:
        yield harness


@pytest.fixture(scope='module')
def shared_harness(tester, tmp_path_factory):
    """One for all tests of a module."""
    with tester.use(tmp_path_factory.mktemp('nodes')) as harness:
        yield harness
