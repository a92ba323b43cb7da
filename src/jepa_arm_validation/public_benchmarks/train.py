"""Training for the public benchmarks: a world model that sees images only, actor and value.

Goals are latents, because the tasks are given as goal images.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import ModelConfig, ModelFile, load
from jepa_arm.core.files import config_path
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.model.checkpoint_files import load_module, save_module
from jepa_arm.model.heads.actor_critic import ActorCritic, latent_goal_features
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.training.actor_critic import train_actor, train_value
from jepa_arm.training.cpu import prepare_cpu
from jepa_arm.training.encoding import EncodedEpisodes, encode_episodes
from jepa_arm.training.gates import prediction_report, rollout_windows
from jepa_arm.training.hindsight import Batch, Trajectories
from jepa_arm_validation.timed_training import train_for

from .environments import Environment

MODEL: dict[str, Any] = {
    'conv_channels': (16, 32, 64, 128),
    'predictor_width': 256,
    'inverse_dynamics_width': 0,
    'uses_proprioception': False,
}
"""Changes to the model of ``config/model/compact.yaml``."""
TRAIN: dict[str, Any] = {
    'steps': 7000,
    'inverse_dynamics_weight': 0.0,
    'colour_augmentation': False,
}
"""Changes to the training of that model; ``steps`` only sets the share of the warm-up."""
SEED = 0
"""Seed of weights, windows and split."""
MAX_STEPS = 50
"""Largest distance of hindsight goals in control steps: the published budget."""
ERROR_STEPS = 5
"""Model steps of the reported open-loop errors."""
MAX_WINDOWS = 4000
"""Approximate number of windows over which the errors are measured."""


@dataclass(frozen=True)
class TrainedModel:
    """World model with actor and value, in eval mode.

    Attributes:
        model, actor_critic: the trained networks.
        figures: processor time (minutes), steps, losses and errors of the training.
    """

    model: WorldModel
    actor_critic: ActorCritic
    figures: dict[str, float]


def configuration(actor_critic_steps: int) -> ModelFile:
    """Return the settings of a wider compact model: images only, no colour augmentation."""
    base = load(ModelFile, config_path('model/compact.yaml'))
    assert isinstance(base.model, ModelConfig)
    heads = replace(
        base.actor_critic,
        max_steps=MAX_STEPS,
        actor_steps=actor_critic_steps,
        value_steps=actor_critic_steps,
    )
    return ModelFile(replace(base.model, **MODEL), replace(base.train, **TRAIN), heads)


def train(environment: Environment, episodes: EpisodeFile, folder: Path) -> TrainedModel:
    """Train world model, actor and value, or load those that ``folder`` already holds.

    Args:
        environment: environment, which sets the training time. episodes: training data.
        folder: folder of weights and figures.
    """
    record, config = folder / 'training.json', configuration(environment.actor_critic_steps)
    if record.exists():
        figures = json.loads(record.read_text())
        model = _load_model(episodes, folder, config, figures)
    else:
        model, figures = _train_model(environment, episodes, folder, config)
        record.write_text(json.dumps(figures, indent=1) + '\n')
    torch.manual_seed(SEED)
    actor_critic = ActorCritic(
        model.latent_dim, model.block_width, MAX_STEPS, uses_latent_goals=True
    )
    if 'actor_critic_minutes' in figures:
        load_module(folder, 'actor_critic', actor_critic)
    else:
        figures |= _train_actor_critic(actor_critic, model, episodes, config)
        save_module(folder, 'actor_critic', actor_critic)
        record.write_text(json.dumps(figures, indent=1) + '\n')
    return TrainedModel(model, actor_critic.eval().requires_grad_(False), figures)


def _train_model(
    environment: Environment, episodes: EpisodeFile, folder: Path, config: ModelFile
) -> tuple[WorldModel, dict[str, float]]:
    """Train and save the world model; return it with the figures of its training."""
    trained = train_for(episodes, folder / 'run', config, SEED, 60.0 * environment.minutes)
    model = trained.model
    assert isinstance(model, WorldModel)
    save_module(folder, 'model', model)
    return model, {
        'model_minutes': environment.minutes,
        'model_steps': trained.steps,
        'episodes': len(episodes),
        'frames': episodes.frames,
        'image_mean': model.normaliser.image_mean,
        'image_std': model.normaliser.image_std,
    }


def _load_model(
    episodes: EpisodeFile, folder: Path, config: ModelFile, figures: dict[str, float]
) -> WorldModel:
    assert isinstance(config.model, ModelConfig)
    width = episodes.contract.proprio_width  # normalised, but not used by this model
    normaliser = Normaliser(
        figures['image_mean'], figures['image_std'], (0.0,) * width, (1.0,) * width
    )
    model = WorldModel(config.model, episodes.contract, normaliser)
    load_module(folder, 'model', model)
    return model


def _train_actor_critic(
    actor_critic: ActorCritic, model: WorldModel, episodes: EpisodeFile, config: ModelFile
) -> dict[str, float]:
    """Train actor and value on the training split; return errors, losses and minutes."""
    prepare_cpu(threads=1)
    began = time.process_time()
    encoded = encode_episodes(model, episodes, episodes.split(SEED, config.train.held_out))
    figures = _held_out_errors(model, encoded)
    trajectories = Trajectories.training_split(encoded)
    for name, fit in (('actor', train_actor), ('value', train_value)):
        rng = np.random.default_rng([SEED, ord(name[0])])
        data = LatentHindsightSampler(trajectories, rng)
        figures[f'{name}_loss'] = fit(actor_critic, data, config.actor_critic)
    figures['actor_critic_steps'] = config.actor_critic.actor_steps
    figures['actor_critic_minutes'] = (time.process_time() - began) / 60.0
    return figures


def _held_out_errors(model: WorldModel, encoded: EncodedEpisodes) -> dict[str, float]:
    """Measure the mean squared error 1 and 5 model steps ahead, and that of persistence."""
    episodes, held_out = encoded.episodes, encoded.held_out
    span = (ERROR_STEPS + 1) * episodes.contract.time.frame_skip
    offsets, lengths = episodes.ep_offset[held_out], episodes.ep_len[held_out]
    starts = np.concatenate(
        [np.arange(offset, offset + n - span) for offset, n in zip(offsets, lengths, strict=True)]
    )
    starts = starts[:: max(1, len(starts) // MAX_WINDOWS)]
    windows = rollout_windows(model, encoded, starts, ERROR_STEPS)
    report = prediction_report(model, windows, SEED)
    return {
        'error_1': report['mse'][0],
        'error_5': report['mse'][-1],
        'persistence_error_1': report['persistence_mse'][0],
        'persistence_error_5': report['persistence_mse'][-1],
    }


class LatentHindsightSampler:
    """Sampler of transitions with latents as goals, without labels; see ``GoalSampler``.

    A goal counts as reached in its own frame only. Future goals therefore lie whole model steps
    ahead: otherwise the recorded path would step over them.
    """

    def __init__(self, trajectories: Trajectories, rng: np.random.Generator) -> None:
        self._trajectories, self._rng = trajectories, rng
        self._now, self._start, self._end = trajectories.transitions()

    def sample(self, count: int, max_steps: int, random_goals: float) -> Batch:
        """Return ``count`` transitions with goals; see ``GoalSampler.sample``.

        Half of the random goals are from the same episode, past or future; the others from any.

        Returns:
            z, z_prev, z_next, goal (B, D); action (B, K*A), K per model step; gap (B,) control
            steps to the goal: 0 if it is reached now, infinite for other random goals; remaining
            (B,) control steps to the future goal, even if a random goal replaces it.
        """
        rng, skip = self._rng, self._trajectories.frame_skip
        pick = rng.integers(0, len(self._now), count)
        now, start, end = self._now[pick], self._start[pick], self._end[pick]
        blocks = rng.integers(0, max_steps // skip + 1, count)
        blocks = np.minimum(blocks, (end - now) // skip)
        if random_goals == 0.0:
            blocks = np.maximum(blocks, 1)
        goal = now + skip * blocks
        gap = (skip * blocks).astype(np.float32)
        is_random = rng.random(count) < random_goals
        same = start + (rng.random(count) * (end - start + 1)).astype(np.int64)
        anywhere = self._now[rng.integers(0, len(self._now), count)]
        random = np.where(rng.random(count) < 0.5, same, anywhere)
        goal = np.where(is_random, random, goal)
        gap = np.where(is_random, np.where(random == now, 0.0, np.inf), gap)
        rows = {
            **self._trajectories.batch(now, start),
            'goal': self._trajectories.latents[goal],
            'gap': gap.astype(np.float32),
            'remaining': (skip * blocks).astype(np.float32),
        }
        return {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in rows.items()}

    def features(self, batch: Batch, later: bool = False) -> Tensor:
        """Return the network inputs (B, 2*D); see ``GoalSampler.features``."""
        return latent_goal_features(batch['z_next' if later else 'z'], batch['goal'])

    def is_reached(self, batch: Batch, tolerance: float) -> Tensor:
        """Return a mask (B,) of the goals that are reached; see ``GoalSampler.is_reached``."""
        return batch['gap'] == 0.0
