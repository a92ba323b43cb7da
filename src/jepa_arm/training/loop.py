"""Training of the world model: one loop, resumed exactly, gated at the end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from ..config import ModelFile, TrainConfig, to_dict
from ..data.episodes import EpisodeFile
from ..data.windows import Windows, WindowSampler
from ..model.architectures import AnyWorldModel
from ..model.checkpoint import round_weights, save_checkpoint
from ..model.gates import GateError
from ..model.precision import mixed_precision
from ..model.probes import Probes
from ..model.world_model import WorldModel
from .cpu import prepare_cpu, worker_pool
from .encoding import Encoded, Labelled, encode_frames, encode_stills, open_stills
from .losses import losses
from .predictor import teach_predictor
from .readout import (
    HORIZON,
    SUBJECTS,
    Fitted,
    fit_probes,
    fit_subject,
    gate_report,
    held_out_windows,
    probes_of,
)
from .report import imagine, write_training_report
from .run import METRICS_FILE, Run, TrainingError

REPORT_FILE = 'report.html'
CURVES_FOLDER = 'tensorboard'


def train_world_model(
    data: Path,
    out: Path,
    config: ModelFile,
    seed: int,
    resume: bool = True,
    progress: bool = True,
    max_minutes: float | None = None,
    curves: bool = False,
    stills: Path | None = None,
) -> tuple[Path, Encoded]:
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
        stills: of ``data``, that teach the probe of the object beside it, see ``stills``.

    Returns:
        The checkpoint folder, and what the model sees in all frames of ``data``.

    Raises:
        DataError: data that cannot be used.
        TrainingError: out of time, a loss that is not finite, a state of another run, curves
            without the package for them.
        GateError: the trained model is not good enough; nothing is shipped.
    """
    prepare_cpu()
    out.mkdir(parents=True, exist_ok=True)
    episodes = EpisodeFile(data)
    opened = stills and open_stills(stills, episodes, seed, config.train.held_out)
    run = Run(episodes, out, config, seed, resume)
    deadline = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    with _curves(out / CURVES_FOLDER if curves else None, run.step) as draw:
        _loop(run, progress, deadline, draw)
    recompute_batch_statistics(run.model, run.windows, config.train.batch, config.train.steps)
    return _finish(run, data, progress, opened)


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
    run = Run(episodes, out, config, seed, resume=False)
    run.model.train()
    began, used = time.process_time(), 0.0
    while used < processor_s:
        batch = run.windows.batch(run.step, config.train.batch)
        _train_step(run, used / processor_s * config.train.steps, batch)
        run.step += 1
        used = time.process_time() - began
    frames = run.step * config.train.batch * config.train.window
    recompute_batch_statistics(run.model, run.windows, config.train.batch, run.step)
    model = run.model.eval().requires_grad_(False)
    round_weights(model)
    return Trained(model, run.training, run.held_out, run.step, frames / used)


def _loop(
    run: Run,
    progress: bool,
    deadline: float | None,
    draw: Callable[[dict[str, float]], None],
) -> None:
    train = run.config.train
    bar = tqdm(
        total=train.steps, initial=run.step, disable=not progress, unit='step', desc='training'
    )
    saved_at = time.monotonic()
    with bar, (run.out / METRICS_FILE).open('a') as metrics, ThreadPoolExecutor(1) as ahead:
        run.model.train()
        coming = ahead.submit(run.windows.batch, run.step, train.batch)
        while run.step < train.steps:
            began, batch = time.perf_counter(), coming.result()
            if run.step + 1 < train.steps:
                coming = ahead.submit(run.windows.batch, run.step + 1, train.batch)
            row = _train_step(run, run.step, batch)
            frames = train.batch * train.window
            row['train/frames_per_s'] = frames / (time.perf_counter() - began)
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


def _train_step(run: Run, scheduled: float, batch: Windows) -> dict[str, float]:
    """One step on ``batch``, at the learning rate of step ``scheduled``."""
    train = run.config.train
    for group in run.optimizer.param_groups:
        group['lr'] = learning_rate(scheduled, train)
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
    return {
        'step': run.step,
        'train/loss': loss.item(),
        'train/pred_loss': terms.teacher_forced.item(),
        'train/rollout_loss': terms.rollout.item(),
        'train/sigreg': terms.sigreg.item(),
        'train/grad_norm': norm.item(),
    }


@torch.no_grad()
def _validate(run: Run) -> dict[str, float]:
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
        with mixed_precision():
            z = model.encode(batch.pixels.flatten(0, 1), batch.proprio.flatten(0, 1))
            model.prediction_errors(z.view(*batch.pixels.shape[:2], -1), batch.actions)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


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
            f'curves: expected the package tensorboard ({error}): pip install -e ".[curves]"'
        ) from error
    with SummaryWriter(str(folder), purge_step=step) as writer:

        def draw(row: dict[str, float]) -> None:
            for name, value in row.items():
                if name != 'step':
                    writer.add_scalar(name, value, int(row['step']))

        yield draw


def _teach_on_latents(
    run: Run, latents: NDArray[np.float32], stills: Labelled | None, progress: bool
) -> tuple[Probes, dict[str, Any]]:
    """Probes and how far off they are; meanwhile the predictor goes on alone, if it is to.

    Args:
        latents: (N, D) of all frames. stills: see ``fit_subject``.
    """
    model, config, split = run.model, run.config, (run.training, run.held_out)
    given = latents, split, config.train, run.seed, stills
    if config.predictor is None:
        return fit_probes(run.episodes, *given)
    assert isinstance(model, WorldModel)  # ModelFile sees to it
    fit = partial(_fit_subject, run.episodes.path, *given)
    threads = torch.get_num_threads()
    with worker_pool(len(SUBJECTS)) as pool:
        fitted = pool.map(fit, SUBJECTS)
        torch.set_num_threads(1)
        taught = run.training, config.predictor, run.seed
        teach_predictor(model, run.episodes, latents, *taught, progress)
        torch.set_num_threads(threads)
        round_weights(model)
        return probes_of(model.latent, fitted)


def _fit_subject(data: Path, *arguments: Any) -> Fitted:
    """``fit_subject`` in another process, which opens the file itself."""
    return fit_subject(EpisodeFile(data), *arguments)


def _finish(
    run: Run, data: Path, progress: bool, stills: EpisodeFile | None
) -> tuple[Path, Encoded]:
    """What is taught on latents, gate report, checkpoint."""
    episodes, model = run.episodes, run.model.eval().requires_grad_(False)
    round_weights(model)
    encoded = encode_frames(model, episodes)
    latents = encoded.z
    if not np.isfinite(latents).all():
        raise GateError('expected finite latents, got NaN or inf; nothing was saved')
    more = None if stills is None else encode_stills(model, stills)
    probes, measured = _teach_on_latents(run, latents, more, progress)
    report = gate_report(model, episodes, latents, run.held_out, run.seed, measured)
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
        'training': {
            'seed': run.seed,
            'steps': run.step,
            'config': to_dict(run.config.train),
            'predictor': run.config.predictor and to_dict(run.config.predictor),
        },
        'data': {
            'file': data.name,
            'seed': episodes.seed,
            'episodes': len(episodes),
            'frames': episodes.frames,
            'config': episodes.config,
            'stills': 0 if more is None else len(more[0]),
        },
    }
    save_checkpoint(run.out / 'checkpoint', model, probes, info)
    return run.out / 'checkpoint', encoded
