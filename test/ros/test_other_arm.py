"""Every arm through ROS 2: virtual arm and guard, with this test as the planner.

``REACH_GOALS=20 pytest -s test/ros/test_other_arm.py`` tries more goals and prints the errors.
"""

import os
import subprocess
import sys
import time
from subprocess import PIPE, STDOUT

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.types import Proposal
from jepa_arm.robot.action_space import ACTION_METRES, TipMotion
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING
from jepa_arm.ros.runtime.parameters import load_arm
from jepa_arm.ros.runtime.qos import COMMAND_QOS, STATUS_QOS
from jepa_arm.sim.tasks import load_task

pytestmark = [pytest.mark.ros, pytest.mark.sim]
ARMS = (
    *('ur5e', 'xarm6'),  # six joints; the Panda moves in the other tests
    *(pytest.param(name, marks=pytest.mark.extended) for name in ('panda', 'fr3', 'iiwa14')),
)
GOALS = int(os.environ.get('REACH_GOALS', '1'))
FIRST_SEED = 50_000
AT_REST = (GuardStatus.IDLE, GuardStatus.HOLDING)
ARRIVED_M = 1e-4
REST_S = 0.3
"""After a proposal, when the guard's status can be of no time before it."""
EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture(scope='module')
def planner_of_another_arm():
    """A planner with the shipped model for a UR5e, which ends while the arms move."""
    planner = [sys.executable, '-m', 'jepa_arm.ros.planner.node', '--ros-args', '-p', 'arm:=ur5e']
    with subprocess.Popen(planner, text=True, stdout=PIPE, stderr=STDOUT) as process:
        yield process
        process.kill()


class Walker:
    """Plays the planner: proposes straight ways for the tip, one for each image."""

    def __init__(self, harness, name, log_dir):
        self.arm = load_arm(name)
        self.images = harness.record(Image, 'camera/image_raw', EVERY)
        self.joints = harness.record(JointState, 'joint_states', EVERY)
        self.status = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
        nodes = SimulationGraph(name, task='reach', seed=FIRST_SEED, with_planner=False).nodes
        graph = Supervisor(nodes, log_dir=log_dir, observer=harness.node)
        harness.cleanup.append(graph.stop)
        graph.start()
        graph.wait_ready()
        topic = 'planner/joint_trajectory'
        self._proposals = harness.publisher(JointTrajectory, topic, COMMAND_QOS)
        harness.wait(lambda: self.status and self.guard.state == GuardStatus.IDLE, 'guard')
        self._motion = TipMotion(self.arm)
        self._motion.reset(np.array(self.guard.command))
        self._asked_at = -np.inf

    @property
    def guard(self):
        return self.status[-1][1]

    def distance(self, goal):
        """m, from the measured tip to ``goal`` (3,)."""
        sample = convert.joints_from_msg(self.joints[-1][1], self.arm.joint_names)
        return float(np.linalg.norm(self.arm.tip_position(sample.position) - goal))

    def is_at(self, goal):
        """Whether the arm rests there, within 1 cm; goes on if not, from where it was stopped."""
        told = np.linalg.norm(self.arm.tip_position(np.array(self.guard.command)) - goal)
        is_at_rest = time.monotonic() - self._asked_at > REST_S and self.guard.state in AT_REST
        if told < ARRIVED_M:
            return is_at_rest and self.distance(goal) < 0.01
        if is_at_rest:
            self._motion.reset(np.array(self.guard.command))
        if self.images:
            stamp = convert.to_seconds(self.images[-1][1].header.stamp)
            self.images.clear()
            action = np.clip((goal - self._motion.target) / ACTION_METRES, -1.0, 1.0)
            way = self._motion.apply(action)[None]
            proposal = Proposal(self.arm.joint_names, way, np.array([0.1]), stamp, 0.2)
            self._proposals.publish(convert.proposal_to_msg(proposal))
            self._asked_at = time.monotonic()
        return False


@pytest.mark.parametrize('name', ARMS)
@pytest.mark.usefixtures('planner_of_another_arm')
def test_every_arm_reaches_tip_goals(harness, sim_config, tmp_path, name):
    walker = Walker(harness, name, tmp_path)
    task, errors = load_task('reach', walker.arm, sim_config), []
    for seed in range(FIRST_SEED, FIRST_SEED + GOALS):
        goal = task.sample(seed).goal
        began = time.monotonic()
        harness.wait(lambda goal=goal: walker.is_at(goal), f'the goal of {seed}', timeout=6.0)
        errors.append((walker.distance(goal) * 1000.0, time.monotonic() - began))
    mm, seconds = np.median(errors, axis=0)
    print(
        f'{name}: {len(errors)} / {GOALS} goals, error {mm:.2f}, at most '
        f'{np.max(errors, axis=0)[0]:.2f} mm, {seconds:.1f} s, refused {walker.guard.rejected}'
    )
    assert walker.guard.accepted > 5


def test_the_shipped_model_is_refused_for_another_arm(planner_of_another_arm):
    output, _ = planner_of_another_arm.communicate(timeout=60.0)
    assert planner_of_another_arm.returncode == EXIT_BAD_SETTING and 'Traceback' not in output
    assert 'arm: trained with panda, here ur5e' in output
    assert 'jepa-arm train --arm ur5e' in output
