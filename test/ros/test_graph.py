"""What starts and ends the processes leaves none behind and says what went wrong."""

import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from planner_bench import planner_with, quick_planner

from jepa_arm.core.goals import PositionGoal
from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.graph.description import NodeSpec, SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.node_contract import GraphError

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
SPECS = SimulationGraph(with_planner=False).nodes


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
        assert set(graph.processes) == {'sim', 'guard'} and graph.wait_ended(0.3) is None
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
        assert graph.wait_ended(5.0) == 'guard'
        assert graph.exit_codes['guard'] == -signal.SIGKILL
        graph.start_node('guard')
        graph.wait_ready()
    assert graph.exit_codes['guard'] == 0


def test_a_process_that_ignores_signals_is_killed(tmp_path, monkeypatch):
    signals = ((signal.SIGINT, 1.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 2.0))
    monkeypatch.setattr('jepa_arm.ros.graph.supervisor.END_SIGNALS', signals)
    with Supervisor(SPECS[:1], log_dir=tmp_path) as graph:
        graph.wait_ready()
        os.kill(graph.processes['sim'].pid, signal.SIGSTOP)
        began = time.monotonic()
    assert graph.exit_codes['sim'] == -signal.SIGKILL and time.monotonic() - began < 4.0


def test_a_process_that_cannot_be_ended_leaves_no_other_behind(tmp_path, monkeypatch):
    graph = Supervisor(SPECS, log_dir=tmp_path)
    graph.start()
    graph.wait_ready()
    guard = graph.processes['guard']
    guard.send_signal(signal.SIGSTOP)  # SIGINT does not end it any more
    monkeypatch.setattr('jepa_arm.ros.graph.supervisor.END_SIGNALS', ((signal.SIGINT, 3.0),))
    try:
        with pytest.raises(GraphError, match='guard'):
            graph.stop()
        assert graph.exit_codes == {'sim': 0} and set(graph.processes) == {'guard'}
    finally:
        guard.kill()
    guard.wait()
    graph.stop()
    assert not graph.processes and graph.exit_codes['guard'] == -signal.SIGKILL


def test_a_node_that_cannot_start_is_named_with_its_last_words(tmp_path):
    bad = NodeSpec('sim', {'task': 'nonesuch'}, 'joint_states')
    with Supervisor([bad], log_dir=tmp_path) as graph:
        with pytest.raises(GraphError, match=r'sim ended with exit code 78:\n(.*\n)*.*nonesuch'):
            graph.wait_ready()


def test_a_second_graph_on_the_same_domain_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('jepa_arm.ros.graph.supervisor.DISCOVERY_S', 1.5)
    monkeypatch.setattr('jepa_arm.ros.graph.supervisor.DISCOVERY_LEASE_S', 2.0)
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
        'from jepa_arm.ros.runtime.environment import prepare_ros\n'
        'prepare_ros()\n'
        'from jepa_arm.ros.graph.description import SimulationGraph\n'
        'from jepa_arm.ros.graph.supervisor import Supervisor\n'
        'nodes = SimulationGraph(with_planner=False).nodes\n'
        'graph = Supervisor(nodes, log_dir=Path(sys.argv[1]))\n'
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
    code = f'print(flush=True); from jepa_arm.ros.executables import {name}; {name}()'
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
        'from jepa_arm.ros.runtime.environment import end_with_this_process\n'
        'env = {**os.environ, **end_with_this_process()}\n'
        'command = [sys.executable, "-m", "jepa_arm.ros.guard.node"]\n'
        'print(subprocess.Popen(command, env=env).pid, flush=True)\n'
        'time.sleep(60)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert wait_gone([child])


@pytest.mark.extended
def test_two_arms_in_two_namespaces_do_not_know_of_each_other(tmp_path):
    """One is commanded by velocities, the other by positions."""
    controllers = {'left': 'forward_velocity', 'right': 'forward_position'}
    with ExitStack() as stack:
        graphs, clients = {}, {}
        for space, controller in controllers.items():
            nodes = SimulationGraph(namespace=space, controller=controller).nodes
            nodes = planner_with(nodes, planner_config=quick_planner(tmp_path))
            graphs[space] = stack.enter_context(Supervisor(nodes, space, tmp_path / space))
        for space, graph in graphs.items():
            graph.wait_ready()
            clients[space] = stack.enter_context(GraphClient.connect('tester', space))
        topics = dict(clients['left'].node.get_topic_names_and_types())
        assert {'/left/clock', '/right/clock'} <= set(topics)
        for mover, other in (clients.values(), reversed(clients.values())):
            for client in (mover, other):
                client.wait(lambda client=client: speed(client) < 1e-3, 'rest')
            start, rest = position(mover), position(other)
            goal = mover.send_goal(PositionGoal('tip', np.array([0.45, 0.20, 0.10])), 1e-4)
            mover.wait(
                lambda start=start, mover=mover: np.abs(position(mover) - start).max() > 0.1,
                'motion',
            )
            goal.cancel()
            assert goal.result().outcome == 'CANCELED'
            assert np.abs(position(other) - rest).max() < 1e-3
    for graph in graphs.values():
        assert graph.exit_codes == {'planner': 0, 'guard': 0, 'sim': 0}


def position(client):
    return np.array(client.joints.position)


def speed(client):
    return np.inf if client.joints is None else np.abs(client.joints.velocity).max()


@pytest.mark.extended
def test_the_reference_of_the_nodes_is_up_to_date():
    """If not, run docs/node_reference.py."""
    module = runpy.run_path(str(Path(__file__).parents[2] / 'docs/node_reference.py'))
    assert module['reference']() == module['PAGE'].read_text()
