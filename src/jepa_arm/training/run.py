"""What a training run consists of; its state is saved, and taken up exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..config import ModelConfig, ModelFile, to_dict
from ..data.episodes import EpisodeFile
from ..data.windows import WindowSampler
from ..model.architectures import build
from ..model.checkpoint import CheckpointError, save_tensors
from ..model.world_model import Normaliser
from .encoding import check_play

MIN_STD = 0.02
"""rad or m; a joint that hardly moves must not fill the latent with magnified noise."""
STATE_FILE = 'training_state.safetensors'
METRICS_FILE = 'metrics.jsonl'


class TrainingError(RuntimeError):
    """A training run that cannot start or go on; the message says what to do."""


class Run:
    """What a run consists of; its training state can be saved and taken up.

    Attributes:
        episodes, out, config, seed: see ``train_world_model``.
        training, held_out: indices of the episodes of the split.
        windows, validation: samplers of the two.
        model, optimizer: what is trained, and what trains it.
        step: that comes next; identity: what must be the same where a state is taken up.
    """

    def __init__(
        self, episodes: EpisodeFile, out: Path, config: ModelFile, seed: int, resume: bool
    ) -> None:
        check_play(episodes)
        self.episodes, self.out, self.config, self.seed = episodes, out, config, seed
        self.training, self.held_out = episodes.split(seed, config.train.held_out)
        skip = episodes.contract.time.frame_skip
        window = config.train.window
        velocity = isinstance(config.model, ModelConfig) and config.model.sees_velocity
        self.windows = WindowSampler(
            episodes,
            self.training,
            window,
            skip,
            seed,
            config.train.shifts_colours,
            config.train.windows_per_episode,
            velocity,
        )
        self.validation = WindowSampler(
            episodes, self.held_out, window, skip, seed, with_velocity=velocity
        )
        torch.manual_seed(seed)
        normaliser = fit_normaliser(episodes, self.training, seed, velocity)
        self.model = build(config.model, episodes.contract, normaliser)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.train.learning_rate,
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        self.step = 0
        self.identity = {
            'config': {key: to_dict(config)[key] for key in ('model', 'train')},
            'seed': seed,
            'data': {'seed': episodes.seed, 'episodes': len(episodes), 'frames': episodes.frames},
        }
        if resume and (out / STATE_FILE).exists():
            self._take_up(out / STATE_FILE)
        _cut_metrics(out / METRICS_FILE, self.step)

    def save(self) -> None:
        """Writes weights, batch statistics, optimiser moments and step as one whole file."""
        tensors = {f'model.{k}': v for k, v in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f'optimizer.{key}.{name}'] = value
        state = json.dumps({'step': self.step, **self.identity})
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_tensors(self.out / STATE_FILE, tensors, {'state': state})

    def _take_up(self, path: Path) -> None:
        """Goes on from the state in ``path``."""
        try:
            with safe_open(path, framework='pt') as file:
                state = json.loads((file.metadata() or {})['state'])
            tensors = load_file(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise CheckpointError(
                f'{path}: expected a training state, got a broken file ({error}); delete it or '
                'train without resuming'
            ) from error
        step = state.pop('step')
        if state != json.loads(json.dumps(self.identity)):
            raise TrainingError(
                f'{path} belongs to a run with other configuration, seed or data; train into '
                'another folder or without resuming'
            )
        weights = {
            k.removeprefix('model.'): v for k, v in tensors.items() if k.startswith('model.')
        }
        self.model.load_state_dict(weights)
        for name, parameter in self.model.named_parameters():
            moments = {
                # in the parameter's memory layout: the fused optimiser walks raw memory
                key: torch.empty_like(parameter).copy_(tensors[f'optimizer.{key}.{name}'])
                for key in ('exp_avg', 'exp_avg_sq')
            }
            count = tensors[f'optimizer.step.{name}']
            self.optimizer.state[parameter] = {'step': count, **moments}
        self.step = step


def fit_normaliser(
    episodes: EpisodeFile, indices: NDArray[np.int64], seed: int, with_velocity: bool = False
) -> Normaliser:
    """Means and deviations of the episodes ``indices``; colours from up to 2000 frames."""
    frames = np.flatnonzero(np.isin(episodes.episode_of_frames(), indices))
    proprio = episodes.proprioception(with_velocity)[frames]
    chosen = np.random.default_rng(seed).choice(frames, min(2000, len(frames)), replace=False)
    colours = episodes.pixels[np.sort(chosen)] / np.float32(255.0)
    return Normaliser(
        image_mean=float(colours.mean(dtype=np.float64)),
        image_std=max(float(colours.std(dtype=np.float64)), 1e-2),
        proprio_mean=tuple(proprio.mean(0, dtype=np.float64).tolist()),
        proprio_std=tuple(np.maximum(proprio.std(0, dtype=np.float64), MIN_STD).tolist()),
    )


def _cut_metrics(path: Path, step: int) -> None:
    """Drops rows from ``step`` on: a resumed run writes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)['step'] < step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the last line of a killed run may be cut
    path.write_text(''.join(line + '\n' for line in kept))
