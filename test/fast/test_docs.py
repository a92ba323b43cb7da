"""Documentation: generated parts are current, and pages name only things that exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
HAND_WRITTEN = [
    p
    for p in PAGES
    if p.name not in ('nodes.md', 'cli.md', 'benchmarks.md', 'migrate_checkpoints.md')
]
SOURCES = ('src', 'config', 'launch', 'urdf', 'ros_ws/src', 'docs/generate.py', 'setup.py')
OF_OTHERS = {
    'allow_nonzero_velocity_at_trajectory_end',
    'bond_timeout',
    'generate_parameter_library_py',
    'interface_name',
    'lifecycle_manager',
    'update_rate',
}


def test_generated_parts_are_those_of_the_results():
    command = [sys.executable, 'docs/generate.py', '--check']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_safety_page_names_tests_that_exist():
    named = re.findall(r'`(test/[\w/]+\.py)::(test_\w+)`', (ROOT / 'docs/safety.md').read_text())
    assert len(named) > 20
    missing = [
        f'{file}::{test}'
        for file, test in named
        if not (ROOT / file).is_file() or f'def {test}(' not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_pages_name_files_and_identifiers_that_exist():
    known = '\n'.join(
        path.read_text(errors='ignore')
        for source in SOURCES
        for path in ([ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob('*'))
        if path.is_file() and path.suffix not in ('.pyc', '.safetensors')
    )
    missing = []
    for page in HAND_WRITTEN:
        for word in re.findall(r'`([a-z0-9]+(?:_[a-z0-9]+)+)`', page.read_text()):
            if word not in OF_OTHERS and not re.search(rf'\b{word}\b', known):
                missing.append(f'{page.name}: {word}')
        for file in re.findall(r'`((?:src|config|urdf|launch)/[\w./]+)`', page.read_text()):
            if not (ROOT / file).exists():
                missing.append(f'{page.name}: {file}')
    assert missing == []


def test_the_readme_is_short_and_hand_written_pages_stay_readable():
    readme = (ROOT / 'README.md').read_text()
    hand_written = re.sub(r'<!-- (\w+) -->.*<!-- /\1 -->', '', readme, flags=re.DOTALL)
    assert len(hand_written.split()) <= 600
    assert sum(len(page.read_text().split()) for page in HAND_WRITTEN) <= 15_000
