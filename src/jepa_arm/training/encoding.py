"""Encoded episodes: frozen latents of all frames of an episode file, to train heads on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_arm.config import to_dict
from jepa_arm.core.files import git_hash
from jepa_arm.datasets.episodes import DataError, EpisodeFile
from jepa_arm.model.checkpoint import AnyWorldModel, Checkpoint, check_contract
from jepa_arm.model.numerics import mixed_precision
from jepa_arm.model.world_model import WorldModel

BATCH = 512
"""Frames encoded at once."""


@dataclass(frozen=True)
class EncodedEpisodes:
    """Episodes with the frozen latents of their N frames, split into training and held-out ones.

    Attributes:
        episodes: the episode file.
        z: (N, D) latents.
        features: (N, F) features of the images alone; F is 0 for models without such features.
        training, held_out: indices of episodes.
    """

    episodes: EpisodeFile
    z: NDArray[np.float32]
    features: NDArray[np.float16]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def frames_of(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which frames (N,) belong to the episodes ``indices``."""
        return np.isin(self.episodes.episode_of_frames(), indices)


@dataclass(frozen=True)
class HeadTraining:
    """Inputs for training any of the heads.

    Attributes:
        folder: checkpoint with a world model and probes, to which the head is added.
        encoded: the episodes that the world model was trained on, see ``encode_for``.
        seed: random seed of weights and batches.
    """

    folder: Path
    encoded: EncodedEpisodes
    seed: int

    def describe(self, config: Any) -> dict[str, Any]:
        """Return report entries on how the head was trained: ``config``, seed and commit."""
        return {**to_dict(config), 'seed': self.seed, 'git': git_hash()}


LabelledLatents = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Latents (N, D) of frames, and positions (N, 3) m of the object in these frames."""


def check_has_motion(episodes: EpisodeFile) -> None:
    """Check that ``episodes`` are play and not rendered scenes.

    Raises:
        DataError: they are rendered scenes.
    """
    if episodes.has_rendered_scenes:
        raise DataError(
            f'{episodes.path}: expected play, got rendered scenes, which have no motion; give the '
            'file of play they were made for'
        )


def encode_for(checkpoint: Checkpoint, data: Path) -> EncodedEpisodes:
    """Encode the episode file ``data`` by ``checkpoint``, which was trained on it.

    Raises:
        CheckpointError: the file is of another robot.
        DataError: the file cannot be used or contains rendered scenes.
    """
    episodes = EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    check_has_motion(episodes)
    training = checkpoint.info['training']
    split = episodes.split(training['seed'], training['config']['held_out'])
    return encode_episodes(checkpoint.model, episodes, split)


def encode_episodes(
    model: AnyWorldModel, episodes: EpisodeFile, split: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> EncodedEpisodes:
    """Encode all frames of ``episodes`` by ``model``, which must be in eval mode.

    ``split`` holds the indices of training and held-out episodes.
    """
    encoded = encode_frames(model, episodes.pixels, episodes.proprioception())
    return EncodedEpisodes(episodes, *encoded, *split)


@torch.inference_mode()
def encode_frames(
    model: AnyWorldModel,
    pixels: NDArray[np.uint8],
    proprio: NDArray[np.float32],
    batch: int = BATCH,
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Return the latents (N, D) of N frames and the features (N, F) of their images alone.

    They are encoded in batches under ``mixed_precision``. F is 0 for models without such features.

    Args:
        model: world model in eval mode.
        pixels: (N, h, w, 3), may be a memory map. proprio: (N, P).
        batch: frames encoded at once.
    """
    width = model.config.image_features if isinstance(model, WorldModel) else 0
    latents = np.empty((len(pixels), model.latent_dim), np.float32)
    features = np.empty((len(pixels), width), np.float16)
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        inputs = np.array(pixels[rows]), np.array(proprio[rows])
        with mixed_precision():
            if isinstance(model, WorldModel):
                z, of_images = model.encode_with_features(*inputs)
                features[rows] = of_images.float().numpy()
            else:
                z = model.encode(*inputs)
        latents[rows] = z.numpy()
    return latents, features


def open_rendered_scenes(path: Path, play: EpisodeFile, seed: int, held_out: float) -> EpisodeFile:
    """Open the rendered scenes in ``path``, made for ``play`` split by ``seed`` and ``held_out``.

    Raises:
        CheckpointError: they are of another robot.
        DataError: the file has no rendered scenes, or scenes made for another training split.
    """
    scenes = EpisodeFile(path)
    check_contract(play.contract, scenes.contract)
    expected = seed, held_out, {'seed': play.seed, 'config': play.config}
    actual = scenes.seed, scenes.config.get('held_out'), scenes.config.get('play')
    if not scenes.has_rendered_scenes or actual != expected:
        raise DataError(
            f'{path}: expected scenes rendered for {play.path} with seed {seed} and a share of '
            f'{held_out} held out; make them with jepa-arm data render'
        )
    return scenes


def encode_rendered_scenes(model: AnyWorldModel, scenes: EpisodeFile) -> LabelledLatents:
    """Return latents and object positions of all rendered ``scenes``."""
    z, _ = encode_frames(model, scenes.pixels, scenes.proprioception())
    return z, np.asarray(scenes.object_position)
