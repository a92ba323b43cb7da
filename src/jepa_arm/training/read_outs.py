"""All that is taught on the frozen latents of a world model, side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..config import ModelFile
from ..data.episodes import EpisodeFile
from ..model.checkpoint import load_checkpoint
from .belief import train_belief
from .cpu import worker_pool
from .decoder import train_decoder
from .encoding import Encoded, encode_frames
from .hindsight import train_heads
from .pose import train_pose

BEHIND = 10
"""Niceness of what can wait. Where there are few cores all at once only take the cache from one
another; belief and pictures go first, as they end in what one core does alone."""


def train_read_outs(
    folder: Path,
    data: Path,
    config: ModelFile,
    seed: int,
    progress: bool,
    page: Path,
    encoded: Encoded | None = None,
) -> None:
    """Trains heads of planner, yaws and belief, and the decoder, as far as ``config`` has them.

    None needs another one. Each adds itself to the checkpoint in ``folder``; where one fails the
    others are trained all the same. All begin at once, in up to three processes of one thread
    each, some ``BEHIND`` the others, so that no core waits for the last one.

    Args:
        folder: checkpoint with a world model and probes.
        data: the episode file it was trained on.
        config: of all of them. seed: of each.
        progress: whether to show progress bars.
        page: HTML file of what is imagined, see ``train_decoder``.
        encoded: all frames of ``data``; None: they are encoded first.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
        RuntimeError: a loss that is not finite.
    """
    if encoded is None:
        encoded = encode_frames(load_checkpoint(folder).model, EpisodeFile(data))
    given = folder, data
    first, behind = partial(_job, 0), partial(_job, BEHIND)
    jobs = list[Callable[[], Any]]()
    if config.belief is not None:
        jobs.append(partial(first, train_belief, *given, config.belief, seed, progress, encoded))
    if config.decoder is not None:
        told = config.decoder, seed, progress, page, encoded
        jobs.append(partial(first, train_decoder, *given, *told))
    if config.pose is not None:
        jobs.append(partial(behind, train_pose, *given, config.pose, seed, progress, encoded))
    jobs.append(partial(behind, train_heads, *given, config.heads, seed, progress, encoded))
    with worker_pool(len(jobs)) as pool:
        taught = [pool.submit(job) for job in jobs]
    for future in taught:
        future.result()


def _job(niceness: int, train: Callable[..., Any], *given: Any) -> None:
    """In a process of its own."""
    os.nice(niceness)
    train(*given)
