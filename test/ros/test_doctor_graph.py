"""What ``jepa-arm doctor`` says of a running graph, whole and broken."""

from dataclasses import replace
from functools import partial

import pytest
import rclpy
from jepa_arm_msgs.msg import GuardStatus
from jepa_arm_msgs.srv import InjectFault
from rclpy.context import Context
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.installation import Level
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC
from jepa_arm.ros.runtime.qos import COMMAND_QOS, SENSOR_QOS, STATUS_QOS
from jepa_arm.ros.tools import graph_checks
from jepa_arm.ros.tools.graph_checks import examine_graph

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow, pytest.mark.extended]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What is there is heard within a second here, and is not waited for longer."""
    monkeypatch.setattr(graph_checks, 'LISTEN_S', 1.2)
    monkeypatch.setattr(graph_checks, 'NODES_S', 0.4)


def by_name(findings):
    return {found.name: found for found in findings}


def test_without_a_graph_it_says_how_to_start_one(arm_config, sim_config, monkeypatch):
    monkeypatch.setattr(graph_checks, 'DISCOVERY_S', 1.0)
    middleware, graph = examine_graph(arm_config, sim_config, 'nobody_lives_here')
    assert middleware.level is Level.OK
    assert graph.level is Level.WARN and graph.advice == 'jepa-arm up'


def test_a_graph_is_examined_part_by_part(harness, arm_config, sim_config, monkeypatch):
    harness.start('sim', task='push')
    harness.start('guard', use_sim_time=True)
    status = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
    harness.wait(lambda: status and status[-1][1].state == GuardStatus.IDLE, 'guard')
    camera = arm_config.camera
    found = by_name(examine_graph(arm_config, sim_config, camera=camera))
    failed = {name for name, f in found.items() if f.level is Level.FAIL}
    assert failed == {'planner/status'}
    assert found['joints'].text == 'all 7 of panda'
    assert found['calibration'].text.startswith('size and intrinsics as the model was trained')
    assert found['clock'].text.startswith('simulated')
    assert found['guard'].text.startswith(('IDLE', 'HOLDING: joints_stale'))  # on a busy machine

    rogue = harness.publisher(JointTrajectory, COMMAND_TOPIC, COMMAND_QOS)
    other = replace(camera, fov_deg=60.0)  # of the checkpoint; the arm's file has the right one
    found = {}
    for _ in range(4):  # discovery may take longer than the doctor listens
        found = by_name(examine_graph(arm_config, sim_config, camera=other))
        if 'command topic' in found:
            break
    harness.node.destroy_publisher(rogue)
    assert 'tester' in found['command topic'].text
    assert found['calibration'].level is Level.FAIL and '60.0' in found['calibration'].text

    request = InjectFault.Request(fault='camera_stop')
    assert harness.call(InjectFault, 'sim/inject_fault', request).success
    monkeypatch.setattr(graph_checks, 'UNHEARD_S', 0.0)  # it was heard before
    found = by_name(examine_graph(arm_config, sim_config))
    assert found['camera/image_raw'].text.startswith('no message')


def test_a_guard_that_is_not_active_is_to_be_activated_by_name(harness, arm_config, sim_config):
    """The advice was ``ros2 service call /guard/reset``, which does nothing then."""
    harness.start('guard', autoactivate=False)
    found = by_name(examine_graph(arm_config, sim_config))
    assert found['guard'].level is Level.FAIL and found['guard'].text.startswith('INACTIVE')
    assert found['guard'].advice.endswith('ros2 lifecycle set /guard activate')


def test_topics_are_examined_under_the_names_that_guard_and_planner_use(
    harness, arm_config, sim_config, guard_config, monkeypatch
):
    """A graph with remapped topics was told to have none."""
    context = Context()
    rclpy.init(context=context)
    make = partial(rclpy.create_node, context=context, namespace='cell')
    planner, guard = make('planner'), make('guard')
    for node in (planner, guard):
        node.create_subscription(JointState, '/robot/joint_states', lambda _: None, SENSOR_QOS)
    planner.create_subscription(Image, '/cam/rgb', lambda _: None, SENSOR_QOS)
    guard.create_publisher(JointTrajectory, '/robot/trajectory', COMMAND_QOS)
    status = guard.create_publisher(GuardStatus, 'guard/status', STATUS_QOS)
    joints = harness.node.create_publisher(JointState, '/robot/joint_states', SENSOR_QOS)
    message = JointState(name=list(arm_config.joints), position=list(arm_config.home))
    count = 0

    def publish():
        nonlocal count
        count += 1
        status.publish(GuardStatus(state=GuardStatus.LATCHED))
        if count % 100 > 20:  # 0.2 s without any, every second
            joints.publish(message)

    timer = harness.node.create_timer(0.01, publish)
    monkeypatch.setattr(graph_checks, 'LISTEN_S', 2.5)
    try:
        found = by_name(examine_graph(arm_config, sim_config, 'cell', guard_config))
    finally:
        harness.node.destroy_timer(timer)
        harness.node.destroy_publisher(joints)
        planner.destroy_node()
        guard.destroy_node()
        rclpy.shutdown(context=context)
    assert found['/cam/rgb'].text == 'nobody publishes it'
    assert found['joints'].level is Level.OK
    assert '/robot/trajectory, and nobody listens' in found['command topic'].text
    assert found['/robot/joint_states'].level is Level.WARN, found['/robot/joint_states']
    assert 'the guard stops the arm after 75 ms' in found['/robot/joint_states'].text
    assert found['guard'].advice.endswith('service call /cell/guard/reset std_srvs/srv/Trigger')


@pytest.mark.parametrize(
    'topic', ['arm_controller/joint_trajectory', 'forward_position_controller/commands']
)
def test_commands_that_nobody_hears_are_named(harness, arm_config, sim_config, monkeypatch, topic):
    monkeypatch.setattr(graph_checks, 'UNHEARD_S', 0.0)
    arm = replace(arm_config, controller='arm_controller')
    kind = JointTrajectory if 'joint' in topic else Float64MultiArray
    joints = harness.node.create_publisher(JointState, 'joint_states', SENSOR_QOS)
    publisher = harness.node.create_publisher(kind, topic, COMMAND_QOS)
    found = by_name(examine_graph(arm, sim_config))['command topic']
    assert found.level is Level.FAIL and f'tester commands {topic}' in found.text

    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('controller', context=context)
    node.create_subscription(kind, topic, lambda _: None, COMMAND_QOS)
    harness.wait(publisher.get_subscription_count, 'controller')
    assert 'command topic' not in by_name(examine_graph(arm, sim_config))
    node.destroy_node()
    rclpy.shutdown(context=context)
    for end in (joints, publisher):
        harness.node.destroy_publisher(end)


def test_joints_of_another_arm_and_stamps_of_another_clock_are_named(
    harness, arm_config, sim_config
):
    joints = harness.node.create_publisher(JointState, 'joint_states', SENSOR_QOS)
    message = JointState(name=['a', 'b'], position=[0.0, 1.0])
    timer = harness.node.create_timer(0.01, lambda: joints.publish(message))
    found = by_name(examine_graph(arm_config, sim_config))
    assert found['joints'].level is Level.FAIL and 'panda_joint1' in found['joints'].text
    assert found['camera/image_raw'].text == 'nobody publishes it'

    message.name, message.position = list(arm_config.joints), list(arm_config.home)
    found = by_name(examine_graph(arm_config, sim_config))
    assert found['joints'].level is Level.OK
    assert found['clock'].level is Level.FAIL and 'chrony' in found['clock'].advice
    harness.node.destroy_timer(timer)
    harness.node.destroy_publisher(joints)
