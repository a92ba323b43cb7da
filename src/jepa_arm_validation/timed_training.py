"""Training of a world model for a given processor time, to compare variants."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.config import ModelFile
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.model.checkpoint import AnyWorldModel
from jepa_arm.model.checkpoint_files import round_weights
from jepa_arm.training.cpu import prepare_cpu
from jepa_arm.training.fit import fit
from jepa_arm.training.training_run import TrainingRun
from jepa_arm.training.world_model import recompute_batch_statistics, step_losses


@dataclass(frozen=True)
class Trained:
    """Result of ``train_for``.

    Attributes:
        model: in eval mode, without gradients, rounded as in a checkpoint.
        training, held_out: indices of the training and of the held-out episodes.
        steps: optimiser steps made. frames_per_s: training frames per second of processor time.
    """

    model: AnyWorldModel
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    steps: int
    frames_per_s: float


def train_for(
    episodes: EpisodeFile, out: Path, config: ModelFile, seed: int, processor_s: float
) -> Trained:
    """Train a world model for ``processor_s`` seconds of this process's processor time.

    Time used by other processes does not count. The learning rate follows its whole schedule,
    however many steps are made. Nothing is saved and no gates are applied.

    Args:
        episodes: training data.
        out: empty folder for this run.
        config: model and training; ``train.steps`` only sets the share of the warm-up.
        seed: seed of weights, windows, projections and split.
        processor_s: s.

    Raises:
        DataError, TrainingError: see ``train_world_model``.
    """
    prepare_cpu(threads=1)
    run = TrainingRun(episodes, out, config, seed, resume=False)
    train, began = config.train, time.process_time()

    def used_s() -> float:
        return time.process_time() - began

    def loss(step: int) -> Tensor:
        return step_losses(run, step, run.windows.batch(step, train.batch)).total(train)

    steps = itertools.takewhile(lambda _: used_s() < processor_s, itertools.count())
    optimizer = run.optimizer(steps, lambda: used_s() / processor_s * train.steps)
    count = len(fit(run.model, loss, optimizer, 'world model'))
    frames_per_s = count * train.batch * train.window / used_s()
    recompute_batch_statistics(run.model, run.windows, train.batch, count)
    round_weights(run.model)
    return Trained(run.model, run.training, run.held_out, count, frames_per_s)
