"""Faults of processes and inputs: second guard, termination, overrun, wrong checkpoint or goal."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import GuardState
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC, EXIT_BAD_SETTING

from .scenarios import FaultResult, Scenario, measure, moves_again
from .testbed import FaultTestbed

REFUSAL_S = 60.0
"""Longest wait (s) for a process that must end by itself."""
PAUSE_S, RUN_S, PAUSES = 0.12, 0.02, 7
"""Duration (s) of a pause of the planner's process, of the run after it, and number of pauses."""
OVERRUN = 'diagnostics planner: planning overran'
UNREACHABLE_POSITION = (0.50, 0.0, 0.20)
"""Position (m) in the air, where no object can be pushed."""
GIVE_UP_S = 30.0
BEFORE_END_S, AFTER_END_S, STILL_M = 0.4, 0.5, 0.005
"""Interval (s) around the end of an abandoned goal, and the tip's largest motion (m) in it."""
EXIT_S = 8.0


def second_guard(testbed: FaultTestbed) -> FaultResult:
    """Start a second guard, which must refuse to run beside the first."""
    onset, node = monotonic(), testbed.client.node
    second = _start_node('guard', f'arm:={testbed.arm_name}', 'use_sim_time:=true', name='guard_2')
    publishers = 1
    try:
        while second.poll() is None and monotonic() - onset < REFUSAL_S:
            publishers = max(publishers, node.count_publishers(COMMAND_TOPIC))
            sleep(0.01)
        testbed.start_moving()
    finally:
        second.kill()
    result = measure(testbed, onset)
    _expect_refusal(result, second, 'another guard')
    result.expect(publishers == 1, 'the second would have published commands')
    is_following = testbed.state() is GuardState.FOLLOWING
    result.expect(is_following, f'the first stopped: {testbed.reported_reasons(onset)}')
    return result


def overrun(testbed: FaultTestbed) -> FaultResult:
    """Pause the planner's process several times in a row, so that planning takes too long."""
    testbed.start_moving()
    onset = testbed.signal('planner', signal.SIGSTOP)
    for _ in range(PAUSES):
        sleep(PAUSE_S)
        testbed.signal('planner', signal.SIGCONT)
        sleep(RUN_S)
        testbed.signal('planner', signal.SIGSTOP)
    testbed.signal('planner', signal.SIGCONT)

    def is_reported() -> bool:
        return any(r.startswith(OVERRUN) for r in testbed.reported_reasons(onset))

    testbed.becomes(is_reported, 3.0)
    result = measure(testbed, onset)
    result.reasons, result.after = testbed.reported_reasons(onset), 'continues'
    result.expect(is_reported(), f'expected the reason {OVERRUN!r}, got {result.reasons}')
    is_latched = testbed.state() is GuardState.LATCHED
    result.expect(not is_latched, 'latched')
    if not is_latched and not moves_again(testbed):
        testbed.start_moving()
    return result


def wrong_checkpoint(key: str, value: str | float) -> Scenario:
    """Return the scenario of a second planner that gets the model of another robot.

    Args:
        key: dotted path of the changed entry in the checkpoint's contract. value: its new value.
    """

    def run(testbed: FaultTestbed) -> FaultResult:
        result = FaultResult()
        with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
            copy = shutil.copytree(testbed.checkpoint, Path(folder) / 'other')
            config = json.loads((copy / 'config.json').read_text())
            part = config['contract']
            *path, last = key.split('.')
            for name in path:
                part = part[name]
            part[last] = value
            (copy / 'config.json').write_text(json.dumps(config))
            process = _start_node('planner', f'checkpoint:={copy}', name='planner_2')
            try:
                process.wait(REFUSAL_S)
            except subprocess.TimeoutExpired:
                process.kill()
            _expect_refusal(result, process, key)
        testbed.start_moving()
        return result

    return Scenario(f'ends with 1 and names {key}; the running planner is not disturbed', run)


def unreachable_goal(testbed: FaultTestbed) -> FaultResult:
    """Send a goal that would have the object in the air."""
    position = PositionGoal('object', np.array(UNREACHABLE_POSITION))
    goal = testbed.client.send_goal(position, tolerance=0.01, timeout=60.0)
    outcome = testbed.outcome(goal, GIVE_UP_S)
    end = monotonic()
    sleep(AFTER_END_S)
    result = measure(testbed, end - BEFORE_END_S)
    result.reasons, result.after = [f'goal: {outcome}'], 'ended'
    result.expect(outcome.startswith('UNREACHABLE'), outcome)
    motion = f'{result.distance_m * 100:.1f} cm of motion around the end'
    result.expect(result.distance_m <= STILL_M, motion)
    return result


def termination(names: tuple[str, ...], number: signal.Signals) -> Scenario:
    """Return the scenario of nodes that are terminated while the arm moves.

    Args:
        names: names of the nodes, terminated one after the other.
        number: signal that terminates them.
    """

    def run(testbed: FaultTestbed) -> FaultResult:
        goal, codes = testbed.start_moving(), dict[str, int | None]()
        onset = monotonic()
        for name in names:
            process = testbed.graph.processes[name]
            testbed.signal(name, number)
            try:
                codes[name] = process.wait(EXIT_S)
            except subprocess.TimeoutExpired:
                codes[name] = None
            sleep(0.1)
        result = measure(testbed, onset, by_joints=True)
        result.expect_delays(0.3, 0.5)
        result.expect(all(code == 0 for code in codes.values()), f'exit codes {codes}')
        result.reasons, result.after = testbed.reported_reasons(onset), 'ended with 0'
        if goal.is_done:
            result.reasons.append(f'goal: {testbed.outcome(goal)}')
        testbed.restore()
        return result

    return Scenario('stop within 300 ms, rest within 500 ms; every process ends with 0', run)


def _start_node(module: str, *parameters: str, name: str) -> subprocess.Popen[str]:
    """Start another node beside those of the graph."""
    command = [sys.executable, '-m', f'jepa_arm.ros.{module}.node', '--ros-args']
    command += ['-r', f'__node:={name}']
    for parameter in parameters:
        command += ['-p', parameter]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _expect_refusal(result: FaultResult, process: subprocess.Popen[str], reason: str) -> None:
    """Expect that an ended node has refused a setting, with ``reason`` in its last line."""
    lines = (process.communicate()[1] or '').strip().splitlines()
    message = lines[-1] if lines else ''
    is_refused = process.returncode == EXIT_BAD_SETTING and reason in message
    result.expect(is_refused, f'the second node ended with {process.returncode}: {message}')
    result.reasons, result.after = [message], 'refused'
