"""Settings of a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor

import torch
from tqdm import tqdm

from ..data.workers import end_with_parent


def prepare_cpu(threads: int | None = None) -> None:
    """Sets this process up for training on a CPU; call it before the first large tensor.

    Keeps freed memory instead of returning it to the system at every step: the page faults
    cost 2 to 5 times the step. No effect where the C library is not glibc. Progress bars get a
    lock of this process: tqdm's own is a semaphore of the system, which workers leave behind.
    """
    tqdm.set_lock(threading.RLock())
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)
        mallopt(m_top_pad, 1 << 28)


def worker_pool(count: int) -> ProcessPoolExecutor:
    """Processes that train beside this one, of one thread each; they end with it."""
    return ProcessPoolExecutor(count, multiprocessing.get_context('spawn'), _begin)


def _begin() -> None:
    end_with_parent()
    prepare_cpu(1)
