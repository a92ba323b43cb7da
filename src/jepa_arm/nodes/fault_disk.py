"""A full disk while data is collected, a model is trained, and the graph is recorded.

The disk is made to be full by the process's limit of file size (RLIMIT_FSIZE), which needs no
rights: writing fails with EFBIG where a full disk gives ENOSPC, at the same places.
"""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep

from .fault_scenarios import Trial
from .fault_stage import Stage

FULL_BYTES = 1_000_000
FULL_RECORDING_BYTES = 80_000
"""What the graph says in two to three seconds."""
EPISODES = '4'
LONGEST_S = 120.0


class FullWhileCollecting:
    """The disk is full when the file of episodes is made."""

    expected = 'ends with 1 and one clear line; a file made before is intact; works again later'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it."""
        with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
            good, data = Path(folder) / 'good.h5', Path(folder) / 'data.h5'
            problems = _collect(good)
            before = _digest(good)
            code, said = _run(_collecting(data), FULL_BYTES)
            if code != 1 or 'File too large' not in said or 'Traceback' in said:
                problems.append(f'ended with {code}: {said}')
            if data.exists():
                problems.append('a file that is not whole appeared')
            if _digest(good) != before:
                problems.append('the file made before was changed')
            problems += _collect(data)
        return Trial(reasons=(_last(said),), after='works again', problems=tuple(problems))


class FullWhileTraining:
    """The disk is full when the state of a training is saved."""

    expected = 'ends with 1 and one clear line; the state saved before is intact'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it."""
        with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
            data, out = Path(folder) / 'data.h5', Path(folder) / 'run'
            problems = _collect(data)
            state = out / 'training_state.safetensors'
            command = ['train', '--data', str(data), '--out', str(out), '--steps', '2']
            _until_there(command, state)
            before = _digest(state)
            code, said = _run(command, FULL_BYTES)
            if code != 1 or 'could not be written' not in said or 'Traceback' in said:
                problems.append(f'ended with {code}: {said}')
            if _digest(state) != before:
                problems.append('the state saved before was changed')
            left = [p.name for p in out.glob('*.partial')]
            if left:
                problems.append(f'left behind: {left}')
        return Trial(reasons=(_last(said),), after='state kept', problems=tuple(problems))


class FullWhileRecording:
    """The disk is full while what the graph says is recorded."""

    expected = (
        'ends with 1 and one clear line; a file made before is intact; what was recorded until '
        'then can be recovered'
    )

    def __call__(self, stage: Stage) -> Trial:
        """Tries it."""
        with tempfile.TemporaryDirectory(prefix='jepa_arm_') as folder:
            good, full, whole = (Path(folder) / f'{name}.mcap' for name in ('good', 'full', 'all'))
            code, said = _run([*_recording(good), '--duration', '2'])
            problems = [] if code == 0 and good.exists() else [f'record ended with {code}: {said}']
            before = _digest(good)
            code, said = _run([*_recording(full), '--duration', '60'], FULL_RECORDING_BYTES)
            if code != 1 or 'could not be written' not in said or 'Traceback' in said:
                problems.append(f'ended with {code}: {said}')
            if full.exists():
                problems.append('a file that is not whole appeared')
            if _digest(good) != before:
                problems.append('the file made before was changed')
            partial = full.with_name(full.name + '.partial')
            code, lost = _run(['recover', str(partial), '--out', str(whole)])
            if code != 0 or not whole.exists():
                problems.append(f'recover ended with {code}: {lost}')
        return Trial(reasons=(_last(said),), after='recovered', problems=tuple(problems))


def _recording(path: Path) -> list[str]:
    return ['record', '--out', str(path)]


def _collecting(path: Path) -> list[str]:
    return ['collect', '--out', str(path), '--episodes', EPISODES, '--workers', '1']


def _collect(path: Path) -> list[str]:
    code, said = _run(_collecting(path))
    return [] if code == 0 and path.exists() else [f'collect ended with {code}: {said}']


def _run(arguments: list[str], limit: int | None = None) -> tuple[int, str]:
    """Exit code and error output of ``jepa-arm``, with files of at most ``limit`` bytes."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = subprocess.run(
        [sys.executable, '-m', 'jepa_arm', *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        preexec_fn=restrict,
    )
    return ended.returncode, ended.stderr.strip()


def _until_there(arguments: list[str], path: Path) -> None:
    """Runs ``jepa-arm`` until ``path`` is there, and interrupts it."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'jepa_arm', *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = monotonic() + LONGEST_S
    while not path.exists() and process.poll() is None and monotonic() < deadline:
        sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ''


def _last(text: str) -> str:
    return text.splitlines()[-1] if text else ''
