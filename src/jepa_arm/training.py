"""Training of the world model: one loop, resumed exactly, gated at the end."""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from .config import ModelConfig, ModelFile, TrainConfig, to_dict
from .data.episodes import EpisodeFile
from .data.windows import Windows, WindowSampler
from .model.architectures import AnyWorldModel, build
from .model.checkpoint import CheckpointError, round_weights, save_checkpoint, save_tensors
from .model.gates import (
    GateError,
    HeldOut,
    effective_rank,
    failures,
    linear_r2,
    prediction_report,
)
from .model.probes import (
    Probes,
    calibrate,
    coverage,
    fit_probe,
    fit_spread,
    position_error_cm,
)
from .model.sigreg import sigreg
from .model.world_model import Normaliser, WorldModel, encode_all
from .training_report import imagine, write_training_report

HORIZON = 5
"""Model steps ahead in the gate report."""
MIN_STD = 0.02
"""rad or m; a joint that hardly moves must not fill the latent with magnified noise."""
STATE_FILE = 'training_state.safetensors'
METRICS_FILE = 'metrics.jsonl'
REPORT_FILE = 'report.html'
CURVES_FOLDER = 'tensorboard'
MOST_WINDOWS = 8192


class TrainingError(RuntimeError):
    """A training run that cannot start or go on; the message says what to do."""


@dataclass(frozen=True)
class Losses:
    """Terms of the loss, each a scalar.

    Attributes:
        rollout: open-loop MSE over the steps of the window.
        teacher_forced: one-step MSE.
        sigreg: SIGReg statistic, unweighted.
        inverse: MSE of the actions told from two latents, if it has a weight.
        bend: of the latents' path, if it has a weight; see ``path_bend``.
    """

    rollout: Tensor
    teacher_forced: Tensor
    sigreg: Tensor
    inverse: Tensor | None = None
    bend: Tensor | None = None

    def total(self, train: TrainConfig) -> Tensor:
        """The weighted sum."""
        loss = self.rollout + self.teacher_forced + train.sigreg_weight * self.sigreg
        if self.inverse is not None:
            loss = loss + train.inverse_weight * self.inverse
        if self.bend is not None:
            loss = loss + train.straightening_weight * self.bend
        return loss


def prepare_cpu(threads: int | None = None) -> None:
    """Sets this process up for training on a CPU; call it before the first large tensor.

    Keeps freed memory instead of returning it to the system at every step: the page faults
    cost 2 to 5 times the step. No effect where the C library is not glibc.
    """
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)
        mallopt(m_top_pad, 1 << 28)


def train_world_model(
    data: Path,
    out: Path,
    config: ModelFile,
    seed: int,
    resume: bool = True,
    progress: bool = True,
    max_minutes: float | None = None,
    curves: bool = False,
) -> Path:
    """Trains, measures and saves a world model with its probes.

    Args:
        data: episode file.
        out: folder for ``metrics.jsonl``, the training state, ``gates.json``, ``report.html``
            and, if the gates pass, ``checkpoint/``.
        config: model and training.
        seed: of weights, windows, projections and the split.
        resume: whether to go on from the training state in ``out``; the losses are those of a
            run that was never interrupted (same machine, same number of threads).
        progress: whether to show a progress bar.
        max_minutes: stop with an error after this time; the training state is kept.
        curves: whether to write ``tensorboard/`` beside, as the training goes.

    Returns:
        The checkpoint folder.

    Raises:
        DataError: data that cannot be used.
        TrainingError: out of time, a loss that is not finite, a state of another run, curves
            without the package for them.
        GateError: the trained model is not good enough; nothing is shipped.
    """
    prepare_cpu()
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(EpisodeFile(data), out, config, seed, resume)
    deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    with _curves(out / CURVES_FOLDER if curves else None, run.step) as draw:
        _loop(run, progress, deadline, draw)
    recompute_batch_statistics(run.model, run.windows, config.train.batch, config.train.steps)
    return _finish(run, data)


@dataclass(frozen=True)
class Trained:
    """What ``train_for`` made.

    Attributes:
        model: in eval mode, without gradients, rounded as checkpoints are.
        training, held_out: episodes of the split.
        steps: optimiser steps; frames_per_s: training frames a second of processor time.
    """

    model: AnyWorldModel
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    steps: int
    frames_per_s: float


def train_for(
    episodes: EpisodeFile, out: Path, config: ModelFile, seed: int, processor_s: float
) -> Trained:
    """Trains for so much processor time of this process, so that what else runs does not count.

    The learning rate goes through its whole schedule, however many steps there are; nothing is
    saved, and no gate is asked.

    Args:
        episodes: training data. out: a folder for nothing but this run.
        config: ``train.steps`` only gives the share of the warm-up.

    Raises:
        DataError, TrainingError: see ``train_world_model``.
    """
    prepare_cpu(threads=1)
    run = _Run(episodes, out, config, seed, resume=False)
    run.model.train()
    began, used = time.process_time(), 0.0
    while used < processor_s:
        _train_step(run, used / processor_s * config.train.steps)
        run.step += 1
        used = time.process_time() - began
    frames = run.step * config.train.batch * config.train.window
    recompute_batch_statistics(run.model, run.windows, config.train.batch, run.step)
    model = run.model.eval().requires_grad_(False)
    round_weights(model)
    return Trained(model, run.training, run.held_out, run.step, frames / used)


def losses(model: AnyWorldModel, windows: Windows, train: TrainConfig, step_seed: int) -> Losses:
    """The loss terms of one batch; the encoder sees all frames of all windows at once."""
    size, length = windows.proprio.shape[:2]
    with torch.autocast('cpu', torch.bfloat16):
        z = model.encode(windows.pixels.flatten(0, 1), windows.proprio.flatten(0, 1))
        z = z.view(size, length, -1)
        rollout, teacher_forced = model.prediction_errors(z, windows.actions)
        inverse = None
        if train.inverse_weight and isinstance(model, WorldModel):
            inverse = model.inverse_error(z, windows.actions)
    generator = torch.Generator().manual_seed(step_seed)
    return Losses(
        rollout=rollout,
        teacher_forced=teacher_forced,
        sigreg=sigreg(z.transpose(0, 1), train.sigreg_projections, train.sigreg_knots, generator),
        inverse=inverse,
        bend=path_bend(z) if train.straightening_weight else None,
    )


def path_bend(z: Tensor) -> Tensor:
    """1 - cosine between successive changes of latents (B, L, D): temporal straightening."""
    change = z.diff(dim=1)
    return 1.0 - nn.functional.cosine_similarity(change[:, 1:], change[:, :-1], dim=-1).mean()


def learning_rate(step: float, train: TrainConfig) -> float:
    """Linear rise over ``warmup_steps``, then half a cosine to zero at ``steps``."""
    rise = min(1.0, (step + 1) / max(1, train.warmup_steps))
    return train.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * step / train.steps))


@torch.no_grad()
def recompute_batch_statistics(
    model: AnyWorldModel, windows: WindowSampler, size: int, first: int, batches: int = 60
) -> None:
    """Replaces running batch statistics by averages, for the final weights.

    The averages are over the batches of steps ``first`` and following.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for step in range(batches):
        batch = windows.batch(first + step, size)
        with torch.autocast('cpu', torch.bfloat16):
            z = model.encode(batch.pixels.flatten(0, 1), batch.proprio.flatten(0, 1))
            model.prediction_errors(z.view(*batch.pixels.shape[:2], -1), batch.actions)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


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


class _Run:
    """What a run consists of; its training state can be saved and taken up."""

    def __init__(
        self, episodes: EpisodeFile, out: Path, config: ModelFile, seed: int, resume: bool
    ) -> None:
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
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith('model.')}
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


@contextmanager
def _curves(folder: Path | None, step: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Takes the metrics of each step from ``step`` on, as events of TensorBoard in ``folder``."""
    if folder is None:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            f'curves: expected the package tensorboard ({error}): pip install "jepa_arm[curves]"'
        ) from error
    with SummaryWriter(str(folder), purge_step=step) as writer:

        def draw(row: dict[str, float]) -> None:
            for name, value in row.items():
                if name != 'step':
                    writer.add_scalar(name, value, int(row['step']))

        yield draw


def _loop(
    run: _Run,
    progress: bool,
    deadline: float | None,
    draw: Callable[[dict[str, float]], None],
) -> None:
    train = run.config.train
    bar = tqdm(
        total=train.steps, initial=run.step, disable=not progress, unit='step', desc='training'
    )
    saved_at = time.monotonic()
    with bar, (run.out / METRICS_FILE).open('a') as metrics:
        run.model.train()
        while run.step < train.steps:
            row = _train_step(run, run.step)
            run.step += 1
            bar.update()
            if run.step % 20 == 0:
                bar.set_postfix_str(
                    f'loss {row["train/loss"]:.3f} error {row["train/pred_loss"]:.4f} '
                    f'{row["train/frames_per_s"]:.0f} frames/s'
                )
            if run.step % train.validate_every == 0 or run.step == train.steps:
                row |= _validate(run)
            metrics.write(json.dumps(row) + '\n')
            draw(row)
            out_of_time = deadline is not None and time.monotonic() > deadline
            if out_of_time or time.monotonic() - saved_at > train.save_every_s:
                metrics.flush()
                run.save()
                saved_at = time.monotonic()
            if out_of_time and run.step < train.steps:
                raise TrainingError(
                    f'out of time at step {run.step} of {train.steps}; the same command goes on '
                    'from there'
                )
        run.save()


def _train_step(run: _Run, scheduled: float) -> dict[str, float]:
    """One step, at the learning rate of step ``scheduled``."""
    train, began = run.config.train, time.perf_counter()
    for group in run.optimizer.param_groups:
        group['lr'] = learning_rate(scheduled, train)
    batch = run.windows.batch(run.step, train.batch)
    step_seed = run.seed * 1_000_003 + run.step
    torch.manual_seed(step_seed)  # of dropout: a resumed run drops the same
    terms = losses(run.model, batch, train, step_seed)
    loss = terms.total(train)
    if not torch.isfinite(loss):
        raise TrainingError(
            f'step {run.step}: expected a finite loss, got {loss.item()}; lower learning_rate'
        )
    run.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), train.clip_norm)
    run.optimizer.step()
    seconds = time.perf_counter() - began
    return {
        'step': run.step,
        'train/loss': loss.item(),
        'train/pred_loss': terms.teacher_forced.item(),
        'train/rollout_loss': terms.rollout.item(),
        'train/sigreg': terms.sigreg.item(),
        'train/grad_norm': norm.item(),
        'train/frames_per_s': train.batch * train.window / seconds,
    }


@torch.no_grad()
def _validate(run: _Run) -> dict[str, float]:
    """Losses of fixed held-out windows, with running batch statistics."""
    run.model.eval()
    batch = run.validation.batch(0, 256)
    terms = losses(run.model, batch, run.config.train, step_seed=run.seed)
    run.model.train()
    return {
        'val/pred_loss': terms.teacher_forced.item(),
        'val/rollout_loss': terms.rollout.item(),
        'val/sigreg': terms.sigreg.item(),
    }


def _finish(run: _Run, data: Path) -> Path:
    """Probes, gate report, checkpoint."""
    episodes, model = run.episodes, run.model.eval().requires_grad_(False)
    round_weights(model)
    latents = encode_all(model, episodes.pixels, episodes.proprioception(model.sees_velocity))
    if not np.isfinite(latents).all():
        raise GateError('expected finite latents, got NaN or inf; nothing was saved')
    split = run.training, run.held_out
    probes, report = read_out(model, episodes, latents, split, run.config.train, run.seed)
    (run.out / 'gates.json').write_text(json.dumps(report, indent=1) + '\n')
    windows = held_out_windows(model, episodes, latents, run.held_out, run.seed)
    write_training_report(
        run.out / REPORT_FILE,
        f'Training of {data.name}, seed {run.seed}, {run.step} steps',
        run.out / METRICS_FILE,
        report,
        probes,
        episodes,
        latents,
        np.flatnonzero(np.isin(episodes.episode_of_frames(), run.held_out)),
        imagine(model, probes, episodes, windows, HORIZON),
    )
    if report['failures']:
        raise GateError('the model failed its gates, nothing was saved:\n  ' + '\n  '.join(
            report['failures']
        ))  # fmt: skip
    info = {
        'gates': report,
        'training': {'seed': run.seed, 'steps': run.step, 'config': to_dict(run.config.train)},
        'data': {
            'file': data.name,
            'seed': episodes.seed,
            'episodes': len(episodes),
            'frames': episodes.frames,
            'config': episodes.config,
        },
    }
    save_checkpoint(run.out / 'checkpoint', model, probes, info)
    return run.out / 'checkpoint'


def held_out_windows(
    model: AnyWorldModel,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    indices: NDArray[np.int64],
    seed: int,
) -> HeldOut:
    """Windows that ``HORIZON`` steps fit into, drawn from the episodes ``indices``.

    Args:
        latents: (N, D) of all frames of ``episodes``, by ``model``.
        indices: of the held-out episodes.
    """
    skip, length = episodes.contract.time.frame_skip, HORIZON + 1 + model.past
    starts = WindowSampler(episodes, indices, length, skip, seed).starts
    starts = np.random.default_rng(seed).permutation(starts)[:MOST_WINDOWS]
    return HeldOut(latents, np.asarray(episodes.action), starts)


def read_out(
    model: AnyWorldModel,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    split: tuple[NDArray[np.int64], NDArray[np.int64]],
    train: TrainConfig,
    seed: int,
) -> tuple[Probes, dict[str, Any]]:
    """Calibrated probes, and the gate report.

    Args:
        latents: (N, D) of all frames of ``episodes``, by ``model``.
        split: indices of the training and of the held-out episodes.
    """
    training, held_out_episodes = split
    of_frame = episodes.episode_of_frames()
    train_rows, val_rows = np.isin(of_frame, training), np.isin(of_frame, held_out_episodes)
    calibration = np.isin(of_frame, held_out_episodes[::2])
    measured = val_rows & ~calibration
    held_out = held_out_windows(model, episodes, latents, held_out_episodes, seed)
    report: dict[str, Any] = prediction_report(model, held_out, HORIZON, seed)
    report['effective_rank'] = effective_rank(latents[val_rows])
    report['failures'] = failures(report, model.latent)
    report['probes'] = {}
    probes = Probes(model.latent)
    for name in ('tip_target', 'object_position'):
        truth = np.asarray(getattr(episodes, name))
        probe = fit_probe(
            latents[train_rows],
            truth[train_rows],
            seed,
            steps=train.probe_steps,
            labels=train.probe_labels,
        )
        steps = train.probe_steps * 3 // 8  # a covariance is learned sooner
        fit_spread(probe, latents[train_rows], truth[train_rows], seed, steps)
        round_weights(probe)
        calibrate(probe, latents[calibration], truth[calibration])
        setattr(probes, name, probe)
        report['probes'][name] = {
            **position_error_cm(probe, latents[val_rows], truth[val_rows]),
            'coverage_90': coverage(probe, latents[measured], truth[measured]),
            'linear_r2': linear_r2(
                (latents[train_rows], truth[train_rows]), (latents[val_rows], truth[val_rows])
            ),
        }
    return probes, report


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
