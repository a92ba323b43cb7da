"""What starts and ends the processes leaves none behind and says what went wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jepa_arm_msgs.action import MoveToGoal
from planner_bench import planner_with, pose, quick_planner
from rclpy.action import ActionClient
from sensor_msgs.msg import JointState

from jepa_arm.nodes.description import NodeSpec, simulation
from jepa_arm.nodes.graph import GraphError, Supervisor
from jepa_arm.nodes.parameters import SENSOR
from jepa_arm.nodes.reference import reference

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
SPECS = simulation(with_planner=False)


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().split(') ')[1][0] != 'Z'
    except FileNotFoundError:
        return False


def wait_gone(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def test_a_graph_comes_up_and_ends_in_order_with_0(tmp_path):
    with Supervisor(SPECS, log_dir=tmp_path) as graph:
        graph.wait_ready()
        pids = [p.pid for p in graph.processes.values()]
        assert set(graph.processes) == {'sim', 'guard'} and graph.watch(0.3) is None
    assert graph.exit_codes == {'guard': 0, 'sim': 0}
    assert list(graph.exit_codes) == ['guard', 'sim'] and not any(map(is_running, pids))
    assert 'push' in graph.tail('sim')


def test_output_goes_into_a_folder_of_its_own_among_the_logs_of_ros(ros_logs):
    """Each graph left a folder in /tmp."""
    before = set(ros_logs.iterdir())
    graph = Supervisor(SPECS[:1])
    assert graph.log_dir.parent == ros_logs and not graph.log_dir.exists()
    with graph:
        graph.wait_ready()
    assert 'push' in (graph.log_dir / 'sim.log').read_text()
    assert {path for path in set(ros_logs.iterdir()) - before if path.is_dir()} == {graph.log_dir}


def test_a_folder_for_output_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(GraphError, match='set ROS_LOG_DIR'):
        Supervisor(SPECS[:1], log_dir=tmp_path / 'file' / 'logs').start()


def test_the_death_of_a_node_is_noticed_with_its_exit_code(tmp_path):
    with Supervisor(SPECS, log_dir=tmp_path) as graph:
        graph.wait_ready()
        os.kill(graph.processes['guard'].pid, signal.SIGKILL)
        assert graph.watch(5.0) == 'guard'
        assert graph.exit_codes['guard'] == -signal.SIGKILL
        graph.start_node('guard')
        graph.wait_ready()
    assert graph.exit_codes['guard'] == 0


def test_a_process_that_ignores_signals_is_killed(tmp_path, monkeypatch):
    patience = ((signal.SIGINT, 1.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 2.0))
    monkeypatch.setattr('jepa_arm.nodes.graph.ENDING', patience)
    with Supervisor(SPECS[:1], log_dir=tmp_path) as graph:
        graph.wait_ready()
        os.kill(graph.processes['sim'].pid, signal.SIGSTOP)
        began = time.monotonic()
    assert graph.exit_codes['sim'] == -signal.SIGKILL and time.monotonic() - began < 4.0


def test_a_node_that_cannot_start_is_named_with_its_last_words(tmp_path):
    bad = NodeSpec('sim', {'task': 'nonesuch'}, 'joint_states')
    with Supervisor([bad], log_dir=tmp_path) as graph:
        with pytest.raises(GraphError, match=r'sim ended with exit code 78:\n(.*\n)*.*nonesuch'):
            graph.wait_ready()


def test_a_second_graph_on_the_same_domain_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('jepa_arm.nodes.graph.LOOK_AROUND_S', 2.0)
    monkeypatch.setattr('jepa_arm.nodes.graph.LEASE_S', 3.0)
    with Supervisor(SPECS[1:], log_dir=tmp_path) as graph:
        graph.wait_ready()
        with pytest.raises(GraphError, match='already has a node guard'):
            Supervisor(SPECS[1:], log_dir=tmp_path).__enter__()
        with Supervisor(SPECS[1:], namespace='other', log_dir=tmp_path) as other:
            other.wait_ready()


@pytest.mark.parametrize('namespace', ['left arm', '2nd', 'a//b'])
def test_a_namespace_that_cannot_be_is_refused_before_anything_starts(namespace, tmp_path):
    graph = Supervisor(SPECS, namespace, log_dir=tmp_path)
    with pytest.raises(GraphError, match='namespace: expected words of letters'):
        graph.start()
    assert not graph.processes


def test_no_process_outlives_the_one_that_started_it(tmp_path):
    code = (
        'import sys, time\n'
        'from pathlib import Path\n'
        'from jepa_arm.nodes.environment import prepare_ros\n'
        'prepare_ros()\n'
        'from jepa_arm.nodes.description import simulation\n'
        'from jepa_arm.nodes.graph import Supervisor\n'
        'graph = Supervisor(simulation(with_planner=False), log_dir=Path(sys.argv[1]))\n'
        'graph.start()\n'
        'graph.wait_ready()\n'
        'print(*(p.pid for p in graph.processes.values()), flush=True)\n'
        'time.sleep(60)\n'
    )
    parent = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    assert wait_gone(pids)


@pytest.mark.parametrize('begins', ['default', 'ignore'])  # as in the background of a script
def test_ctrl_c_while_nodes_still_start_ends_all_of_them_as_wanted(begins):
    up = subprocess.Popen(
        ['env', f'--{begins}-signal=INT', sys.executable, '-m', 'jepa_arm', 'up'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children: list[int] = []
    while len(children) < 3 and up.poll() is None:
        listed = Path(f'/proc/{up.pid}/task/{up.pid}/children').read_text().split()
        children = [int(pid) for pid in listed]
        time.sleep(0.02)
    os.killpg(up.pid, signal.SIGINT)
    _, errors = up.communicate(timeout=30.0)
    assert (up.returncode, errors) == (0, '')
    assert len(children) == 3 and wait_gone(children)


@pytest.mark.parametrize('name', ['sim', 'guard', 'planner'])
def test_ctrl_c_while_an_executable_still_imports_ends_it_without_a_traceback(name):
    code = f'print(flush=True); from jepa_arm.executables import {name}; {name}()'
    process = subprocess.Popen(
        [sys.executable, '-c', f'import os, numpy; {code}'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30.0)
    assert 'Traceback' not in errors
    assert process.returncode in (0, -signal.SIGINT)


def test_a_node_of_ros2_launch_ends_with_it_even_while_it_starts():
    code = (
        'import os, subprocess, sys, time\n'
        'from jepa_arm.nodes.environment import ending_with_this\n'
        'env = {**os.environ, **ending_with_this()}\n'
        'command = [sys.executable, "-m", "jepa_arm.nodes.guard"]\n'
        'print(subprocess.Popen(command, env=env).pid, flush=True)\n'
        'time.sleep(60)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert wait_gone([child])


def test_two_arms_in_two_namespaces_do_not_know_of_each_other(harness, tmp_path):
    """One is commanded by velocities, the other by positions."""
    controllers = {'left': 'forward_velocity', 'right': 'forward_position'}
    graphs = {}
    for space, controller in controllers.items():
        nodes = simulation(namespace=space, controller=controller)
        nodes = planner_with(nodes, planner_config=quick_planner(tmp_path))
        graphs[space] = Supervisor(nodes, space, tmp_path / space)
    joints = {n: harness.record(JointState, f'{n}/joint_states', SENSOR) for n in graphs}
    with graphs['left'] as left, graphs['right'] as right:
        left.wait_ready()
        right.wait_ready()
        topics = dict(harness.node.get_topic_names_and_types())
        assert {'/left/clock', '/right/clock'} <= set(topics)
        for space, other in (('left', 'right'), ('right', 'left')):
            log = joints[other]
            harness.wait(lambda log=log: is_still(log), 'rest')
            rest = np.array(log[-1][1].position)
            move(harness, space, joints[space])
            assert np.abs(np.array(joints[other][-1][1].position) - rest).max() < 1e-3
    assert left.exit_codes == right.exit_codes == {'planner': 0, 'guard': 0, 'sim': 0}


def is_still(joints):
    return all(np.abs(msg.velocity).max() < 1e-3 for _, msg in joints[-10:])


def move(harness, namespace, joints):
    """Sends a goal for the tip that it never meets, and cancels it once the arm is on its way."""
    action = f'{namespace}/move_to_goal'
    client = harness.make(lambda: ActionClient(harness.node, MoveToGoal, action))
    try:
        assert client.wait_for_server(20.0)
        start = np.array(joints[-1][1].position)
        sent = client.send_goal_async(MoveToGoal.Goal(goal=pose(0.45, 0.20, 0.10), tolerance=1e-4))
        harness.wait(sent.done, 'acceptance')
        harness.wait(
            lambda: np.abs(np.array(joints[-1][1].position) - start).max() > 0.1, 'motion'
        )
        sent.result().cancel_goal_async()
        result = sent.result().get_result_async()
        harness.wait(result.done, 'result')
        assert result.result().result.outcome == MoveToGoal.Result.CANCELED
    finally:
        harness.make(client.destroy)


def test_the_reference_of_the_nodes_is_up_to_date():
    """If not: jepa-arm reference --out docs/nodes.md."""
    assert reference() == (Path(__file__).parents[2] / 'docs' / 'nodes.md').read_text()
