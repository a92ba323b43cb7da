"""The predictor goes on learning when the encoder is done, on frozen latents.

The two are taught together, see ``loop``, and most of that time goes into encoding; what is
learned most slowly is how latents change. Here each frame is encoded once.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import trange

from ..config import PredictorConfig
from ..data.episodes import EpisodeFile
from ..data.windows import WindowSampler
from ..model.optimizers import adamw
from ..model.precision import mixed_precision
from ..model.world_model import WorldModel
from .run import TrainingError

WEIGHT_DECAY, CLIP_NORM = 1e-3, 1.0
"""Of AdamW; largest norm of a gradient."""


def teach_predictor(
    model: WorldModel,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    indices: NDArray[np.int64],
    config: PredictorConfig,
    seed: int,
    progress: bool,
) -> None:
    """Teaches the predictor of ``model`` alone; the loss is that of the training before.

    Args:
        latents: (N, D) of all frames of ``episodes``, by ``model``.
        indices: of the episodes that teach.
        seed: of the windows.

    Raises:
        DataError: no episode is as long as a window.
        TrainingError: a loss that is not finite.
    """
    skip, rng = episodes.contract.time.frame_skip, np.random.default_rng((seed, 1))
    windows = WindowSampler(episodes, indices, config.window, skip, seed)
    net = model.predictor.requires_grad_(True)
    optimizer = adamw(net, config.learning_rate, WEIGHT_DECAY, config.steps)
    for step in trange(config.steps, disable=not progress, unit='step', desc='predictor'):
        starts = windows.starts[rng.integers(0, len(windows.starts), config.batch)]
        with mixed_precision():
            errors = model.prediction_errors(*windows.latents_at(starts, latents))
        loss = errors[0] + errors[1]
        if not torch.isfinite(loss):
            raise TrainingError(
                f'predictor, step {step}: expected a finite loss, got {loss.item()}; lower '
                'learning_rate'
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
    net.requires_grad_(False)
