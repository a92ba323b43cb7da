"""A real session recorded by the command, read by another library, and decided again."""

import signal
import subprocess
import sys
import time

import pytest
from planner_bench import Bench, pose
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from jepa_arm.cli import main
from jepa_arm.nodes.parameters import SENSOR, STATUS
from jepa_arm.nodes.recorder import TOPICS
from jepa_arm.resources import checkpoint_path

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
GOAL_S = 2.5
ABSENT = {'robot_description', '/tf', '/tf_static', 'planner/plan_preview'}
"""What only a robot_state_publisher publishes, or a dry run."""


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
    bench = Bench(harness, arm, checkpoint_path('compact'), tmp_path)
    try:
        recorder = start_recorder('--out', str(path))
        other = start_recorder('--out', str(killed), 'joint_states')
        heard = path.with_name(path.name + '.partial')
        recorded = [name for name in TOPICS if name not in ABSENT | {'clock'}]
        harness.wait(lambda: all(recorders(harness, name) for name in recorded), 'the recorder')
        harness.wait(lambda: recorders(harness, 'joint_states') == 2, 'both recorders')
        bench.send(pose(0.5, 0.1, 0.1))
        time.sleep(GOAL_S)
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
    assert any(status.told.size == 7 for status in found['/planner/status'])

    code, report = main(['replay', str(path), '--compare']), capsys.readouterr().out
    assert code == 0 and 'the planners decide alike' in report, report

    other.communicate()
    whole = tmp_path / 'recovered.mcap'
    assert main(['recover', f'{killed}.partial', '--out', str(whole)]) == 0
    assert len(read_all(whole)['/joint_states']) > 100


def test_the_recorder_works_in_a_namespace_and_says_when_there_is_nothing(harness, tmp_path):
    nothing = start_recorder('--out', str(tmp_path / 'a.mcap'), '--duration', '1', 'nobodys')
    joints = harness.node.create_publisher(JointState, '/left/joint_states', SENSOR)
    clock = harness.node.create_publisher(Clock, '/left/clock', STATUS)

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
