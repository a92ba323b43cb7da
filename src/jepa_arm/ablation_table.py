"""The table of an ablation, from the result files of its runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def read_results(folder: Path) -> list[Result]:
    """What lies in ``folder``, one result a run.

    Raises:
        OSError: no such folder, or a file that cannot be read.
        ValueError: a file that is not JSON.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'no folder {folder}: expected the results of jepa-arm ablate')
    return [json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))]


def format_table(results: list[Result]) -> str:
    """Markdown: a line a row with the mean over its seeds and half the range between them.

    The base comes first, the others in the order of their names.
    """
    rows: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: (bool(r['changes']), r['row'], r['seed'])):
        rows.setdefault(result['row'], []).append(result)
    names = ['row', 'seeds', *(name for name, _ in COLUMNS)]
    lines = ['| ' + ' | '.join(names) + ' |', '|---' * len(names) + '|']
    for name, runs in rows.items():
        cells = [_cell(runs, column) for _, column in COLUMNS]
        lines.append(f'| {name} | {len(runs)} | ' + ' | '.join(cells) + ' |')
    failed = [f'{r["row"]}, seed {r["seed"]}: {r["failed"]}' for r in results if 'failed' in r]
    if failed:
        lines += ['', 'Failed: ' + '; '.join(failed)]
    return '\n'.join(lines)


def _number(key: str, scale: float, decimals: int) -> Callable[[Result], tuple[float, str]]:
    def column(result: Result) -> tuple[float, str]:
        return result[key] * scale, f'.{decimals}f'

    return column


def _error(seconds: str) -> Callable[[Result], tuple[float, str]]:
    def column(result: Result) -> tuple[float, str]:
        return result['error_share'][seconds] * 100.0, '.1f'

    return column


COLUMNS: tuple[tuple[str, Callable[[Result], tuple[float, str]]], ...] = (
    *((f'{s} s, %', _error(s)) for s in ('0.2', '0.4', '0.6', '1', '1.2', '2')),
    ('tip, cm', _number('tip_median_cm', 1.0, 2)),
    ('p90', _number('tip_p90_cm', 1.0, 2)),
    ('object, cm', _number('object_median_cm', 1.0, 2)),
    ('p90', _number('object_p90_cm', 1.0, 2)),
    ('yaw, °', _number('yaw_median_deg', 1.0, 1)),
    ('p90', _number('yaw_p90_deg', 1.0, 1)),
    ('tip in 1.2 s, cm', _number('imagined_tip_median_cm', 1.0, 2)),
    ('object in 1.2 s, cm', _number('imagined_object_median_cm', 1.0, 2)),
    ('p90', _number('imagined_object_p90_cm', 1.0, 2)),
    ('rank, %', _number('rank_share', 100.0, 0)),
    ('reach, %', _number('reach_success', 100.0, 0)),
    ('push, %', _number('push_success', 100.0, 0)),
    ('plan, ms', _number('push_decide_ms_p50', 1.0, 0)),
    ('frames/s', _number('train_frames_per_s', 1.0, 0)),
    ('million parameters', _number('parameters', 1e-6, 2)),
)
"""Title and value of each column; the value is left out where a run has none."""


def _cell(runs: list[Result], column: Callable[[Result], tuple[float, str]]) -> str:
    values, form = [], ''
    for run in runs:
        try:
            value, form = column(run)
        except KeyError:  # a run that failed, or a model without such a step
            continue
        values.append(value)
    if not values:
        return '–'
    half_range = (max(values) - min(values)) / 2.0
    mean = format(sum(values) / len(values), form)
    return f'{mean} ± {half_range:{form}}' if len(values) > 1 and half_range else mean
