"""Claims of docs/safety.md name tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_claim_names_a_test_that_exists():
    named = re.findall(r'`(test/[\w/]+\.py)::(test_\w+)`', (ROOT / 'docs/safety.md').read_text())
    assert len(named) > 20
    missing = [
        f'{file}::{test}'
        for file, test in named
        if not (ROOT / file).is_file() or f'def {test}(' not in (ROOT / file).read_text()
    ]
    assert missing == []
