"""Faults of whole processes: started twice, ended in motion, slow, given the wrong files."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from ..goals import PositionGoal
from ..types import GuardState
from . import conversions as convert
from .description import SETTING_REFUSED
from .fault_scenarios import Trial, late, measure, moves_again
from .fault_stage import Stage
from .parameters import COMMAND_TOPIC

REFUSES_S = 60.0
"""Longest wait for a process that is to end by itself."""
PULSE_S, BETWEEN_S, PULSES = 0.12, 0.02, 7
"""How the planner is slowed down: stopped for a while, again and again."""
IN_THE_AIR = (0.50, 0.0, 0.20)
"""m, where nothing can be pushed to."""
GIVES_UP_S = 30.0
LAST_S, RESTS_S, STILL_M = 0.4, 0.5, 0.005
"""Before and after a goal is given up: the tip goes no farther than that in that time."""
ENDS_S = 8.0


class SecondGuard:
    """Another guard is started beside the first."""

    expected = (
        f'the second ends with {SETTING_REFUSED}, says why, commands nothing; the first goes on'
    )

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        onset = monotonic()
        second = _start('guard', f'arm:={stage.arm_name}', 'use_sim_time:=true', name='guard_2')
        publishers = 1
        try:
            while second.poll() is None and monotonic() - onset < REFUSES_S:
                publishers = max(publishers, stage.client.node.count_publishers(COMMAND_TOPIC))
                sleep(0.01)
            stage.go()
        finally:
            second.kill()
        said = _last_words(second)
        trial = measure(stage, onset)
        problems = list(trial.problems)
        if second.returncode != SETTING_REFUSED or 'another guard' not in said:
            problems.append(f'the second ended with {second.returncode}: {said}')
        if publishers > 1:
            problems.append('the second would have published commands')
        if stage.state() != GuardState.FOLLOWING.value:
            problems.append(f'the first stopped: {stage.said(onset)}')
        return replace(trial, reasons=(said,), after='refused', problems=tuple(problems))


class Overrun:
    """The planner gets the processor too late, several times in a row."""

    expected = 'limits kept; says that planning overran; goes on by itself'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        stage.go()
        onset = stage.signal('planner', signal.SIGSTOP)
        for _ in range(PULSES):
            sleep(PULSE_S)
            stage.signal('planner', signal.SIGCONT)
            sleep(BETWEEN_S)
            stage.signal('planner', signal.SIGSTOP)
        stage.signal('planner', signal.SIGCONT)
        said = 'diagnostics planner: planning overran'
        stage.holds(lambda: any(w.startswith(said) for w in stage.said(onset)), 3.0)
        trial = measure(stage, onset)
        problems, heard = list(trial.problems), stage.said(onset)
        if not any(w.startswith(said) for w in heard):
            problems.append(f'expected the reason {said!r}, heard {heard}')
        if stage.state() == GuardState.LATCHED.value:
            problems.append('latched')
        elif not moves_again(stage):
            stage.go()
        return replace(trial, reasons=tuple(heard), after='goes on', problems=tuple(problems))


class WrongCheckpoint:
    """A planner is given a model of another robot."""

    def __init__(self, key: str, value: str | float) -> None:
        """The model says it was trained with ``value`` at the contract's ``key``."""
        self._key, self._value = key, value

    @property
    def expected(self) -> str:
        """What must happen, in words."""
        return f'ends with 1 and names {self._key}; the planner that runs is not disturbed'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
            copy = shutil.copytree(stage.checkpoint, Path(folder) / 'other')
            config = json.loads((copy / 'config.json').read_text())
            part = config['contract']
            *path, last = self._key.split('.')
            for name in path:
                part = part[name]
            part[last] = self._value
            (copy / 'config.json').write_text(json.dumps(config))
            process = _start('planner', f'checkpoint:={copy}', name='planner_2')
            try:
                process.wait(REFUSES_S)
            except subprocess.TimeoutExpired:
                process.kill()
            said = _last_words(process)
        problems = []
        if process.returncode != SETTING_REFUSED or self._key not in said:
            problems.append(f'ended with {process.returncode}: {said}')
        stage.go()
        return Trial(reasons=(said,), after='refused', problems=tuple(problems))


class Unreachable:
    """The object is to be where it cannot be pushed to."""

    expected = f'goal: UNREACHABLE; the arm rests from {LAST_S:g} s before'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        place = PositionGoal('object', np.array(IN_THE_AIR))
        goal = convert.position_goal_to_msg(place, '', convert.to_time(0.0))
        result = stage.send(goal, tolerance=0.01, timeout=60.0).get_result_async()
        outcome = stage.outcome(result, GIVES_UP_S)
        end = monotonic()
        stage.holds(lambda: False, RESTS_S)
        trial = measure(stage, end - LAST_S)
        problems = list(trial.problems)
        if not outcome.startswith('UNREACHABLE'):
            problems.append(outcome)
        if trial.travel_m > STILL_M:
            problems.append(f'{trial.travel_m * 100:.1f} cm of way around its end')
        return replace(
            trial, reasons=(f'goal: {outcome}',), after='ended', problems=tuple(problems)
        )


class Ended:
    """Processes are told to end while the arm moves."""

    def __init__(self, names: Sequence[str], number: signal.Signals) -> None:
        """Sends ``number`` to the nodes ``names``, each when the one before has ended."""
        self._names, self._number = names, number

    @property
    def expected(self) -> str:
        """What must happen, in words."""
        return 'stop within 300 ms, rest within 500 ms; every process ends with 0'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        result, codes = stage.go(), {}
        onset = monotonic()
        for name in self._names:
            stage.signal(name, self._number)
            try:
                codes[name] = stage.graph.processes[name].wait(ENDS_S)
            except subprocess.TimeoutExpired:
                codes[name] = None
            sleep(0.1)
        trial = measure(stage, onset, by_joints=True)
        problems = [*trial.problems, *late(trial, 0.3, 0.5)]
        wrong = {name: code for name, code in codes.items() if code != 0}
        if wrong:
            problems.append(f'exit codes {wrong}')
        reasons = [*stage.said(onset)]
        if result.done():
            reasons.append(f'goal: {stage.outcome(result, 0.1)}')
        stage.restore()
        return replace(
            trial, reasons=tuple(reasons), after='ended with 0', problems=tuple(problems)
        )


def _start(module: str, *parameters: str, name: str) -> subprocess.Popen[str]:
    """A further node beside those of the graph."""
    command = [sys.executable, '-m', f'jepa_arm.nodes.{module}', '--ros-args']
    command += ['-r', f'__node:={name}']
    for parameter in parameters:
        command += ['-p', parameter]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _last_words(process: subprocess.Popen[str]) -> str:
    """The last line that a process wrote to its error output."""
    lines = (process.communicate()[1] or '').strip().splitlines()
    return lines[-1] if lines else ''
