"""What was measured beside what is published, as the table of docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_arm.evaluation_report import wilson

PUBLISHED = {
    'tworoom': {'LeWM': 87, 'released': '84 (81–87)', 'strict': '58 (57–61)'},
    'pusht': {'LeWM': 96, 'released': '86 (84–88)', 'strict': '70 (66–74)'},
    'reacher': {'LeWM': 86, 'released': '46 (40–51)', 'strict': '43 (37–51)'},
}
"""% success: of LeWM by its authors (arXiv:2603.19312; starts that are solved count), and of its
weights by CLEAR-LeWM under both rules (0.5; mean and range of three seeds, n = 100 each)."""
POLICIES = ('search', 'actor', 'random', 'recorded', 'expert')
HEADER = (
    '| environment, rule | our search | our actor alone | random | recorded actions | expert '
    '| LeWM, same rule [1] | LeWM as published [2] |'
)


def measured(score: Mapping[str, Any] | None) -> str:
    """Rate and interval in %, or a dash."""
    if score is None:
        return '–'
    low, high = wilson(score['wins'], score['pairs'])
    rate = 100.0 * score['wins'] / score['pairs']
    return f'{rate:.0f} [{100.0 * low:.0f}–{100.0 * high:.0f}]'


def rows(result: Mapping[str, Any]) -> list[str]:
    """Lines of one environment, one a rule."""
    published = PUBLISHED[result['environment']]
    lines = []
    for rule, scores in result['rules'].items():
        cells = [measured(scores.get(policy)) for policy in POLICIES]
        cells += [str(published[rule]), str(published['LeWM'])]
        lines.append(f'| {result["environment"]}, {rule} | ' + ' | '.join(cells) + ' |')
    return lines


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The whole table in Markdown."""
    line = '|' + '---|' * (HEADER.count('|') - 1)
    return '\n'.join([HEADER, line, *(row for result in results for row in rows(result))])


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results of all environments of which there are any, in the order of ``PUBLISHED``."""
    paths = [folder / name / 'result.json' for name in PUBLISHED]
    return [json.loads(path.read_text()) for path in paths if path.exists()]
