"""How decisions made anew differ from those recorded: per decision, per goal, and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arm import Arm
from .data.recording import Asked, Recording
from .goals import HOLD_STEPS, PositionGoal
from .replay import Redone

TOLERANCE_CM = 0.1
"""Distance at the tip up to which two decisions are equal."""
MIN_EQUAL = 0.95
"""Share of equal decisions above which two planners decide alike."""
MIN_COMPARED = 0.5
"""Share of the decisions, without those that may differ, that is needed to judge planners."""
TIME_SLACK_S = 1e-6
PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Difference:
    """Of two proposals for one observation, the largest over the waypoints that both have.

    Attributes:
        rad: of a joint. tip_cm: of the tip. Both are infinite where one proposal is missing, or
            no waypoint is of the same time.
    """

    rad: float = np.inf
    tip_cm: float = np.inf


def difference(redone: Redone, arm: Arm) -> Difference:
    """How the new proposal differs from the recorded one."""
    old = redone.step.proposal
    new = None if redone.decision is None else redone.decision.proposal
    if old is None or new is None or sorted(old.joint_names) != sorted(new.joint_names):
        return Difference()
    names = list(arm.joint_names)
    a, b = ([list(p.joint_names).index(n) for n in names] for p in (old, new))
    pairs = [
        (old.positions[i, a], new.positions[j, b])
        for i, early in enumerate(old.times)
        for j, late in enumerate(new.times)
        if abs(early - late) < TIME_SLACK_S
    ]
    if not pairs:
        return Difference()
    rad = max(float(np.abs(p - q).max()) for p, q in pairs)
    tips = [arm.tip_position(p) - arm.tip_position(q) for p, q in pairs]
    return Difference(rad, max(float(np.linalg.norm(tip)) for tip in tips) * 100.0)


def compare(
    recording: Recording,
    redone: Sequence[Redone],
    read: Sequence[PositionGoal | str],
    arm: Arm,
    tolerance_cm: float = TOLERANCE_CM,
    min_equal: float = MIN_EQUAL,
) -> dict[str, Any]:
    """The report; ``passed`` says whether enough decisions are equal and all goals end alike.

    Of decisions that may differ though the planners are alike only the equal ones are counted.

    Args:
        recording: what was replayed. redone: its steps, decided anew.
        read: what its goals were read into.
        arm: for where the tip is.
        tolerance_cm: at the tip, up to which two decisions are equal.
        min_equal: share of equal decisions that is enough.
    """
    both = [(r, difference(r, arm)) for r in redone if r.is_compared]
    equal = sum(d.tip_cm <= tolerance_cm for _, d in both)
    excused = [(r, d) for r, d in both if r.excuse and d.tip_cm > tolerance_cm]
    compared = [r for r, d in both if not (r.excuse and d.tip_cm > tolerance_cm)]
    found = [d for r, d in both if not (r.excuse and d.tip_cm > tolerance_cm)]
    goals = [
        _goal(asked, goal, [r for r in redone if r.goal == i])
        for i, (asked, goal) in enumerate(zip(recording.goals, read, strict=False))
    ]
    is_enough = len(compared) >= max(1.0, MIN_COMPARED * len(both))
    alike = all(goal['alike'] for goal in goals)
    share = equal / len(compared) if compared else 0.0
    decided = [r.decision for r in compared if r.decision is not None and r.decision.plan]
    return {
        'steps': len(redone),
        'unplanned_images': len(recording.unplanned),
        'compared': len(compared),
        'equal': equal,
        'equal_share': round(share, 4),
        'excused': dict(Counter(r.excuse for r, _ in excused)),
        'missing': sum(not np.isfinite(d.tip_cm) for d in found),
        'problems': dict(Counter(r.problem for r in compared if r.problem)),
        'tip_cm': _spread([d.tip_cm for d in found]),
        'joints_rad': _spread([d.rad for d in found]),
        'distance_cm': _spread(
            [
                abs(r.decision.distance - r.step.distance) * 100.0
                for r in compared
                if r.decision is not None
            ]
        ),
        'plan_ms': {
            'recorded': _spread([r.step.plan_ms for r in compared]),
            'replayed': _spread([d.plan.latency_ms for d in decided if d.plan]),
        },
        'goals': goals,
        'tolerance_cm': tolerance_cm,
        'min_equal': min_equal,
        'is_enough': is_enough,
        'passed': is_enough and share >= min_equal and alike,
    }


def _goal(asked: Asked, goal: PositionGoal | str, steps: Sequence[Redone]) -> dict[str, Any]:
    """One goal, as recorded and anew; alike if both planners took it and saw it reached."""
    old = [r.step.distance for r in steps]
    new = [np.nan if r.decision is None else r.decision.distance for r in steps]
    is_taken = isinstance(goal, PositionGoal)
    read_cm = None
    if is_taken and asked.read_place is not None:
        read_cm = round(float(np.linalg.norm(goal.position - asked.read_place)) * 100.0, 3)
    reached = [_is_reached(distances, asked.reach) for distances in (old, new)]
    return {
        'subject': asked.subject,
        'steps': len(steps),
        'outcome': asked.outcome or 'not recorded',
        'reached': {'recorded': reached[0], 'replayed': reached[1]},
        'read_difference_cm': read_cm,
        'refused': '' if is_taken else goal,
        'alike': is_taken and reached[0] == reached[1],
    }


def _is_reached(distances: Sequence[float], reach: float) -> bool:
    """Whether ``HOLD_STEPS`` in a row are within ``reach``; the last of them ends a pursuit."""
    held = 0
    for distance in distances:
        held = held + 1 if distance <= reach else 0
        if held >= HOLD_STEPS:
            return True
    return False


def _spread(values: Sequence[float]) -> dict[str, float]:
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return {}
    found = np.percentile(finite, PERCENTILES)
    return {
        'max' if q == 100 else f'p{q}': float(f'{value:.4g}')
        for q, value in zip(PERCENTILES, found, strict=True)
    }


def format_replay(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    plan_ms = report['plan_ms']
    lines = [
        f'{report["equal"]} of {report["compared"]} decisions equal within '
        f'{report["tolerance_cm"]:g} cm at the tip ({report["equal_share"]:.1%}); '
        f'{report["steps"]} steps, {report["unplanned_images"]} images were not planned from',
        f'  tip, cm:        {_line(report["tip_cm"])}',
        f'  joints, rad:    {_line(report["joints_rad"])}',
        f'  distance, cm:   {_line(report["distance_cm"])}',
        f'  plan, ms:       {_line(plan_ms["replayed"])}; recorded: {_line(plan_ms["recorded"])}',
    ]
    for excuse, count in report['excused'].items():
        lines.append(f'  {count} others differ and are not counted: {excuse}')
    for problem, count in report['problems'].items():
        lines.append(f'  {count} steps without a decision: {problem}')
    for number, goal in enumerate(report['goals'], 1):
        reached = goal['reached']
        read = goal['read_difference_cm']
        apart = '' if read is None else f', read {read:.2f} cm from where it was read'
        lines.append(
            f'  goal {number}, {goal["subject"]}: {goal["outcome"]}, {goal["steps"]} steps, seen '
            f'reached: {_yes(reached["replayed"])}, recorded: {_yes(reached["recorded"])}{apart}'
            f'{"; refused: " + goal["refused"] if goal["refused"] else ""}'
        )
    if not report['compared'] and not report['excused']:
        lines.append('nothing to compare: every plan goes on from one before the recording')
    elif not report['is_enough']:
        lines.append('too few decisions are left to judge by')
    else:
        lines.append('the planners decide alike' if report['passed'] else 'the planners DIFFER')
    return '\n'.join(lines)


def _line(values: Mapping[str, float]) -> str:
    return ', '.join(f'{key} {value:g}' for key, value in values.items()) or 'none'


def _yes(value: bool) -> str:
    return 'yes' if value else 'no'
