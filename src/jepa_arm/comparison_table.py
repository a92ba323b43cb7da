"""The table of a comparison of planners, from the result files of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .evaluation_report import wilson

Result = dict[str, Any]

MAIN_CM = {
    'reach': 1.0,
    'push': 3.0,
    'push_long': 3.0,
    'push_yaw': 2.0,
    'avoid_reach': 1.0,
    'avoid_push': 3.0,
}
"""Tolerance at which times, paths and what a solved task costs are told."""
NOTES = """\
All planners meet the same scenes with the same weights; a row with fewer episodes has the first
of them. Success: the tolerance held for 3 control steps within the time limit, with 95 % Wilson
intervals. Time, path of the tip (medians of solved episodes) and what a solved task costs are
told at {main}. Simulated time stands still while a planner thinks, so its latency costs it
nothing here; all sweeps are made. The plan column (wall clock, p50 / p99) says what a robot
would wait; where other work shared the core, processor time is the better guess. That is of
whole decisions, encoding and belief included. Operations are matrix products and convolutions, a
multiplication and an addition counted as two. Memory is the peak of the whole process, simulator
and libraries included."""


def read_results(folder: Path) -> list[Result]:
    """What lies in ``folder``, one result a planner and task.

    Raises:
        OSError: no such folder, or a file that cannot be read.
        ValueError: a file that is not JSON.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'no folder {folder}: expected results of jepa-arm bench peers')
    return [json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))]


def summarise(result: Result) -> dict[str, Any]:
    """The figures of one run that has episodes; names end in their unit."""
    task, episodes = result['settings']['task'], result['episodes']
    main, dt = f'{MAIN_CM[task]:g}', result['control_dt']
    solved = [e for e in episodes if e['held_s'][main] is not None]
    figures: dict[str, Any] = {
        'task': task,
        'planner': result['settings']['planner'],
        'title': result['title'],
        'cost': result['cost'],
        'package': result['settings']['package'],
        'episodes': len(episodes),
        'refused': sum(e.get('is_refused', False) for e in episodes),
        'success': {key: _share(episodes, key) for key in episodes[0]['held_s']},
        'time_s': _median([e['held_s'][main] for e in solved]),
        'tip_path_cm': _median([100.0 * e['tip_path_m'][main] for e in solved]),
        'machine': result['machine'],
    }
    planned = [e for e in episodes if e.get('plan_ms')]
    decisions = sum(len(e['plan_ms']) for e in planned)
    if not decisions:
        return figures
    # an episode goes on to the tightest tolerance; what comes after the main one is not charged
    charged = sum(
        len(e['plan_ms']) if e['held_s'][main] is None else round(e['held_s'][main] / dt)
        for e in planned
    )
    per_solved = charged / len(solved) if solved else None
    plan_ms = [ms for e in planned for ms in e['plan_ms']]
    processor_s = sum(e['processor_s'] for e in planned) / decisions
    gflop = result['gflop_per_decision']
    figures |= {
        'candidates': sum(e['candidates'] for e in planned) / decisions,
        'plan_ms': [float(np.percentile(plan_ms, q)) for q in (50, 99)],
        'processor_s_per_decision': processor_s,
        'processor_s_per_solved': per_solved and per_solved * processor_s,
        'gflop_per_decision': gflop,
        'gflop_per_solved': per_solved and per_solved * gflop,
        'peak_memory_mb': result['peak_memory_mb'],
    }
    joules = [e['joules'] for e in planned]
    if None not in joules:
        figures['joules_per_decision'] = sum(joules) / decisions
        figures['joules_per_solved'] = per_solved and per_solved * sum(joules) / decisions
    return figures


def format_table(results: list[Result], left_out: dict[str, str]) -> str:
    """Markdown: a table a task, a line a planner in the order of ``results``."""
    parts, mains = [], []
    for task, cm in MAIN_CM.items():
        rows = [summarise(r) for r in results if r['settings']['task'] == task and r['episodes']]
        if rows:
            parts += [f'### {task}', '', *_table(rows), '']
            mains.append(f'{cm:g} cm ({task})')
    parts.append(NOTES.format(main=', '.join(mains)))
    parts += [f'Left out: {title}: {reason}' for title, reason in left_out.items()]
    machines = sorted({r['machine'] for r in results})
    return '\n'.join([*parts, f'Machine: {"; ".join(machines)}'])


def _table(rows: list[dict[str, Any]]) -> list[str]:
    tolerances = list(rows[0]['success'])
    names = [
        'planner', 'cost', 'n', *(f'≤ {cm} cm' for cm in tolerances), 'time, s', 'path, cm',
        'candidates', 'plan, ms', 'processor, s', 'a solved task', 'GFLOP', 'a solved task',
        'memory, MB',
    ]  # fmt: skip
    lines = ['| ' + ' | '.join(names) + ' |', '|---' * len(names) + '|']
    for row in sorted(rows, key=_order):
        n = f'{row["episodes"]}' + (f' ({row["refused"]} refused)' if row['refused'] else '')
        plan = row.get('plan_ms')
        cells = [
            f'{row["package"]} {row["title"]}'.strip(),
            row['cost'],
            n,
            *(_rate(row['success'][cm]) for cm in tolerances),
            _number(row['time_s'], '.1f'),
            _number(row['tip_path_cm'], '.0f'),
            _number(row.get('candidates'), '.0f'),
            f'{plan[0]:.1f} / {plan[1]:.1f}' if plan else '–',
            _number(row.get('processor_s_per_decision'), '.4f'),
            _number(row.get('processor_s_per_solved'), '.2f'),
            _number(row.get('gflop_per_decision'), '.3f'),
            _number(row.get('gflop_per_solved'), '.1f'),
            _number(row.get('peak_memory_mb'), '.0f'),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return lines


def _order(row: dict[str, Any]) -> tuple[bool, bool, str, str]:
    is_policy = 'plan_ms' not in row
    return is_policy, bool(row['package']), row['package'], row['planner']


def _share(episodes: list[dict[str, Any]], key: str) -> dict[str, float]:
    wins = sum(e['held_s'][key] is not None for e in episodes)
    low, high = wilson(wins, len(episodes))
    return {'wins': wins, 'rate': wins / len(episodes), 'low': low, 'high': high}


def _rate(share: dict[str, float]) -> str:
    low, high = max(share['low'], 0.0), share['high']
    return f'{share["rate"]:.0%} [{100 * low:.0f}–{100 * high:.0f}]'


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _number(value: float | None, form: str) -> str:
    return '–' if value is None else format(value, form)
