"""Hostile messages over ROS: the real processes survive them and the robot stays within limits."""

import numpy as np
import pytest
from jepa_arm_msgs.action import MoveToGoal
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.nodes.fuzz import fuzz_ros
from jepa_arm.nodes.noise import Noise, interface
from jepa_arm.resources import checkpoint_path

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
COUNT = 1000


def test_a_thousand_hostile_messages_do_no_harm():
    report = fuzz_ros(COUNT, 0, checkpoint_path('compact'), progress=False)
    assert report['examples'] == [] and report['violations'] == 0
    assert report['crashes'] == 0 and report['goal_afterwards'] == 'SUCCEEDED'
    assert report['messages'] > 0.9 * COUNT and report['commands'] > 100
    attacked = set(report['counts'])
    for name in (
        '/planner/joint_trajectory',
        '/joint_states',
        '/camera/image_raw',
        '/camera/camera_info',
        '/clock',
        '/joint_trajectory_controller/joint_trajectory',
        '/move_to_goal/_action/send_goal',
        '/planner/save_state',
        '/guard/hold',
        '/sim/inject_fault',
    ):
        assert name in attacked


@pytest.mark.parametrize('kind', [JointState, Image, CameraInfo, JointTrajectory, Clock])
def test_noise_is_of_the_type_asked_for_and_reaches_every_field(kind):
    noise, seen = Noise(np.random.default_rng(0)), set()
    for _ in range(60):
        for msg in (noise.message(kind), noise.spoiled(kind(), 3)):
            assert isinstance(msg, kind)
            seen |= {n for n in msg.get_fields_and_field_types() if changed(msg, kind(), n)}
    assert seen == set(kind.get_fields_and_field_types())


def changed(msg, fresh, name):
    return repr(getattr(msg, name)) != repr(getattr(fresh, name))


def test_spoiling_leaves_the_message_it_was_given_alone():
    msg = JointTrajectory(joint_names=['a', 'b'])
    before = repr(msg)
    for seed in range(50):
        Noise(np.random.default_rng(seed)).spoiled(msg, 3)
    assert repr(msg) == before


def test_the_request_type_of_an_action_is_found():
    kind = interface('jepa_arm_msgs/action/MoveToGoal_SendGoal')
    assert kind is MoveToGoal.Impl.SendGoalService
