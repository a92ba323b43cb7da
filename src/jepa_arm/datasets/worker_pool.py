"""Worker pool: episodes made by parallel processes and written as they are finished."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from .episodes import DataError, EpisodeWriter

Episode = dict[str, NDArray]
"""Arrays of an episode by dataset name, see ``episodes``."""


def prepare_output(path: Path) -> None:
    """Create the parent folder of a new file ``path``.

    Raises:
        DataError: the file exists.
    """
    if path.exists():
        raise DataError(f'{path} exists; remove it or choose another name')
    path.parent.mkdir(parents=True, exist_ok=True)


def write_in_parallel(
    writer: EpisodeWriter,
    prepare: Callable[..., Callable[[int], Episode]],
    arguments: tuple[Any, ...],
    workers: int | None,
) -> None:
    """Make and write the episodes missing from ``writer``, and close it.

    Args:
        writer: receives the episodes in the order in which they are finished.
        prepare: called with ``arguments`` in each worker process; returns a function from an
            index to the episode with that index.
        arguments: arguments of ``prepare``.
        workers: number of processes; None: one for each core.

    Raises:
        DataError: a process could not start or was killed; episodes already written are kept.
        OSError: the disk is full or not writable; episodes already written are kept.
    """
    missing, context = writer.missing, multiprocessing.get_context('spawn')
    total, done, name = len(writer), len(writer) - len(missing), writer.path.name
    bar = tqdm(total=total, initial=done, unit='episode', desc=name)
    pool = ProcessPoolExecutor(workers, context, _start, (prepare, *arguments))
    with writer, bar, pool:
        try:
            futures = {pool.submit(_make, index): index for index in missing}
            for future in as_completed(futures):
                writer.put(futures.pop(future), future.result())
                bar.update()
        except BrokenProcessPool as error:
            raise DataError(
                f'{writer.path}: a worker process ended early. Either its error is shown above, '
                'or it was killed, for example for lack of memory. What is written stays: run the '
                'same command again to continue'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_make_episode: Callable[[int], Episode]


def _start(prepare: Callable[..., Callable[[int], Episode]], *arguments: Any) -> None:
    global _make_episode
    exit_with_parent()
    _make_episode = prepare(*arguments)


def _make(index: int) -> Episode:
    return _make_episode(index)


def exit_with_parent() -> None:
    """Make this worker process exit when its parent ends, even if the parent was killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
