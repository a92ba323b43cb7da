"""Trains our compact model from images alone, and the heads that are told goal latents."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from jepa_arm.config import ModelConfig, ModelFile, load
from jepa_arm.data.episodes import EpisodeFile
from jepa_arm.model.checkpoint import load_module, save_module
from jepa_arm.model.world_model import Normaliser, WorldModel, encode_all
from jepa_arm.planning.heads import Heads
from jepa_arm.resources import config_path
from jepa_arm.training.cpu import prepare_cpu
from jepa_arm.training.hindsight import train_actor, train_value
from jepa_arm.training.latent_hindsight import LatentHindsight
from jepa_arm.training.loop import train_for

MAX_STEPS = 50
"""Control steps of the longest hindsight: the published budget."""


@dataclass(frozen=True)
class Brain:
    """What plans: a world model and its heads, in eval mode.

    Attributes:
        model, heads: trained.
        info: minutes of processor time, steps, errors.
    """

    model: WorldModel
    heads: Heads
    info: dict[str, float]


def configuration(heads_steps: int) -> ModelFile:
    """The compact model before it was made smaller, without joints and without turned hues."""
    base = load(ModelFile, config_path('model/ablated.yaml'))
    assert isinstance(base.model, ModelConfig) and base.heads is not None
    return replace(
        base,
        model=replace(base.model, sees_joints=False),
        train=replace(base.train, shifts_colours=False),
        heads=replace(
            base.heads, max_steps=MAX_STEPS, actor_steps=heads_steps, value_steps=heads_steps
        ),
    )


def train(
    episodes: EpisodeFile, folder: Path, minutes: float, heads_steps: int, seed: int = 0
) -> Brain:
    """A world model after so many minutes of processor time, and its heads; kept in ``folder``.

    What is there already is not trained again.
    """
    record, config = folder / 'brain.json', configuration(heads_steps)
    folder.mkdir(parents=True, exist_ok=True)
    info: dict[str, float] = {}
    if record.exists():
        info = json.loads(record.read_text())
        model = _load_model(episodes, folder, config, info)
    else:
        model = _train_model(episodes, folder, config, minutes, seed, info)
        record.write_text(json.dumps(info, indent=1) + '\n')
    torch.manual_seed(seed)
    heads = Heads(model.latent, model.block_width, MAX_STEPS, of_latents=True)
    if 'heads_minutes' in info:
        load_module(folder, 'heads', heads)
    else:
        _train_heads(heads, model, episodes, config, seed, info)
        save_module(folder, 'heads', heads)
        record.write_text(json.dumps(info, indent=1) + '\n')
    return Brain(model, heads.eval().requires_grad_(False), info)


def _train_model(
    episodes: EpisodeFile,
    folder: Path,
    config: ModelFile,
    minutes: float,
    seed: int,
    info: dict[str, float],
) -> WorldModel:
    trained = train_for(episodes, folder / 'run', config, seed, 60.0 * minutes)
    model = trained.model
    assert isinstance(model, WorldModel)
    save_module(folder, 'model', model)
    info |= {
        'model_minutes': minutes,
        'model_steps': trained.steps,
        'episodes': len(episodes),
        'frames': episodes.frames,
        'image_mean': model.normaliser.image_mean,
        'image_std': model.normaliser.image_std,
    }
    return model


def _load_model(
    episodes: EpisodeFile, folder: Path, config: ModelFile, info: dict[str, float]
) -> WorldModel:
    assert isinstance(config.model, ModelConfig)
    zeros = (0.0,) * episodes.contract.proprio_width  # it sees no proprioception
    ones = tuple(zero + 1.0 for zero in zeros)
    normaliser = Normaliser(info['image_mean'], info['image_std'], zeros, ones)
    model = WorldModel(config.model, episodes.contract, normaliser)
    load_module(folder, 'model', model)
    return model


def _train_heads(
    heads: Heads,
    model: WorldModel,
    episodes: EpisodeFile,
    config: ModelFile,
    seed: int,
    info: dict[str, float],
) -> None:
    """Fits ``heads`` on latents of the training split; ``info`` gets errors, losses, minutes."""
    assert config.heads is not None
    prepare_cpu(threads=1)
    began = time.process_time()
    training, held_out = episodes.split(seed, config.train.held_out)
    latents = encode_all(model, episodes.pixels, episodes.proprioception())
    info |= _held_out_errors(model, episodes, latents, held_out)
    for name, fit in (('actor', train_actor), ('value', train_value)):
        data = LatentHindsight(
            latents,
            np.asarray(episodes.action),
            episodes.ep_offset[training],
            episodes.ep_len[training],
            episodes.contract.time.frame_skip,
            np.random.default_rng([seed, ord(name[0])]),
        )
        info[f'{name}_loss'] = fit(heads, data, config.heads, False)
    info['heads_steps'] = config.heads.actor_steps
    info['heads_minutes'] = (time.process_time() - began) / 60.0


@torch.inference_mode()
def _held_out_errors(
    model: WorldModel, episodes: EpisodeFile, latents: np.ndarray, held_out: np.ndarray
) -> dict[str, float]:
    """Mean squared error one and five model steps ahead, and that of expecting no change."""
    skip, steps = episodes.contract.time.frame_skip, 5
    span = (steps + 1) * skip
    firsts = [
        np.arange(offset, offset + length - span)
        for offset, length in zip(
            episodes.ep_offset[held_out], episodes.ep_len[held_out], strict=True
        )
    ]
    first = np.concatenate(firsts)
    first = first[:: max(1, len(first) // 4000)]
    z = torch.from_numpy(latents)
    now = first + skip
    controls = np.add.outer(now, np.arange(steps * skip))
    blocks = torch.from_numpy(np.asarray(episodes.action)[controls])
    blocks = blocks.reshape(len(first), steps, -1)
    imagined = model.rollout(z[now], z[first], blocks)
    true = torch.stack([z[now + skip * (i + 1)] for i in range(steps)], 1)
    wrong = (imagined - true).square().mean((0, 2))
    still = (z[now][:, None] - true).square().mean((0, 2))
    return {
        'error_1': float(wrong[0]),
        'error_5': float(wrong[-1]),
        'still_1': float(still[0]),
        'still_5': float(still[-1]),
    }
