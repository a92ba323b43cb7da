"""Training of all heads on the frozen latents of a world model, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepa_arm.config import ModelFile
from jepa_arm.training.belief.belief import train_belief
from jepa_arm.training.decoder import train_decoder

from .actor_critic import train_actor_critic
from .cpu import worker_pool
from .encoding import HeadTraining
from .pose import train_pose

NICENESS = 10
"""Niceness of pose and actor-critic, which may finish late. Belief and decoder have priority,
because they end with single-core work; on few cores, processes of equal priority would only
contend for the cache."""


def train_heads(inputs: HeadTraining, config: ModelFile, page: Path) -> None:
    """Train the heads that ``config`` contains: actor-critic, pose, belief and decoder.

    They are independent: each adds itself to the checkpoint, and if one fails the others are still
    trained. All start at once; each head uses up to three single-threaded processes.

    Args:
        inputs: checkpoint, encoded episodes and seed, shared by all heads.
        config: configuration of each head; None for a head that is not trained.
        page: HTML file for decoded predictions, see ``train_decoder``.

    Raises:
        CheckpointError, DataError: a file cannot be used.
        TrainingError: a loss is not finite.
    """
    jobs: list[tuple[Any, ...]] = [
        (0, train_belief, inputs, config.belief),
        (0, train_decoder, inputs, config.decoder, page),
        (NICENESS, train_pose, inputs, config.pose),
        (NICENESS, train_actor_critic, inputs, config.actor_critic),
    ]
    jobs = [job for job in jobs if job[3] is not None]
    with worker_pool(len(jobs)) as pool:
        futures = [pool.submit(_train, *job) for job in jobs]
    for future in futures:
        future.result()


def _train(niceness: int, train: Callable[..., Any], *arguments: Any) -> None:
    """Run ``train`` in this worker process after raising its niceness."""
    os.nice(niceness)
    train(*arguments)
