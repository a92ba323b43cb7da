"""Command line: the examples of ``--help`` run as they stand."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.cli.main import CommandLine
from jepa_arm.core.goals import PositionGoal
from jepa_arm.ros.client import GraphClient

EXAMPLES = CommandLine().examples
NOT_RUN = {
    'jepa-arm up': 'runs until it is stopped; the recording below needs it',
    'jepa-arm train': 'three quarters of an hour',
    'jepa-arm ablate': 'hours',
    'jepa-arm import': 'needs the weights of another project',
    'jepa-arm export': 'needs the weights of another project',
    'jepa-arm view': 'needs the extra rerun',
    'jepa-arm bench peers': 'needs an environment of its own',
    'jepa-arm bench public': 'needs an environment of its own',
    'jepa-arm bench energy': 'needs the energy counters of the processor',
    'jepa-arm faults': 'measures times, which tests beside it would disturb',
    'jepa-arm fuzz': 'hours',
    'jepa-arm soak': 'twenty minutes',
    'jepa-arm bench surprise': 'half an hour',
    'jepa-arm data': 'run below, one after the other',
    'jepa-arm record': 'run below with a graph and a goal',
    'jepa-arm replay': 'run below with what was recorded',
}
RUN = [example for example in EXAMPLES if not example.startswith(tuple(NOT_RUN))]
TIME_LIMIT_S = 300.0

pytestmark = pytest.mark.extended


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[None]:
    """The running graph of the example of ``up``."""
    command = [sys.executable, '-m', 'jepa_arm', *find_example('up')]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any('ready' in line for line in process.stdout)
        yield
        process.terminate()


def find_example(verb: str) -> list[str]:
    """Return the arguments of the example of ``verb``."""
    (example,) = (e for e in EXAMPLES if e.startswith(f'jepa-arm {verb}'))
    return example.split()[1:]


def run(arguments: list[str], folder: Path) -> None:
    """Run ``jepa-arm`` in ``folder``; it must end with 0."""
    command = [sys.executable, '-m', 'jepa_arm', *arguments]
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT_S
    )
    assert result.returncode == 0, f'{" ".join(arguments)}\n{result.stdout}\n{result.stderr}'


@pytest.mark.parametrize('example', RUN)
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    arguments = example.split()[1:]
    run(arguments, tmp_path)
    if '--json' in arguments:
        assert (tmp_path / arguments[-1]).stat().st_size > 0


def test_data_are_collected_and_rendered(tmp_path: Path) -> None:
    run(find_example('data collect'), tmp_path)
    run(find_example('data render'), tmp_path)


def test_a_recording_of_the_graph_is_replayed_and_recovered(
    tmp_path: Path, graph: None, harness: GraphClient
) -> None:
    with ThreadPoolExecutor() as pool:
        recording = pool.submit(run, find_example('record'), tmp_path)
        harness.poll((tmp_path / 'run.mcap.partial').exists, 20.0)
        assert harness.move_to(PositionGoal('tip', np.array([0.45, 0.20, 0.10]))).succeeded
        recording.result()
    run(find_example('replay'), tmp_path)
    file = tmp_path / 'run.mcap'
    size = file.stat().st_size
    os.truncate(file, size // 2)
    file.rename(tmp_path / 'run.mcap.partial')
    run(find_example('data recover'), tmp_path)
    assert size // 4 < file.stat().st_size < size
