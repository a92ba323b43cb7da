"""A real session recorded by the command, read by another library, and decided again."""

import json
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import rclpy
from jepa_arm_msgs.srv import InjectFault
from mcap.records import Channel
from planner_bench import Bench, pose
from rclpy.context import Context
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.cli.main import main
from jepa_arm.core.files import checkpoint_path
from jepa_arm.datasets.mcap_file import DEFAULT_TOPIC_KEY, read_records
from jepa_arm.ros.runtime.qos import COMMAND_QOS, SENSOR_QOS, STATUS_QOS
from jepa_arm.ros.tools.recorder import TOPICS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow, pytest.mark.extended]
GOAL_S = 2.5
ABSENT = {
    'wrist_camera/image_raw',
    'robot_description',
    '/tf',
    '/tf_static',
    'planner/plan_preview',
}
"""What only a robot_state_publisher, a planner that sends nothing or a wrist camera publishes."""


def start_recorder(*arguments):
    return subprocess.Popen(
        [sys.executable, '-m', 'jepa_arm', 'record', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def recorders(harness, topic):
    """How many of them have subscribed to ``topic``."""
    found = harness.node.get_subscriptions_info_by_topic(topic)
    return sum(info.node_name == 'recorder' for info in found)


def read_all(path):
    """Messages by topic, decoded by rosbags with nothing but the definitions in the file."""
    store, found = get_typestore(Stores.EMPTY), {}
    with Reader(path) as reader:
        for connection in reader.connections:
            kind = connection.msgtype
            store.register(get_types_from_msg(connection.msgdef.data, kind))
        for connection, _, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append(message)
    return found


def test_a_session_is_recorded_read_elsewhere_and_decided_again_alike(
    harness, arm, tmp_path, capsys
):
    path, killed = tmp_path / 'session.mcap', tmp_path / 'killed.mcap'
    bench = Bench(
        harness, arm, checkpoint_path('compact'), tmp_path, planner_config='planner.yaml'
    )
    try:
        recorder = start_recorder('--out', str(path))
        other = start_recorder('--out', str(killed), 'joint_states')
        heard = path.with_name(path.name + '.partial')
        recorded = [name for name in TOPICS if name not in ABSENT | {'clock'}]
        harness.wait(lambda: all(recorders(harness, name) for name in recorded), 'the recorder')
        harness.wait(lambda: recorders(harness, 'joint_states') == 2, 'both recorders')
        bench.send(pose(0.5, 0.1, 0.1))
        time.sleep(GOAL_S / 3)
        lag = InjectFault.Request(fault='camera_delay', value=0.25, duration=GOAL_S / 4)
        assert harness.call(InjectFault, 'sim/inject_fault', lag).success
        time.sleep(GOAL_S / 3)
        bench.send(pose(0.5, 0.1, 0.1))  # takes the place of the first
        time.sleep(GOAL_S / 3)
        other.kill()
        recorder.send_signal(signal.SIGINT)
        said, errors = recorder.communicate(timeout=20.0)
        assert recorder.returncode == 0, errors
    finally:
        bench.close()
    assert 'messages' in said and str(path) in said and not heard.exists()

    found = read_all(path)
    assert set(found) == {f'/{name.lstrip("/")}' for name in TOPICS if name not in ABSENT}
    assert found['/planner/goal'][-1].pose.pose.position.y == 0.1
    assert len(found['/joint_states']) > 5 * len(found['/camera/image_raw']) > 5 * 8 * GOAL_S
    told = [status for status in found['/planner/status'] if status.setpoint.size == 7]
    assert told and all(status.joints.size == 7 for status in told)
    assert any(len(status.late_image_stamps) for status in told), (
        'images came too late to plan from'
    )

    file = tmp_path / 'report.json'
    code = main(['replay', str(path), '--compare', '--json', str(file)])
    assert code == 0 and 'the planners decide alike' in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report['equal'] == report['compared'] and not report['excused']

    other.communicate()
    whole = tmp_path / 'recovered.mcap'
    assert main(['data', 'recover', f'{killed}.partial', '--out', str(whole)]) == 0
    assert len(read_all(whole)['/joint_states']) > 100


def test_what_guard_and_planner_use_is_recorded_whatever_its_name(harness, tmp_path):
    """With ``forward_position`` no command was in the file, beside another driver neither."""
    context = Context()
    rclpy.init(context=context)
    make = partial(rclpy.create_node, context=context, namespace='cell')
    planner, guard, driver = (make(name) for name in ('planner', 'guard', 'driver'))
    for node in (planner, guard):
        node.create_subscription(JointState, '/robot/joint_states', lambda _: None, SENSOR_QOS)
    planner.create_subscription(Image, '/cam/rgb', lambda _: None, SENSOR_QOS)
    planner.create_publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
    guard.create_subscription(
        JointTrajectory, 'planner/joint_trajectory', lambda _: None, COMMAND_QOS
    )
    said = (
        (driver.create_publisher(JointState, '/robot/joint_states', SENSOR_QOS), JointState()),
        (driver.create_publisher(Image, '/cam/rgb', SENSOR_QOS), Image()),
        (driver.create_publisher(JointState, 'joint_states', SENSOR_QOS), JointState()),
        (
            guard.create_publisher(Float64MultiArray, 'group/commands', COMMAND_QOS),
            Float64MultiArray(),
        ),
    )
    path = tmp_path / 'cell.mcap'
    recorder = start_recorder('--out', str(path), '--duration', '2', '--namespace', 'cell')
    try:
        while recorder.poll() is None:
            for publisher, message in said:
                publisher.publish(message)
            time.sleep(0.02)
        told, errors = recorder.communicate(timeout=20.0)
    finally:
        for node in (planner, guard, driver):
            node.destroy_node()
        rclpy.shutdown(context=context)
    assert recorder.returncode == 0, errors
    assert set(read_all(path)) >= {'/robot/joint_states', '/cam/rgb', '/cell/group/commands'}
    assert '/cam/rgb, as /cell/camera/image_raw' in told
    with path.open('rb') as stream:
        channels = [r for r in read_records(stream) if isinstance(r, Channel)]
        roles = {c.topic: c.metadata.get(DEFAULT_TOPIC_KEY) for c in channels}
    assert roles['/robot/joint_states'] == '/cell/joint_states'
    assert roles['/cam/rgb'] == '/cell/camera/image_raw'


def test_the_recorder_works_in_a_namespace_and_says_when_there_is_nothing(harness, tmp_path):
    nothing = start_recorder('--out', str(tmp_path / 'a.mcap'), '--duration', '1', 'nobodys')
    joints = harness.node.create_publisher(JointState, '/left/joint_states', SENSOR_QOS)
    clock = harness.node.create_publisher(Clock, '/left/clock', STATUS_QOS)

    def publish():
        if joints.get_subscription_count() and clock.get_subscription_count():
            joints.publish(JointState(name=['a']))
            clock.publish(Clock())

    harness.node.create_timer(0.02, publish)
    path = tmp_path / 'left.mcap'
    recorder = start_recorder('--out', str(path), '--duration', '1', '--namespace', 'left')
    assert recorder.wait(30.0) == 0
    assert set(read_all(path)) >= {'/left/joint_states', '/left/clock'}
    _, errors = nothing.communicate(timeout=20.0)
    assert nothing.returncode == 1 and 'nothing was published' in errors
    assert [p.name for p in tmp_path.iterdir() if 'a.mcap' in p.name] == []
