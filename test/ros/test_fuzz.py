"""Hostile messages over ROS: all nodes survive and the commands stay within the limits."""

import numpy as np
import pytest
from jepa_arm_msgs.action import MoveToGoal
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.files import checkpoint_path
from jepa_arm_validation.fuzzing.graph_fuzzer import fuzz_ros
from jepa_arm_validation.fuzzing.random_messages import RandomMessages, interface_class

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow, pytest.mark.extended]
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
def test_random_messages_have_the_given_type_and_vary_every_field(kind):
    messages, seen = RandomMessages(np.random.default_rng(0)), set()
    for _ in range(60):
        for msg in (messages.draw(kind), messages.mutate(kind(), 3)):
            assert isinstance(msg, kind)
            seen |= {n for n in msg.get_fields_and_field_types() if changed(msg, kind(), n)}
    assert seen == set(kind.get_fields_and_field_types())


def changed(msg, fresh, name):
    return repr(getattr(msg, name)) != repr(getattr(fresh, name))


def test_mutating_does_not_change_the_given_message():
    msg = JointTrajectory(joint_names=['a', 'b'])
    before = repr(msg)
    for seed in range(50):
        RandomMessages(np.random.default_rng(seed)).mutate(msg, 3)
    assert repr(msg) == before


def test_the_goal_service_of_an_action_is_found_by_its_name():
    kind = interface_class('jepa_arm_msgs/action/MoveToGoal_SendGoal')
    assert kind is MoveToGoal.Impl.SendGoalService
