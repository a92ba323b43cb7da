"""Episodes that processes make side by side, written as they come."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from .episodes import DataError, EpisodeWriter


def write_made(
    writer: EpisodeWriter,
    make: Callable[[int], dict[str, NDArray]],
    start: Callable[..., None],
    given: tuple[Any, ...],
    workers: int | None,
    bar: tqdm,
) -> None:
    """Writes the episodes that ``writer`` misses.

    Args:
        make: the episode of an index, in a process.
        start: how such a process begins, with ``given``.
        workers: processes; None: one for each core.
        bar: of all episodes of the file.

    Raises:
        DataError: a process could not begin, or was killed; what is written stays.
        OSError: the disk is full or not writable; what is written stays.
    """
    missing = writer.missing
    bar.update(bar.total - len(missing))
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, context, _begin, (start, *given)) as pool:
        try:
            made = {pool.submit(make, index): index for index in missing}
            for future in as_completed(made):
                writer.put(made.pop(future), future.result())
                bar.update()
        except BrokenProcessPool as error:
            raise DataError(
                f'{writer.path}: a process that makes episodes ended before its time; either its '
                'error stands above, or it was killed, as for want of memory. What is written '
                'stays: run the same command again to go on'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None], *given: Any) -> None:
    end_with_parent()
    start(*given)


def end_with_parent() -> None:
    """Ends this process, a worker, when its parent is gone: nobody else tells it of a kill."""
    threading.Thread(target=_wait_for_parents_end, daemon=True).start()


def _wait_for_parents_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
