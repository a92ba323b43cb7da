"""Table of a planner comparison, from the result files of its runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from jepa_arm.evaluation.report import format_number, markdown_table, wilson

TOLERANCES_CM = {
    'reach': (1.0, (1.0, 2.0)),
    'push': (3.0, (2.0, 3.0, 4.0)),
    'push_long': (3.0, (3.0, 4.0)),
    'push_yaw': (2.0, (2.0, 3.0, 4.0)),
    'avoid_reach': (1.0, (1.0, 2.0)),
    'avoid_push': (3.0, (3.0, 4.0)),
}
"""By task: the main tolerance, which defines a solved task and its time, path and cost, and all
tolerances at which success is reported.

An episode ends when the tightest tolerance has been held, or at the time limit. A task with a
goal yaw requires this yaw at every tolerance.
"""
NOTES = """\
All planners meet the same scenes with the same weights; a row with fewer episodes has the first
of them. Success: the tolerance held for 3 control steps within the time limit, with 95 % Wilson
intervals. Time, path of the tip (medians of solved episodes) and the cost of a solved task are
those at {main}. Simulated time stands still while a planner computes, so its latency costs
nothing here, and all iterations are made. The plan column (wall clock, p50 / p99) is the wait on a
robot; if other work shared the core, processor time is the better measure. It covers whole
decisions, encoding and belief included. Operations are matrix products and convolutions, a
multiplication and an addition counted as two. Memory is the peak of the whole process, simulator
and libraries included."""


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a run with at least one episode; names end in their unit."""
    task, episodes = result['settings']['task'], result['episodes']
    main, dt = f'{TOLERANCES_CM[task][0]:g}', result['control_dt']
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
    # Episodes continue to the tightest tolerance; decisions after the main one are not charged.
    charged_decisions = sum(
        len(e['plan_ms']) if e['held_s'][main] is None else round(e['held_s'][main] / dt)
        for e in planned
    )
    plan_ms = [ms for e in planned for ms in e['plan_ms']]
    per_decision = {
        'processor_s': sum(e['processor_s'] for e in planned) / decisions,
        'gflop': result['gflop_per_decision'],
    }
    joules = [e['joules'] for e in planned]
    if None not in joules:
        per_decision['joules'] = sum(joules) / decisions
    for name, value in per_decision.items():
        figures[f'{name}_per_decision'] = value
        figures[f'{name}_per_solved'] = value * charged_decisions / len(solved) if solved else None
    return figures | {
        'candidates': sum(e['candidates'] for e in planned) / decisions,
        'plan_ms': [float(np.percentile(plan_ms, q)) for q in (50, 99)],
        'peak_memory_mb': result['peak_memory_mb'],
    }


def format_comparison(results: list[dict[str, Any]], left_out: dict[str, str]) -> str:
    """Return Markdown: one table per task, one line per planner, notes below.

    Args:
        results: results of all runs.
        left_out: by name of each planner that could not run, the reason.
    """
    parts, mains = [], []
    for task, (cm, _) in TOLERANCES_CM.items():
        rows = [summarise(r) for r in results if r['settings']['task'] == task and r['episodes']]
        if rows:
            parts += [f'### {task}', '', _format_rows(rows), '']
            mains.append(f'{cm:g} cm ({task})')
    parts.append(NOTES.format(main=', '.join(mains)))
    parts += [f'Left out: {title}: {reason}' for title, reason in left_out.items()]
    machines = sorted({r['machine'] for r in results})
    return '\n'.join([*parts, f'Machine: {"; ".join(machines)}'])


def _format_rows(rows: list[dict[str, Any]]) -> str:
    tolerances = list(rows[0]['success'])
    names = [
        'planner', 'cost', 'n', *(f'≤ {cm} cm' for cm in tolerances), 'time, s', 'path, cm',
        'candidates', 'plan, ms', 'processor, s', 'per solved task', 'GFLOP', 'per solved task',
        'memory, MB',
    ]  # fmt: skip
    cells = []
    for row in sorted(rows, key=_sort_key):
        plan = row.get('plan_ms')
        cells.append([
            f'{row["package"]} {row["title"]}'.strip(),
            row['cost'],
            f'{row["episodes"]}' + (f' ({row["refused"]} refused)' if row['refused'] else ''),
            *(_format_share(row['success'][cm]) for cm in tolerances),
            format_number(row['time_s'], '.1f'),
            format_number(row['tip_path_cm'], '.0f'),
            format_number(row.get('candidates'), '.0f'),
            f'{plan[0]:.1f} / {plan[1]:.1f}' if plan else '–',
            format_number(row.get('processor_s_per_decision'), '.4f'),
            format_number(row.get('processor_s_per_solved'), '.2f'),
            format_number(row.get('gflop_per_decision'), '.3f'),
            format_number(row.get('gflop_per_solved'), '.1f'),
            format_number(row.get('peak_memory_mb'), '.0f'),
        ])  # fmt: skip
    return markdown_table(names, cells)


def _sort_key(row: dict[str, Any]) -> tuple[bool, bool, str, str]:
    is_policy = 'plan_ms' not in row
    return is_policy, bool(row['package']), row['package'], row['planner']


def _share(episodes: list[dict[str, Any]], key: str) -> dict[str, float]:
    wins = sum(e['held_s'][key] is not None for e in episodes)
    low, high = wilson(wins, len(episodes))
    return {'wins': wins, 'rate': wins / len(episodes), 'low': low, 'high': high}


def _format_share(share: dict[str, float]) -> str:
    low, high = max(share['low'], 0.0), share['high']
    return f'{share["rate"]:.0%} [{100 * low:.0f}–{100 * high:.0f}]'


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
