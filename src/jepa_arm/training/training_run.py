"""Training run of a world model: model, optimiser and data, saved and resumed exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

from jepa_arm.config import ModelFile, TrainConfig, to_dict
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.datasets.windows import WindowSampler
from jepa_arm.model.checkpoint import build_world_model
from jepa_arm.model.checkpoint_files import CheckpointError, save_tensors
from jepa_arm.model.world_model import Normaliser

from .encoding import check_has_motion
from .fit import ScheduledOptimizer, TrainingError

MIN_STD = 0.02
"""rad or m, lower bound on the standard deviation that scales proprioception: a joint that hardly
moves must not fill the latent with amplified noise."""
STATE_FILE = 'training_state.safetensors'
METRICS_FILE = 'metrics.jsonl'


class TrainingRun:
    """World model with its optimiser and data, which can be saved and resumed.

    Attributes:
        episodes, out, config, seed: see ``train_world_model``.
        training, held_out: indices of the episodes of the split.
        windows, validation: samplers of windows from training and from held-out episodes.
        model: the world model. adamw: its optimiser.
        step: index of the next optimiser step.
        identity: values that a training state must have in common with this run to be resumed.
    """

    def __init__(
        self, episodes: EpisodeFile, out: Path, config: ModelFile, seed: int, resume: bool
    ) -> None:
        check_has_motion(episodes)
        train = config.train
        self.episodes, self.out, self.config, self.seed = episodes, out, config, seed
        self.training, self.held_out = episodes.split(seed, train.held_out)
        options = train.windows_per_episode, train.colour_augmentation
        self.windows = WindowSampler(episodes, self.training, train.window, seed, *options)
        self.validation = WindowSampler(episodes, self.held_out, train.window, seed)
        torch.manual_seed(seed)
        normaliser = fit_normaliser(episodes, self.training, seed)
        self.model = build_world_model(config.model, episodes.contract, normaliser)
        parameters, decay = self.model.parameters(), train.weight_decay
        # the schedule multiplies a learning rate of 1
        self.adamw = torch.optim.AdamW(parameters, lr=1.0, weight_decay=decay, fused=True)
        self.step = 0
        self.identity = {
            'config': {key: to_dict(config)[key] for key in ('model', 'train')},
            'seed': seed,
            'data': {'seed': episodes.seed, 'episodes': len(episodes), 'frames': episodes.frames},
        }
        if resume and (out / STATE_FILE).exists():
            self._resume(out / STATE_FILE)
        metrics = out / METRICS_FILE
        if metrics.exists():  # a resumed run writes the rows from its step on again
            rows = metrics.read_text().splitlines(keepends=True)
            metrics.write_text(''.join(rows[: self.step]))

    def optimizer(self, steps: Iterable[int], position: Callable[[], float]) -> ScheduledOptimizer:
        """Return the optimiser with its schedule.

        Args:
            steps: indices of the optimiser steps to make.
            position: returns the index of the next step, on which the learning rate depends.
        """
        train = self.config.train
        schedule = LambdaLR(self.adamw, lambda _: learning_rate(position(), train))
        return ScheduledOptimizer([self.adamw], [schedule], steps, train.clip_norm)

    def save(self) -> None:
        """Write weights, batch statistics, optimiser moments and step as one file, atomically."""
        tensors = {f'model.{k}': v for k, v in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.adamw.state[parameter].items():
                tensors[f'optimizer.{key}.{name}'] = value
        state = json.dumps({'step': self.step, **self.identity})
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_tensors(self.out / STATE_FILE, tensors, {'state': state})

    def _resume(self, path: Path) -> None:
        """Load the state in ``path``.

        Raises:
            CheckpointError: the file is broken.
            TrainingError: it is the state of another run.
        """
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
        self.model.load_state_dict({k: tensors[f'model.{k}'] for k in self.model.state_dict()})
        for name, parameter in self.model.named_parameters():
            moments = {
                # in the parameter's memory layout: the fused optimiser walks raw memory
                key: torch.empty_like(parameter).copy_(tensors[f'optimizer.{key}.{name}'])
                for key in ('exp_avg', 'exp_avg_sq')
            }
            count = tensors[f'optimizer.step.{name}']
            self.adamw.state[parameter] = {'step': count, **moments}
        self.step = step


def learning_rate(step: float, train: TrainConfig) -> float:
    """Return the learning rate at ``step``: linear warm-up, then half a cosine to zero."""
    warmup = min(1.0, (step + 1) / max(1, train.warmup_steps))
    return train.learning_rate * warmup * 0.5 * (1.0 + math.cos(math.pi * step / train.steps))


def fit_normaliser(episodes: EpisodeFile, indices: NDArray[np.int64], seed: int) -> Normaliser:
    """Return the statistics of the episodes ``indices``; colours use at most 2000 frames."""
    frames = np.flatnonzero(np.isin(episodes.episode_of_frames(), indices))
    proprio = episodes.proprioception()[frames]
    chosen = np.random.default_rng(seed).choice(frames, min(2000, len(frames)), replace=False)
    colours = episodes.pixels[np.sort(chosen)] / np.float32(255.0)
    return Normaliser(
        image_mean=float(colours.mean(dtype=np.float64)),
        image_std=max(float(colours.std(dtype=np.float64)), 1e-2),
        proprio_mean=tuple(proprio.mean(0, dtype=np.float64).tolist()),
        proprio_std=tuple(np.maximum(proprio.std(0, dtype=np.float64), MIN_STD).tolist()),
    )
