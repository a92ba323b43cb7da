"""The report of an evaluation: what its figures are worked out from, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .episode_result import EpisodeResult
from .resources import machine
from .sim.tasks import Task

CURVE_CM = (1, 2, 3, 4)
"""Distances at the end of an episode that are counted, whatever the tolerance."""


def summarise(
    results: list[EpisodeResult],
    task: Task,
    planner: str,
    episodes: int,
    seed: int,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Success with its Wilson interval, times and latencies of ``results``.

    ``rates`` are the success of 'random' and 'scripted' in the same scenes, where it is known.
    """
    rates = rates or {}
    wins = sum(r.success for r in results)
    times = [r.time_s for r in results if r.success]
    untouched = sum(not r.touched for r in results) if task.config.obstacles else None
    return {
        'task': task.config.name,
        'planner': planner,
        'episodes': episodes,
        'seed': seed,
        'tolerance_cm': task.config.tolerance * 100.0,
        'success_rate': wins / len(results),
        'wilson95': list(wilson(wins, len(results))),
        'untouched_rate': None if untouched is None else untouched / len(results),
        'untouched_wilson95': None if untouched is None else list(wilson(untouched, len(results))),
        'random_rate': rates.get('random'),
        'scripted_rate': rates.get('scripted'),
        'median_time_s': float(np.median(times)) if times else None,
        'distance_cm': _percentiles([100.0 * r.distance for r in results]),
        'yaw_tolerance_deg': task.config.yaw_tolerance_deg,
        'yaw_error_deg': _yaw_errors(results, task),
        'ended_within': {
            str(cm): sum(r.distance <= cm / 100.0 for r in results) / len(results)
            for cm in CURVE_CM
        },
        'plan_ms': _percentiles([ms for r in results for ms in r.plan_ms]),
        'obs_to_command_ms': _percentiles([ms for r in results for ms in r.command_ms]),
        'limit_violations': sum(r.limit_violations for r in results),
        'measured_violations': sum(r.measured_violations for r in results),
        'failed_seeds': [r.seed for r in results if not r.success],
        'machine': machine(),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as a small table for people."""
    low, high = report['wilson95']

    def share(value: float | None) -> str:
        return '-' if value is None else f'{value:.0%}'

    def spread(value: dict[str, float | None], unit: str) -> str:
        return '-' if value['p50'] is None else f'{value["p50"]:.1f} / {value["p99"]:.1f} {unit}'

    time_s, untouched = report['median_time_s'], '-'
    if report.get('untouched_rate') is not None:
        least, most = report['untouched_wilson95']
        untouched = f'{report["untouched_rate"]:.1%}  [{least:.1%}, {most:.1%}]'
    asked, yaw = f'{report["tolerance_cm"]:g} cm', report.get('yaw_error_deg')
    if yaw is not None:
        asked += f' and {report["yaw_tolerance_deg"]:g} degrees'
    rows = [
        ('task', f'{report["task"]} within {asked}'),
        ('success', f'{report["success_rate"]:.1%}  [{low:.1%}, {high:.1%}]  '
                    f'n={report["episodes"]} seed={report["seed"]}'),
        ('random floor', share(report['random_rate'])),
        ('scripted ceiling', share(report['scripted_rate'])),
        ('median time', '-' if time_s is None else f'{time_s:.1f} s'),
        ('distance at end', spread(report['distance_cm'], 'cm (p50 / p99)')),
        ('yaw error at end', '-' if yaw is None else spread(yaw, 'degrees (p50 / p99)')),
        ('ended within', ', '.join(f'{cm} cm {within:.0%}'
                                   for cm, within in report['ended_within'].items())),
        ('touched nothing', untouched),
        ('plan p50 / p99', spread(report['plan_ms'], 'ms')),
        ('image to command', spread(report['obs_to_command_ms'], 'ms')),
        ('limit violations', f'{report["limit_violations"]} of commands, '
                             f'{report["measured_violations"]} of measured joints'),
        ('machine', report['machine']),
    ]  # fmt: skip
    return '\n'.join(f'{name:18s} {value}' for name, value in rows)


def wilson(wins: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion; 95 % by default."""
    share = wins / count
    centre = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return float((centre - half) / scale), float((centre + half) / scale)


def _yaw_errors(results: list[EpisodeResult], task: Task) -> dict[str, float | None] | None:
    """Percentiles of the degrees at the end; None where the task asks for no yaw."""
    if task.config.yaw_tolerance_deg is None:
        return None
    return _percentiles([float(np.degrees(r.yaw_error)) for r in results])


def _percentiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {'p50': None, 'p99': None}
    return {
        'p50': round(float(np.percentile(values, 50)), 3),
        'p99': round(float(np.percentile(values, 99)), 3),
    }
