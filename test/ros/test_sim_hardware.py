"""The virtual arm behind a controller_manager, which is played by hand."""

import math
import signal
import time

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.qos import COMMAND_QOS, SENSOR_QOS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


def test_as_hardware_the_arm_follows_a_controller_manager(harness, arm):
    """What ros2_control's JointStateTopicSystem sends and wants; it sends nothing at rest."""
    states = harness.record(JointState, 'robot_joint_states', SENSOR_QOS)
    graph = harness.start('sim', 'robot_joint_states', hardware=True)
    commands = harness.publisher(JointState, 'robot_joint_commands', COMMAND_QOS)
    harness.wait(lambda: states, 'joint states')
    names = list(arm.joint_names)[::-1]
    start = convert.joints_from_msg(states[-1][1], arm.joint_names).position

    def travel():
        return convert.joints_from_msg(states[-1][1], arm.joint_names).position - start

    commands.publish(JointState(name=names, position=[math.nan] * len(names)))
    commands.publish(JointState(name=names[1:], position=[0.0] * (len(names) - 1)))
    for share in np.linspace(0.0, 1.0, 60):
        commands.publish(JointState(name=names, position=(start + 0.2 * share)[::-1].tolist()))
        time.sleep(0.01)
    harness.wait(lambda: np.abs(travel() - 0.2).max() < 0.01, 'the place told')
    time.sleep(0.5)
    assert np.abs(travel() - 0.2).max() < 0.01
    assert graph.poll_ended() is None and 'no command' not in graph.log_file('sim').read_text()
    assert harness.node.count_publishers('joint_states') == 0
    while np.any(travel() > 0.1):
        commands.publish(JointState(name=names, velocity=[-0.2] * len(names)))
        time.sleep(0.01)


@pytest.mark.parametrize('is_commanded', [True, False])
def test_the_virtual_arm_ends_after_the_last_command(harness, arm, is_commanded):
    sim = harness.start('sim').processes['sim']
    commands = harness.publisher(
        Float64MultiArray, 'forward_velocity_controller/commands', COMMAND_QOS
    )
    harness.wait(lambda: harness.node.count_subscribers(commands.topic_name), 'the arm')
    rest, began = Float64MultiArray(data=[0.0] * len(arm.joint_names)), time.monotonic()
    while time.monotonic() - began < 0.5:
        commands.publish(rest)
        time.sleep(0.02)
    time.sleep(0.0 if is_commanded else 0.4)
    sim.send_signal(signal.SIGINT)
    began = time.monotonic()
    while is_commanded and time.monotonic() - began < 1.0:
        commands.publish(rest)
        time.sleep(0.02)
    assert sim.poll() is None or not is_commanded
    assert sim.wait(5.0) == 0
