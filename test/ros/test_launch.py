"""The graph as users start it: by ros2 launch where that is installed, else by jepa-arm up.

Both read one description of it. The summary of the tests says which of them ran.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from jepa_arm_msgs.action import MoveToGoal
from lifecycle_msgs.srv import GetState
from planner_bench import pose
from rclpy.action import ActionClient

from jepa_arm.ros.graph.description import MIN_UPTIME_S

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


def descendants(pid):
    """Process ids below ``pid``, by the names of the nodes that they run."""
    parents, lines = {}, {}
    for folder in Path('/proc').iterdir():
        if folder.name.isdigit():
            try:
                child = int(folder.name)
                parents[child] = int((folder / 'stat').read_text().rsplit(')', 1)[1].split()[1])
                lines[child] = (folder / 'cmdline').read_text().replace('\0', ' ')
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {}
    for child, line in lines.items():
        above = child
        while above in parents and above != pid:
            above = parents[above]
        for name in ('sim', 'guard', 'planner'):
            if above == pid and (
                f'jepa_arm.ros.{name}.node ' in line or f'__node:={name} ' in line
            ):
                found[name] = child
    return found


def state(harness, node):
    return harness.call(GetState, f'{node}/get_state').current_state.label


def test_a_goal_is_reached_a_planner_comes_again_inactive_and_nothing_outlives_the_guard(
    harness, start_command, tmp_path
):
    with (tmp_path / 'log').open('w') as log:
        graph = subprocess.Popen(
            start_command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    client = harness.execute(lambda: ActionClient(harness.node, MoveToGoal, 'move_to_goal'))
    try:
        harness.wait(lambda: state(harness, 'planner') == 'active', 'the planner')
        goal = MoveToGoal.Goal(goal=pose(0.45, 0.15, 0.15), timeout=10.0)
        assert client.wait_for_server(20.0)
        sent = client.send_goal_async(goal)
        harness.wait(sent.done, 'acceptance')
        result = sent.result().get_result_async()
        harness.wait(result.done, 'result')
        assert result.result().result.outcome == MoveToGoal.Result.SUCCEEDED

        nodes = descendants(graph.pid)
        assert set(nodes) == {'sim', 'guard', 'planner'}
        time.sleep(MIN_UPTIME_S / 2.0)  # what ends in its start would end there again
        os.kill(nodes['planner'], signal.SIGKILL)
        harness.wait(
            lambda: descendants(graph.pid).get('planner', nodes['planner']) != nodes['planner'],
            'another planner',
        )
        harness.wait(lambda: state(harness, 'planner') == 'inactive', 'its readiness')

        os.kill(nodes['guard'], signal.SIGKILL)
        assert graph.wait(20.0) == 1
        assert not descendants(graph.pid), (tmp_path / 'log').read_text()
    finally:
        if graph.poll() is None:
            graph.terminate()
            graph.wait(20.0)
        harness.execute(client.destroy)
