"""Disk faults: a full disk during data collection, training, and recording of the graph.

A file size limit (RLIMIT_FSIZE) stands in for the full disk, because it needs no privileges:
writes fail with EFBIG instead of ENOSPC, in the same places.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

from .scenarios import FaultResult
from .testbed import FaultTestbed

FULL_BYTES = 1_000_000
FULL_RECORDING_BYTES = 80_000
"""Size of a recording of two to three seconds."""
TIMEOUT_S = 120.0
COMMAND = sys.executable, '-m', 'jepa_arm'
COLLECT = 'data', 'collect', '--episodes', '4', '--workers', '1', '--out'


def full_while_collecting(testbed: FaultTestbed) -> FaultResult:
    """Collect episodes on a full disk; the running graph is not used."""
    result = FaultResult(after='works again')
    with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
        earlier, data = Path(folder) / 'earlier.h5', Path(folder) / 'data.h5'
        _expect_success(result, *COLLECT, earlier)
        _expect_failure(result, [*COLLECT, data], FULL_BYTES, 'File too large', earlier)
        result.expect(not data.exists(), 'an incomplete file appeared')
        _expect_success(result, *COLLECT, data)
    return result


def full_while_training(testbed: FaultTestbed) -> FaultResult:
    """Save the training state on a full disk; the running graph is not used."""
    result = FaultResult(after='state kept')
    with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
        data, out = Path(folder) / 'data.h5', Path(folder) / 'model'
        _expect_success(result, *COLLECT, data)
        state = out / 'run/training_state.safetensors'
        train = ['train', '--data', data, '--out', out, '--steps', '2']
        _run_until_exists(train, state)
        _expect_failure(result, train, FULL_BYTES, 'could not be written', state)
        partial = [path.name for path in state.parent.glob('*.partial')]
        result.expect(not partial, f'left behind: {partial}')
    return result


def full_while_recording(testbed: FaultTestbed) -> FaultResult:
    """Record the running graph twice, the second time on a full disk."""
    result = FaultResult(after='recovered')
    with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
        names = 'earlier', 'full', 'recovered'
        earlier, full, recovered = (Path(folder) / f'{name}.mcap' for name in names)
        _expect_success(result, 'record', '--duration', '2', '--out', earlier)
        record = ['record', '--duration', '60', '--out', full]
        reason = 'could not be written'
        _expect_failure(result, record, FULL_RECORDING_BYTES, reason, earlier)
        result.expect(not full.exists(), 'an incomplete file appeared')
        partial = full.with_name(full.name + '.partial')
        _expect_success(result, 'data', 'recover', partial, '--out', recovered)
    return result


def _expect_success(result: FaultResult, *arguments: str | Path) -> None:
    """Run ``jepa-arm``; expect success and the file that the last argument names."""
    code, error = _run(arguments)
    is_made = code == 0 and Path(arguments[-1]).exists()
    result.expect(is_made, f'jepa-arm {arguments[0]} {arguments[1]} ended with {code}: {error}')


def _expect_failure(
    result: FaultResult, arguments: Sequence[str | Path], max_bytes: int, reason: str, intact: Path
) -> None:
    """Run ``jepa-arm`` with a full disk; expect exit code 1 and one clear line with ``reason``.

    The earlier file ``intact`` must not change.
    """
    before = intact.read_bytes() if intact.exists() else b''
    code, error = _run(arguments, max_bytes)
    is_clear = code == 1 and reason in error and 'Traceback' not in error
    result.expect(is_clear, f'ended with {code}: {error}')
    is_intact = before and intact.exists() and intact.read_bytes() == before
    result.expect(is_intact, f'{intact.name}, made before, was changed')
    result.reasons += error.splitlines()[-1:]


def _run(arguments: Sequence[str | Path], max_bytes: int | None = None) -> tuple[int, str]:
    """Run ``jepa-arm`` with files limited to ``max_bytes``; return exit code and error output."""

    def limit_files() -> None:
        if max_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    ended = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        preexec_fn=limit_files,
    )
    return ended.returncode, ended.stderr.strip()


def _run_until_exists(arguments: list[str | Path], path: Path) -> None:
    """Run ``jepa-arm`` until ``path`` exists, then interrupt it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*COMMAND, *arguments], stdout=quiet, stderr=quiet)
    deadline = monotonic() + TIMEOUT_S
    while not path.exists() and process.poll() is None and monotonic() < deadline:
        sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
