"""``jepa-arm faults``: tries every fault on the live graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

from ..resources import git_hash, machine
from .fault_row import Row
from .fault_rows import ROWS
from .fault_scenarios import Trial
from .fault_stage import Stage
from .graph import GraphError


def chosen_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows of ``names`` or numbers; all without any.

    Raises:
        ValueError: there is no such row.
    """
    known = {row.name for row in ROWS} | {str(row.number) for row in ROWS}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f'row: expected one of {sorted(known)}, got {unknown[0]!r}')
    return tuple(r for r in ROWS if not names or r.name in names or str(r.number) in names)


def run_faults(
    checkpoint: Path, arm: str = 'panda', names: Sequence[str] = (), progress: bool = True
) -> dict[str, Any]:
    """Tries the chosen rows; the report: ``rows``, ``seconds``, ``machine``, ``git``.

    Raises:
        GraphError: the graph does not come up. ValueError: there is no such row.
    """
    rows, began, results = chosen_rows(names), monotonic(), []
    with Stage(checkpoint, arm) as stage:
        for row in rows:
            result = _try(row, stage)
            results.append(result)
            if progress:
                verdict = 'passed' if result['passed'] else '; '.join(result['problems'])
                print(f'{row.number:2d} {row.name:20s} {result["seconds"]:5.1f} s  {verdict}')
    return {
        'rows': results,
        'seconds': round(monotonic() - began, 1),
        'machine': machine(),
        'git': git_hash(),
    }


def _try(row: Row, stage: Stage) -> dict[str, Any]:
    began = monotonic()
    try:
        stage.prepare()
        trial = row.play(stage)
    except GraphError as error:
        trial = Trial(problems=(str(error),))
    return {
        'number': row.number,
        'name': row.name,
        'fault': row.fault,
        'passed': not trial.problems,
        'time_to_stop_ms': _ms(trial.start_s),
        'time_to_hold_ms': _ms(trial.hold_s),
        'peaks': asdict(trial.peaks),
        'distance_cm': round(trial.travel_m * 100.0, 2) if isfinite(trial.travel_m) else None,
        'reason': '; '.join(trial.reasons),
        'after': trial.after,
        'expected': row.play.expected,
        'problems': list(trial.problems),
        'note': row.note,
        'seconds': round(monotonic() - began, 1),
    }


def _ms(seconds: float) -> float | None:
    return round(seconds * 1000.0, 1) if isfinite(seconds) else None
