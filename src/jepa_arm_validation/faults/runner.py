"""Fault runner (``jepa-arm faults``): tries the fault cases on the running graph and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

from jepa_arm.core.files import git_hash, machine
from jepa_arm.evaluation.report import format_number
from jepa_arm.ros.runtime.node_contract import GraphError
from jepa_arm_validation.results import select

from .fault_table import FAULT_TABLE, FaultCase
from .scenarios import FaultResult
from .testbed import FaultTestbed, running_testbed

PEAKS = ('velocity', 'acceleration', 'jerk', 'measured_velocity')


def select_cases(names: Sequence[str]) -> tuple[FaultCase, ...]:
    """Return the cases with the given names or numbers, or all cases if none are given.

    Raises:
        ConfigError: there is no such case.
    """
    numbers = dict.fromkeys(str(case.number) for case in FAULT_TABLE)
    chosen = select('fault case', names, [*(case.name for case in FAULT_TABLE), *numbers])
    return tuple(c for c in FAULT_TABLE if c.name in chosen or str(c.number) in chosen)


def run_faults(checkpoint: Path, arm: str, names: Sequence[str]) -> dict[str, Any]:
    """Try the selected cases, print each verdict and return the report.

    Args:
        checkpoint: folder of the planner's model. arm: name of the arm.
        names: see ``select_cases``.

    Returns:
        ``rows`` (one per case), ``seconds``, ``machine`` and ``git``.

    Raises:
        GraphError: the graph did not start.
        ConfigError: there is no such case.
    """
    cases, began, rows = select_cases(names), monotonic(), []
    with running_testbed(checkpoint, arm) as testbed:
        for case in cases:
            row = _run_case(case, testbed)
            rows.append(row)
            verdict = '; '.join(row['problems']) or 'passed'
            print(f'{case.number:2d} {case.name:20s} {row["seconds"]:5.1f} s  {verdict}')
    return {
        'rows': rows,
        'seconds': round(monotonic() - began, 1),
        'machine': machine(),
        'git': git_hash(),
    }


def _run_case(case: FaultCase, testbed: FaultTestbed) -> dict[str, Any]:
    began = monotonic()
    try:
        testbed.prepare()
        result = case.scenario.run(testbed)
    except GraphError as error:
        result = FaultResult(problems=[str(error)])
    return {
        'number': case.number,
        'name': case.name,
        'fault': case.fault,
        'passed': not result.problems,
        'time_to_stop_ms': _scaled(result.stop_s, 1000.0, 1),
        'time_to_hold_ms': _scaled(result.rest_s, 1000.0, 1),
        'peaks': asdict(result.peaks),
        'distance_cm': _scaled(result.distance_m, 100.0, 2),
        'reason': '; '.join(result.reasons),
        'after': result.after,
        'expected': case.scenario.expected,
        'problems': result.problems,
        'note': case.note,
        'seconds': round(monotonic() - began, 1),
    }


def _scaled(value: float, factor: float, digits: int) -> float | None:
    return round(value * factor, digits) if isfinite(value) else None


def format_faults(report: Mapping[str, Any]) -> str:
    """Return the report as a table for a terminal, with the problems below."""
    lines = [
        f'{"":2s} {"fault":21s} {"stop":>6s} {"rest":>6s}  {"v":>4s} {"a":>4s} {"j":>4s} '
        f'{"v meas":>6s} {"dist":>6s}  verdict  then; reported'
    ]
    for row in report['rows']:
        shares = row['peaks']['shares']
        peaks = [format_number(shares.get(key), '.0%') for key in PEAKS]
        distance = format_number(row['distance_cm'], '.1f', 'cm')
        times = [format_number(row[f'time_to_{key}_ms'], '.0f') for key in ('stop', 'hold')]
        verdict = 'passed' if row['passed'] else 'failed'
        lines.append(
            f'{row["number"]:2d} {row["name"]:21s} {times[0]:>6s} {times[1]:>6s}  '
            f'{peaks[0]:>4s} {peaks[1]:>4s} {peaks[2]:>4s} {peaks[3]:>6s} '
            f'{distance:>6s}  {verdict:8s} '
            f'{"; ".join(filter(None, (row["after"], row["reason"])))[:90]}'
        )
    failed = [row for row in report['rows'] if not row['passed']]
    lines += [f'\n{row["name"]}: {"; ".join(row["problems"])}' for row in failed]
    count = len(report['rows'])
    lines.append(
        f'\n{count - len(failed)} of {count} passed in {report["seconds"]:.0f} s on '
        f'{report["machine"]}, {report["git"]}. Times in ms, peaks as shares of the limits.'
    )
    return '\n'.join(lines)
