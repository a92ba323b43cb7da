"""The table of faults: for a terminal, and as one page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; color: #222;
  padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border: 1px solid #ddd; padding: .3rem .5rem; vertical-align: top; text-align: left }}
th {{ background: #f4f4f6; position: sticky; top: 0 }}
td.number {{ text-align: right; white-space: nowrap }}
tr.passed td:first-child {{ border-left: 6px solid #3a3 }}
tr.failed td:first-child {{ border-left: 6px solid #c33 }}
tr.absent {{ color: #888 }}
small {{ color: #666 }}
</style></head><body>
<h1>{title}</h1>
<p><b>{passed} of {count}</b> faults passed in {seconds:.0f} s. {machine}. Source: {git}.</p>
<p>Each fault was tried on the live graph of simulator, guard and planner while the arm moved.
Times run on the steady clock, from the onset of the fault until the guard began to stop the arm
(or its commands ceased), and until commands (or the measured joints) were at rest. Peaks are
those after the onset, as shares of the limits: velocity, acceleration and jerk of the commands,
velocity of the measured joints. The distance is the way of the tip after the onset.</p>
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
HEAD = (
    '#', 'fault', 'to stop, ms', 'to rest, ms', 'velocity', 'acceleration', 'jerk', 'measured',
    'way, cm', 'reported', 'afterwards', 'verdict',
)  # fmt: skip
NUMBERS = range(2, 9)
PEAKS = ('velocity', 'acceleration', 'jerk', 'measured_velocity')


def verdict(row: Mapping[str, Any]) -> str:
    """One word for a row of the report."""
    return {True: 'passed', False: 'failed', None: 'absent'}[row['passed']]


def format_faults(report: Mapping[str, Any]) -> str:
    """The report as a table for a terminal; below it what was wrong."""
    lines = [
        f'{"":2s} {"fault":21s} {"stop":>6s} {"rest":>6s}  {"v":>4s} {"a":>4s} {"j":>4s} '
        f'{"v meas":>6s} {"way":>6s}  verdict  then; reported'
    ]
    for row in report['rows']:
        shares = row['peaks']['shares']
        peaks = [f'{shares[key]:4.0%}' if key in shares else '   -' for key in PEAKS]
        way = '-' if row['distance_cm'] is None else f'{row["distance_cm"]:.1f}cm'
        lines.append(
            f'{row["number"]:2d} {row["name"]:21s} {_ms(row["time_to_stop_ms"]):>6s} '
            f'{_ms(row["time_to_hold_ms"]):>6s}  {" ".join(peaks[:3])} {peaks[3]:>6s} {way:>6s}  '
            f'{verdict(row):8s} {"; ".join(filter(None, (row["after"], row["reason"])))[:90]}'
        )
    failed = [r for r in report['rows'] if r['passed'] is False]
    lines += [f'\n{row["name"]}: {"; ".join(row["problems"])}' for row in failed]
    tried = [r for r in report['rows'] if r['passed'] is not None]
    lines.append(
        f'\n{len(tried) - len(failed)} of {len(tried)} passed in {report["seconds"]:.0f} s on '
        f'{report["machine"]}, {report["git"]}. Times in ms, peaks as shares of the limits.'
    )
    return '\n'.join(lines)


def write_faults(path: Path, report: Mapping[str, Any]) -> Path:
    """Writes the report as one self-contained HTML page; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tried = [r for r in report['rows'] if r['passed'] is not None]
    page = PAGE.format(
        title='jepa_arm: every fault tried',
        passed=sum(r['passed'] for r in tried),
        count=len(tried),
        seconds=report['seconds'],
        machine=html.escape(report['machine']),
        git=html.escape(report['git']),
        head=''.join(f'<th>{name}</th>' for name in HEAD),
        rows='\n'.join(_row(row) for row in report['rows']),
    )
    path.write_text(page)
    return path


def _row(row: Mapping[str, Any]) -> str:
    """One row as HTML."""
    peaks = row['peaks']
    shown = [
        f'{peaks[key]:.2f} <small>({peaks["shares"][key]:.0%})</small>'
        if key in peaks['shares']
        else '-'
        for key in PEAKS
    ]
    way = '-' if row['distance_cm'] is None else f'{row["distance_cm"]:.2f}'
    note = f'<br><small>{html.escape(row["note"])}</small>' if row['note'] else ''
    expected = f'<br><small>expected: {html.escape(row["expected"])}</small>'
    problems = ''.join(f'<br><b>{html.escape(p)}</b>' for p in row['problems'])
    cells = [
        str(row['number']),
        f'{html.escape(row["fault"])} <small>({row["name"]})</small>{note}',
        _ms(row['time_to_stop_ms']),
        _ms(row['time_to_hold_ms']),
        *shown,
        way,
        html.escape(row['reason']),
        html.escape(row['after']),
        verdict(row) + problems + expected,
    ]
    kinds = ['number' if i in NUMBERS else '' for i in range(len(cells))]
    columns = ''.join(f'<td class="{k}">{c}</td>' for k, c in zip(kinds, cells, strict=True))
    return f'<tr class="{verdict(row)}">{columns}</tr>'


def _ms(value: float | None) -> str:
    return '-' if value is None else f'{value:.0f}'
