"""Evaluation report: success rates, times and latencies, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jepa_arm.sim.tasks import Task

from .episode import EpisodeRecord

CURVE_CM = (1, 2, 3, 4)
"""The share of episodes that end within these distances is reported besides the success rate."""


def summarise(
    results: list[EpisodeRecord],
    task: Task,
    planner: str,
    seed: int,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the report of ``results``: success with Wilson interval, times, latencies.

    Args:
        results: records of the episodes.
        task: task of the episodes.
        planner: name of the planner.
        seed: see ``EvaluationSettings``.
        rates: success rates of 'random' and 'scripted' in the same scenes, if known.
    """
    rates = rates or {}
    wins = sum(r.success for r in results)
    times = [r.time_s for r in results if r.success]
    untouched = [not r.touched for r in results] if task.config.obstacles else []
    yaw_errors = None
    if task.config.yaw_tolerance_deg is not None:
        yaw_errors = percentiles([float(np.degrees(r.yaw_errors[-1])) for r in results])
    return {
        'task': task.config.name,
        'planner': planner,
        'episodes': len(results),
        'seed': seed,
        'tolerance_cm': task.config.tolerance * 100.0,
        'success_rate': wins / len(results),
        'wilson95': list(wilson(wins, len(results))),
        'untouched_rate': float(np.mean(untouched)) if untouched else None,
        'untouched_wilson95': list(wilson(sum(untouched), len(results))) if untouched else None,
        'random_rate': rates.get('random'),
        'scripted_rate': rates.get('scripted'),
        'median_time_s': float(np.median(times)) if times else None,
        'distance_cm': percentiles([100.0 * r.distance for r in results]),
        'yaw_tolerance_deg': task.config.yaw_tolerance_deg,
        'yaw_error_deg': yaw_errors,
        'ended_within': {
            str(cm): sum(r.distance <= cm / 100.0 for r in results) / len(results)
            for cm in CURVE_CM
        },
        'plan_ms': percentiles([ms for r in results for ms in r.plan_ms]),
        'obs_to_command_ms': percentiles([ms for r in results for ms in r.command_ms]),
        'limit_violations': sum(r.limit_violations for r in results),
        'measured_violations': sum(r.measured_violations for r in results),
        'failed_seeds': [r.seed for r in results if not r.success],
    }


def format_report(report: dict[str, Any]) -> str:
    """Return the report as a table for a terminal."""
    low, high = report['wilson95']

    def spread(value: Mapping[str, float | None], unit: str) -> str:
        return '–' if value['p50'] is None else f'{value["p50"]:.1f} / {value["p99"]:.1f} {unit}'

    untouched = '–'
    if report.get('untouched_rate') is not None:
        least, most = report['untouched_wilson95']
        untouched = f'{report["untouched_rate"]:.1%}  [{least:.1%}, {most:.1%}]'
    tolerance, yaw = f'{report["tolerance_cm"]:g} cm', report.get('yaw_error_deg')
    if yaw is not None:
        tolerance += f' and {report["yaw_tolerance_deg"]:g} degrees'
    rows = [
        ('task', f'{report["task"]} within {tolerance}'),
        ('success', f'{report["success_rate"]:.1%}  [{low:.1%}, {high:.1%}]  '
                    f'n={report["episodes"]} seed={report["seed"]}'),
        ('random floor', format_number(report['random_rate'], '.0%')),
        ('scripted ceiling', format_number(report['scripted_rate'], '.0%')),
        ('median time', format_number(report['median_time_s'], '.1f', ' s')),
        ('distance at end', spread(report['distance_cm'], 'cm (p50 / p99)')),
        ('yaw error at end', '–' if yaw is None else spread(yaw, 'degrees (p50 / p99)')),
        ('ended within', ', '.join(f'{cm} cm {within:.0%}'
                                   for cm, within in report['ended_within'].items())),
        ('touched nothing', untouched),
        ('plan p50 / p99', spread(report['plan_ms'], 'ms')),
        ('image to command', spread(report['obs_to_command_ms'], 'ms')),
        ('limit violations', f'{report["limit_violations"]} of commands, '
                             f'{report["measured_violations"]} of measured joints'),
    ]  # fmt: skip
    return '\n'.join(f'{name:18s} {value}' for name, value in rows)


def wilson(wins: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; 95 % by default."""
    share = wins / count
    centre = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return float((centre - half) / scale), float((centre + half) / scale)


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return the median ``p50`` and the 99th percentile ``p99``; both None without ``values``."""
    found = np.percentile(values, (50, 99)).round(3).tolist() if values else (None, None)
    return dict(zip(('p50', 'p99'), found, strict=True))


def format_number(value: float | None, spec: str, unit: str = '') -> str:
    """Return ``value`` in the format ``spec`` with its ``unit``, a dash for None."""
    return '–' if value is None else f'{value:{spec}}{unit}'


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
