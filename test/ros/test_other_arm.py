"""A six-joint arm through ROS 2: virtual arm and guard, with this test as the planner."""

import subprocess
import sys
from subprocess import PIPE, STDOUT

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus
from jepa_arm_msgs.srv import ResetScene
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.motion import ACTION_METRES, TipMotion
from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.description import SETTING_REFUSED
from jepa_arm.nodes.parameters import COMMAND, STATUS, load_arm
from jepa_arm.types import Proposal

pytestmark = [pytest.mark.ros, pytest.mark.sim]
ARM = 'ur5e'
EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)


def test_a_ur5e_reaches_a_tip_goal_and_the_shipped_model_is_refused_for_it(harness):
    planner = [sys.executable, '-m', 'jepa_arm.nodes.planner', '--ros-args', '-p', f'arm:={ARM}']
    refused = subprocess.Popen(planner, text=True, stdout=PIPE, stderr=STDOUT)
    harness.cleanup.append(refused.kill)
    arm = load_arm(ARM)
    images = harness.record(Image, 'camera/image_raw', EVERY)
    joints = harness.record(JointState, 'joint_states', EVERY)
    status = harness.record(GuardStatus, 'guard/status', STATUS)
    harness.start('sim', arm=ARM, task='reach')
    scene = harness.call(ResetScene, 'sim/reset', ResetScene.Request(seed=50_000))
    harness.start('guard', arm=ARM, use_sim_time=True)
    proposals = harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND)
    harness.wait(lambda: status and status[-1][1].state == GuardStatus.IDLE, 'guard')
    goal = np.array([getattr(scene.goal_position, axis) for axis in 'xyz'])
    motion = TipMotion(arm)
    motion.reset(np.array(status[-1][1].command))

    def distance():
        sample = convert.joints_from_msg(joints[-1][1], arm.joint_names)
        return np.linalg.norm(arm.tip_position(sample.position) - goal)

    def propose_from_a_new_image():
        """Whether the tip has arrived; a straight way there otherwise."""
        if images:
            stamp = convert.to_seconds(images[-1][1].header.stamp)
            images.clear()
            action = np.clip((goal - motion.target) / ACTION_METRES, -1.0, 1.0)
            proposal = Proposal(
                arm.joint_names, motion.apply(action)[None], np.array([0.1]), stamp, 0.2
            )
            proposals.publish(convert.proposal_to_msg(proposal))
        return distance() < 0.01

    assert distance() > 0.05
    harness.wait(propose_from_a_new_image, 'the tip at the goal', timeout=5.0)
    assert status[-1][1].accepted > 5

    output, _ = refused.communicate(timeout=30.0)
    assert refused.returncode == SETTING_REFUSED and 'Traceback' not in output
    assert 'arm: trained with panda, here ur5e' in output
    assert 'jepa-arm model --arm ur5e' in output
