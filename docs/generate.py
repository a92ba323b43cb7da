"""Generated parts of the documentation, from ``results/*.json`` and the command line.

``python docs/generate.py`` rewrites them, ``--check`` fails if one is out of date. Generated are
the page ``docs/benchmarks.md``, the tables between ``<!-- name -->`` and ``<!-- /name -->`` in
README and safety page, and the reference of the command line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jepa_arm.cli.main import CommandLine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'results'
TASKS = {
    'reach': 'reach a position',
    'push': 'push an object 8–25 cm',
    'push_long': 'push an object 25–40 cm',
    'push_yaw': 'push an object to a position and a yaw',
    'avoid_reach': 'reach around an obstacle',
    'avoid_push': 'push an object around an obstacle',
}
BENCHMARKS_HEADER = """# Benchmarks

Every number on this page describes what ships and was written to `results/` by the command named
beside it. The page is generated from those files by `make docs`.

**Protocol.** Scenes have held-out seeds (1 000 000 + seed + i) that data collection never uses.
Starts that are already solved are drawn again. Success means that the tolerance was held for three
control steps within the time limit of the task, judged by the simulator's state. The goal is an
image; the arm's pose is random at the start and in the goal image. Intervals are Wilson 95 %. The
floor takes random actions; the ceiling is scripted and sees the simulator's state.
"""
Report = dict[str, Any]


def main() -> int:
    """Write the generated parts, or with ``--check`` compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing, exit 1 if outdated')
    is_check = parser.parse_args().check
    outdated = []
    for path, text in generate().items():
        if path.exists() and path.read_text() == text:
            continue
        outdated.append(path.relative_to(ROOT).as_posix())
        if not is_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if is_check and outdated:
        print(f'out of date: {", ".join(outdated)}; run: make docs')
    return int(is_check and bool(outdated))


def generate() -> dict[Path, str]:
    """Return the text of each file that has generated parts."""
    readme, safety = ROOT / 'README.md', ROOT / 'docs/safety.md'
    return {
        ROOT / 'docs/benchmarks.md': benchmarks_page(),
        ROOT / 'docs/reference/cli.md': cli_page(),
        readme: replace_block(readme.read_text(), 'success', success_table()),
        safety: replace_block(safety.read_text(), 'faults', fault_table()),
    }


def replace_block(page: str, name: str, content: str) -> str:
    """Return ``page`` with ``content`` between the comments ``name`` and ``/name``."""
    begin, end = f'<!-- {name} -->\n', f'<!-- /{name} -->'
    if begin not in page or end not in page:
        raise SystemExit(f'expected the comments {begin.strip()} and {end} in the page')
    head, _, rest = page.partition(begin)
    return f'{head}{begin}{content}\n{end}{rest.partition(end)[2]}'


def load(name: str) -> Report:
    """Return the result file ``results/<name>.json``."""
    return json.loads((RESULTS / f'{name}.json').read_text())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return '–' if value is None else f'{100.0 * value:.0f} %'


def spread(value: Report, unit: str) -> str:
    """Return median and 99th percentile."""
    return '–' if value['p50'] is None else f'{value["p50"]:.1f} / {value["p99"]:.1f} {unit}'


def success_row(report: Report) -> list[str]:
    """Return the row of one evaluation."""
    low, high = (100.0 * bound for bound in report['wilson95'])
    count = report['episodes']
    tolerance = f'{report["tolerance_cm"]:g} cm'
    if report['yaw_tolerance_deg'] is not None:
        tolerance += f', {report["yaw_tolerance_deg"]:g}°'
    time_s = report['median_time_s']
    condition = f', over ROS 2 in {report["ros"]}' if 'ros' in report else ''
    return [
        f'{TASKS[report["task"]]} (`{report["task"]}`){condition}',
        tolerance,
        f'**{round(report["success_rate"] * count)} / {count}** [{low:.1f}, {high:.1f}]',
        percent(report['random_rate']),
        percent(report['scripted_rate']),
        '–' if time_s is None else f'{time_s:.1f} s',
    ]


SUCCESS_HEADER = ('task', 'tolerance', 'success', 'random', 'scripted', 'median time')


def success_table() -> str:
    """Return the success of the shipped model, in process and over ROS 2."""
    return table(SUCCESS_HEADER, map(success_row, success_reports() + success_reports('_ros')))


def success_reports(suffix: str = '') -> list[Report]:
    """Return the evaluations of the tasks that were measured: in process, or ``_ros``."""
    names = [f'eval_{task}{suffix}' for task in TASKS]
    return [load(name) for name in names if (RESULTS / f'{name}.json').exists()]


def fault_table() -> str:
    """Return the fault matrix."""
    if not (RESULTS / 'faults.json').exists():
        return 'The matrix was not measured with this version yet: run `make results`.'
    report = load('faults')

    def number(value: float | None, digits: int) -> str:
        return '–' if value is None else f'{value:.{digits}f}'

    rows = [
        [
            row['fault'],
            number(row['time_to_stop_ms'], 0),
            number(row['time_to_hold_ms'], 0),
            number(row['distance_cm'], 1),
            row['after'],
            'passed' if row['passed'] else f'**failed**: {"; ".join(row["problems"])}',
        ]
        for row in report['rows']
    ]
    passed = sum(row['passed'] is True for row in report['rows'])
    header = ('fault', 'stop begins, ms', 'at rest, ms', 'tip travel, cm', 'then', 'verdict')
    about = f'{passed} of {len(rows)} rows passed. {provenance(report)}'
    return f'{about}\n\n{table(header, rows)}'


def provenance(report: Report) -> str:
    """Return command, commit and machine of a result."""
    return f'`{report["command"]}`, commit {report["git"]}, {report["machine"]}.'


def flat_table(report: Report) -> str:
    """Return the numbers of a flat result."""
    rows = [(f'`{k}`', f'{v:g}') for k, v in report.items() if isinstance(v, int | float)]
    return table(('figure', 'value'), rows)


def benchmarks_page() -> str:
    """Return the page of everything in ``results/`` except the fault matrix."""
    return '\n'.join(_benchmark_sections()).rstrip() + '\n'


def _benchmark_sections() -> Iterator[str]:
    yield BENCHMARKS_HEADER
    yield '## Success\n'
    yield f'{success_table()}\n'
    reports = success_reports()
    touched = sum(
        round((1.0 - r['untouched_rate']) * r['episodes'])
        for r in reports
        if r['untouched_rate'] is not None
    )
    violations = sum(r['limit_violations'] for r in reports)
    yield (
        'In process, simulated time stands still while the planner plans. Episodes there in which '
        f'the arm touched an obstacle: {touched}. Commands beyond a limit: {violations}.\n'
    )
    yield from (f'- {provenance(r)}' for r in reports)
    conditions = sorted(RESULTS.glob('eval_*_*.json'))
    extra = [p.stem for p in conditions if p.stem.removeprefix('eval_') not in TASKS]
    if extra:
        yield '\n## Success under other conditions\n'
        rows = [[*success_row(load(n)), f'`{load(n)["command"]}`'] for n in extra]
        yield table((*SUCCESS_HEADER, 'command'), rows)
        yield ''
        for name in extra:
            report = load(name)
            yield (
                f'- `{name}`: plan {spread(report["plan_ms"], "ms")}, observation to command '
                f'{spread(report["obs_to_command_ms"], "ms")} (p50 / p99), commit '
                f'{report["git"]}, {report["machine"]}.'
            )
    if (RESULTS / 'bench_surprise.json').exists():
        yield '\n## Surprise\n'
        yield from _surprise_section(load('bench_surprise'))
    for name, title in (
        ('bench_ros', 'Latency of the whole graph'),
        ('bench_plan', 'Latency of one plan'),
        ('bench_stages', 'Time of a plan by stage'),
        ('bench_encode', 'Latency of encoding'),
        ('bench_sim', 'Speed of the virtual arm'),
    ):
        if (RESULTS / f'{name}.json').exists():
            report = load(name)
            yield f'\n## {title}\n'
            yield f'{provenance(report)}\n'
            yield flat_table(report)


def _surprise_section(report: Report) -> Iterator[str]:
    yield (
        f'{provenance(report)} Without an anomaly: {report["false_alarms"]} false alarms in '
        f'{report["normal_minutes"]:.1f} minutes of play.\n'
    )
    rows = [
        [
            f'`{row["anomaly"]}`: {row["description"]}',
            str(row['episodes']),
            f'{row["auroc_frame"]:.3f}',
            percent(row['detected']),
            '–' if row['median_delay_s'] is None else f'{row["median_delay_s"]:.1f} s',
        ]
        for row in report['rows']
    ]
    yield table(('anomaly', 'episodes', 'AUROC of a frame', 'detected', 'median delay'), rows)


def cli_page() -> str:
    """Return the reference of the command line from its parsers."""
    parts = ['# Command line\n', 'Generated from the parsers.\n']
    parts += _verb_sections(CommandLine().parser, 'jepa-arm')
    return '\n'.join(parts).rstrip() + '\n'


def _verb_sections(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    children: dict[str, argparse.ArgumentParser] = {}
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            children = dict(action.choices)
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            rows.append(_option_row(action))
    if not children:
        yield f'## {name}\n'
        yield f'{parser.description}\n'
        if rows:
            yield f'{table(("option", "meaning", "default"), rows)}\n'
        yield f'Example: `{(parser.epilog or "").removeprefix("example: ")}`\n'
    for verb, child in children.items():
        yield from _verb_sections(child, f'{name} {verb}')


def _option_row(action: argparse.Action) -> list[str]:
    names = ', '.join(f'`{n}`' for n in action.option_strings or [action.dest])
    about = re.sub(r'%%', '%', action.help or '').replace('|', '\\|')
    if action.choices:
        about += f' ({", ".join(map(str, action.choices))})'
    is_plain = action.default in (None, '', False, []) or action.default is argparse.SUPPRESS
    return [names, about.strip(), '' if is_plain else f'`{action.default}`']


if __name__ == '__main__':
    sys.exit(main())
