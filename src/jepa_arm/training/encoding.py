"""All frames of an episode file as a world model sees them, for what is taught on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.episodes import DataError, EpisodeFile
from ..model.architectures import AnyWorldModel
from ..model.checkpoint import Checkpoint, check_contract
from ..model.precision import mixed_precision
from ..model.world_model import WorldModel, encode_all

BATCH = 512
"""Frames encoded at once."""


@dataclass(frozen=True)
class Encoded:
    """Frozen latents of N frames.

    Attributes:
        z: (N, D). features: (N, F) of the images alone; F is 0 where the model has none.
    """

    z: NDArray[np.float32]
    features: NDArray[np.float16]


Labelled = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Latents (N, D) of frames, and positions (N, 3) m of the object in them."""


def check_play(episodes: EpisodeFile) -> None:
    """Raises DataError where ``episodes`` are stills."""
    if episodes.is_stills:
        raise DataError(
            f'{episodes.path}: expected play, got stills, which show no motion: give the file '
            'that they were made of, and them by --stills where they are taken'
        )


def split_of(
    checkpoint: Checkpoint, episodes: EpisodeFile
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the ``episodes`` that taught the model of ``checkpoint``, and of the others.

    Raises:
        DataError: they are stills.
    """
    check_play(episodes)
    about = checkpoint.info['training']
    return episodes.split(about['seed'], about['config']['held_out'])


def encode_frames(model: AnyWorldModel, episodes: EpisodeFile) -> Encoded:
    """What ``model``, in eval mode, sees in all frames of ``episodes``.

    Raises:
        CheckpointError: they are of another robot.
    """
    check_contract(model.contract, episodes.contract)
    proprio = np.asarray(episodes.proprioception(model.sees_velocity))
    if not isinstance(model, WorldModel):
        z = encode_all(model, episodes.pixels, proprio)
        return Encoded(z, np.zeros((len(z), 0), np.float16))
    latents = np.empty((len(proprio), model.latent), np.float32)
    seen = np.empty((len(proprio), model.config.image_width), np.float16)
    for start in range(0, len(proprio), BATCH):
        rows = slice(start, start + BATCH)
        with torch.inference_mode(), mixed_precision():
            given = np.array(episodes.pixels[rows]), np.array(proprio[rows])
            z, features = model.encode_parts(*given)
        latents[rows], seen[rows] = z.numpy(), features.float().numpy()
    return Encoded(latents, seen)


def open_stills(path: Path, play: EpisodeFile, seed: int, held_out: float) -> EpisodeFile:
    """The stills in ``path``, made of ``play`` with a split by ``seed`` and ``held_out``.

    Raises:
        CheckpointError: they are of another robot.
        DataError: not a file of stills, or of other arms than those of the training split.
    """
    stills = EpisodeFile(path)
    check_contract(play.contract, stills.contract)
    made = {'seed': play.seed, 'config': play.config}
    told = stills.seed, stills.config.get('held_out'), stills.config.get('play')
    if not stills.is_stills or told != (seed, held_out, made):
        raise DataError(
            f'{path}: expected stills of {play.path} with seed {seed} and a share of {held_out} '
            'held out: make them by jepa-arm stills'
        )
    return stills


def encode_stills(model: AnyWorldModel, stills: EpisodeFile) -> Labelled:
    """What ``model``, in eval mode, sees in ``stills``, and where their objects are."""
    z = encode_all(model, stills.pixels, stills.proprioception(model.sees_velocity))
    return z, np.asarray(stills.object_position)
