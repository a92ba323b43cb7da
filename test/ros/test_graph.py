"""What starts and ends the processes leaves none behind and says what went wrong."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jepa_arm.nodes.graph import GraphError, NodeSpec, Supervisor, simulation

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


def test_the_death_of_a_node_is_noticed_with_its_exit_code(tmp_path):
    with Supervisor(SPECS, log_dir=tmp_path) as graph:
        graph.wait_ready()
        os.kill(graph.processes['guard'].pid, signal.SIGKILL)
        assert graph.watch(5.0) == 'guard'
        assert graph.exit_codes['guard'] == -signal.SIGKILL
        graph.start_node('guard')
        graph.wait_ready()
    assert graph.exit_codes['guard'] == 0


def test_a_process_that_ignores_signals_is_killed(tmp_path):
    with Supervisor(SPECS[:1], log_dir=tmp_path) as graph:
        graph.wait_ready()
        os.kill(graph.processes['sim'].pid, signal.SIGSTOP)
        began = time.monotonic()
    assert graph.exit_codes['sim'] == -signal.SIGKILL and time.monotonic() - began < 12.0


def test_a_node_that_cannot_start_is_named_with_its_last_words(tmp_path):
    bad = NodeSpec('sim', {'task': 'nonesuch'}, 'joint_states')
    with Supervisor([bad], log_dir=tmp_path) as graph:
        with pytest.raises(GraphError, match=r'sim ended with exit code 1:\n(.*\n)*.*nonesuch'):
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


def test_no_process_outlives_the_one_that_started_it(tmp_path):
    code = (
        'import sys, time\n'
        'from pathlib import Path\n'
        'from jepa_arm.nodes.environment import prepare_ros\n'
        'prepare_ros()\n'
        'from jepa_arm.nodes.graph import Supervisor, simulation\n'
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
