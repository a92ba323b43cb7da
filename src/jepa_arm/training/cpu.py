"""Training on CPUs: process settings, and worker processes that train parts of a network."""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from jepa_arm.datasets.worker_pool import exit_with_parent

Weights = dict[str, NDArray]
"""State of a network as arrays, which can be sent to another process."""
TrainedParts = tuple[dict[str, Weights], dict[str, Any]]
"""Weights of some parts of a network, by name, and report entries about these parts."""


def weights_of(module: nn.Module) -> Weights:
    """Return the state of ``module`` as arrays."""
    return {key: value.numpy() for key, value in module.state_dict().items()}


def parts_of(networks: nn.Module, *names: str, **report: Any) -> TrainedParts:
    """Return the weights of the parts ``names`` of ``networks``, and the report entries."""
    return {name: weights_of(getattr(networks, name)) for name in names}, report


def load_parts(networks: nn.Module, results: Iterable[TrainedParts]) -> dict[str, Any]:
    """Load into ``networks`` the parts that other processes trained; return the merged report."""
    report: dict[str, Any] = {}
    for parts, figures in results:
        report |= figures
        for name, weights in parts.items():
            state = {key: torch.from_numpy(value) for key, value in weights.items()}
            getattr(networks, name).load_state_dict(state)
    return report


def prepare_cpu(threads: int | None = None) -> None:
    """Set up this process for training on a CPU; call it before creating large tensors.

    Freed memory is kept (glibc only): returning it to the system at every step would cause page
    faults that take 2 to 5 times as long as the step. Progress bars get a lock of this process,
    since tqdm's own is a system semaphore that workers leave behind.

    Args:
        threads: number of torch threads; None: unchanged.
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
    """Return a pool of ``count`` single-threaded worker processes that end with this process."""
    return ProcessPoolExecutor(count, multiprocessing.get_context('spawn'), _start_worker)


def _start_worker() -> None:
    exit_with_parent()
    prepare_cpu(1)
