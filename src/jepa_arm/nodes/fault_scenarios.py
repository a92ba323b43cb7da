"""How a fault is tried: the arm moves, something breaks, what happens is measured and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic, sleep
from typing import Any

import numpy as np
from std_srvs.srv import Trigger

from ..fault_measures import Peaks, peaks, start_of_stop, time_to_hold, tip_travel
from ..types import GuardState
from .fault_stage import MOVING_RAD_S, Stage
from .graph import GraphError

AFTER_HOLD_S = 0.1
"""For which the arm is watched at rest before the fault is mended."""
STILL_S = 0.6
"""For which an arm that may not move by itself is watched."""
STILL_M = 0.003
MOVES_AGAIN_S = 5.0
SAID_S = 2.5
"""Longest wait for a reason: diagnostics come once a second."""


@dataclass(frozen=True)
class Trial:
    """What was measured of one fault, and what was wrong with it.

    Attributes:
        start_s, hold_s: from the onset to the start of the stop, and to rest; NaN: none.
        peaks: after the onset. travel_m: of the tip after the onset.
        reasons: that were reported. after: what became of it, in words.
        problems: what was not as expected; empty is a pass.
    """

    start_s: float = np.nan
    hold_s: float = np.nan
    peaks: Peaks = field(default_factory=Peaks)
    travel_m: float = np.nan
    reasons: tuple[str, ...] = ()
    after: str = ''
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stop:
    """A fault that stops the moving arm; calling it tries it.

    Attributes:
        inject: breaks something; returns when (monotonic s).
        says: beginnings of reasons that must be reported.
        start_s, hold_s: longest times from the onset to the start of the stop, and to rest.
        after: 'resumes' (goes on by itself once mended), 'new goal' (rests until told anew),
            'reset' or 'resume' (latched until that service of the guard is called).
        mend: ends the fault.
        before: prepares it, with the arm at rest.
        by: who moves the arm: 'goal' (the planner) or 'proposals' (the stage).
        by_joints: whether rest is measured on the joints, where commands cease.
        trusts_joints: whether measured joints tell where the arm is.
    """

    inject: Callable[[Stage], float]
    says: tuple[str, ...]
    start_s: float
    hold_s: float
    after: str = 'resumes'
    mend: Callable[[Stage], object] = lambda stage: None
    before: Callable[[Stage], object] = lambda stage: None
    by: str = 'goal'
    by_joints: bool = False
    trusts_joints: bool = True

    @property
    def expected(self) -> str:
        """What must happen, in words."""
        return (
            f'stop within {self.start_s * 1000:.0f} ms, rest within {self.hold_s * 1000:.0f} ms, '
            f'says {", ".join(self.says)}; then {AFTERWARDS[self.after]}'
        )

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        self.before(stage)
        result = stage.go() if self.by == 'goal' else stage.drive()
        onset = self.inject(stage)
        stage.holds(lambda: self._has_held(stage, onset, result), self.hold_s + 1.0)
        sleep(AFTER_HOLD_S)
        trial = measure(stage, onset, self.by_joints, self.trusts_joints)
        self.mend(stage)
        problem = AFTER[self.after](stage, self, result)
        heard = self._hear(stage, onset, result)
        problems = [*trial.problems, *late(trial, self.start_s, self.hold_s)]
        problems += [problem] if problem else []
        problems += [f'expected the reason {w!r}' for w in self.says if not _has(heard, w)]
        reasons = tuple(w for w in heard if w.startswith(self.says)) or tuple(heard)
        return replace(
            trial, reasons=reasons, after=AFTERWARDS[self.after], problems=tuple(problems)
        )

    def _has_held(self, stage: Stage, onset: float, result: Any) -> bool:
        is_over = 'reset' not in self.after or stage.state() == GuardState.LATCHED.value
        if self.after == 'reset or new goal' and result is not None:
            is_over = is_over or result.done()
        return is_over and bool(
            np.isfinite(time_to_hold(stage.recording(), onset, self.by_joints))
        )

    def _hear(self, stage: Stage, onset: float, result: Any) -> list[str]:
        """Waits for the reasons of the live graph; the goal's comes with its end."""
        live = [w for w in self.says if not w.startswith('goal')]
        stage.holds(lambda: all(_has(stage.said(onset), w) for w in live), SAID_S)
        heard = stage.said(onset)
        if result is not None and result.done():
            heard.append(f'goal: {stage.outcome(result, 0.1)}')
        return heard


def measure(
    stage: Stage, onset: float, by_joints: bool = False, trusts_joints: bool = True
) -> Trial:
    """The figures from ``onset`` (monotonic s) until now; limits that were crossed as problems.

    Args:
        stage: that recorded.
        onset: of the fault.
        by_joints: whether rest is measured on the joints, where commands cease.
        trusts_joints: whether measured joints tell where the arm is.
    """
    recording, until = stage.recording(), monotonic()
    paths = [(recording.command_at, recording.command_position)]
    if trusts_joints:
        paths.append((recording.joints_at, recording.joint_position))
    travel = max(tip_travel(*path, onset, until, stage.arm.tip_position) for path in paths)
    found = peaks(recording, onset, until, stage.arm, stage.time.stream_dt)
    return Trial(
        start_of_stop(recording, onset),
        time_to_hold(recording, onset, by_joints),
        found,
        travel,
        problems=tuple(found.crossed(by_joints)),
    )


def late(trial: Trial, start_s: float, hold_s: float) -> list[str]:
    """What took longer than it may: ``start_s`` to the start of the stop, ``hold_s`` to rest."""
    limits = (
        ('start of the stop', trial.start_s, start_s),
        ('rest', trial.hold_s, hold_s),
    )
    return [
        f'{name} after {value * 1000:.0f} ms' if np.isfinite(value) else f'no {name} was seen'
        for name, value, limit in limits
        if not value <= limit
    ]


def moves_again(stage: Stage) -> bool:
    """Whether the guard follows and the arm moves, by itself."""
    return stage.holds(
        lambda: stage.state() == GuardState.FOLLOWING.value and stage.speed() > MOVING_RAD_S / 2,
        MOVES_AGAIN_S,
    )


def stays_still(stage: Stage, seconds: float = STILL_S) -> bool:
    """Whether the tip is commanded to stay where it is."""
    start = stage.arm.tip_position(stage.command())

    def has_moved() -> bool:
        here = stage.arm.tip_position(stage.command())
        return float(np.linalg.norm(here - start)) > STILL_M

    return not stage.holds(has_moved, seconds)


def _after_resumes(stage: Stage, stop: Stop, result: Any) -> str:
    """The same goal, or the next good proposals, move the arm again."""
    if stop.by == 'goal':
        if moves_again(stage):
            return ''
        return f'does not go on by itself: {stage.outcome(result, 0.1)}'
    return _drives(stage)


def _after_new_goal(stage: Stage, stop: Stop, result: Any) -> str:
    """Nothing moves until a new goal."""
    if stop.by == 'goal':
        stage.holds(result.done, MOVES_AGAIN_S)
    if not stays_still(stage):
        return 'moves without a new goal'
    return _goes(stage)


def _after_reset(stage: Stage, stop: Stop, result: Any) -> str:
    """Latched: proposals move nothing until guard/reset."""
    if not stage.wait_state(GuardState.LATCHED):
        return 'is not latched'
    if stop.by == 'goal':
        stage.holds(result.done, MOVES_AGAIN_S)
    stage.propose(stage.proposal())
    if not stays_still(stage):
        return 'moves although it is latched'
    answer = stage.client.call(Trigger, 'guard/reset')
    return _goes(stage) if answer.success else f'guard/reset failed: {answer.message}'


def _after_either(stage: Stage, stop: Stop, result: Any) -> str:
    """Latched, or the goal has ended as what is seen surprises: somebody has to act."""
    if result is not None and not stage.wait_state(GuardState.LATCHED):
        outcome = stage.outcome(result, MOVES_AGAIN_S)
        if outcome.startswith('SURPRISED'):
            return _after_new_goal(stage, stop, result)
    return _after_reset(stage, stop, result)


def _after_resume(stage: Stage, stop: Stop, result: Any) -> str:
    """Held: proposals move nothing until guard/resume."""
    stage.propose(stage.proposal())
    if not stays_still(stage):
        return 'moves although it is held'
    answer = stage.client.call(Trigger, 'guard/resume')
    return _goes(stage) if answer.success else f'guard/resume failed: {answer.message}'


def _goes(stage: Stage) -> str:
    try:
        stage.go()
    except GraphError as error:
        return f'a new goal does not move it: {error}'
    return ''


def _drives(stage: Stage) -> str:
    try:
        stage.drive()
    except GraphError as error:
        return f'good proposals do not move it: {error}'
    return ''


def _has(heard: list[str], words: str) -> bool:
    return any(text.startswith(words) for text in heard)


AFTER = {
    'resumes': _after_resumes,
    'new goal': _after_new_goal,
    'reset': _after_reset,
    'reset or new goal': _after_either,
    'resume': _after_resume,
}
AFTERWARDS = {
    'resumes': 'goes on by itself',
    'new goal': 'moves on a new goal only',
    'reset': 'latched until guard/reset',
    'reset or new goal': 'latched until guard/reset, or the goal ended as SURPRISED',
    'resume': 'held until guard/resume',
}
