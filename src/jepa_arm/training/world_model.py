"""Training of the world model: joint training, predictor and probes on latents, gates, report."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_arm.config import ModelFile, PredictorConfig, TrainConfig, to_dict
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.datasets.windows import Windows, WindowSampler
from jepa_arm.model.checkpoint import AnyWorldModel, save_checkpoint
from jepa_arm.model.checkpoint_files import round_weights
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.numerics import mixed_precision
from jepa_arm.model.sigreg import sigreg
from jepa_arm.model.world_model import WorldModel

from .cpu import prepare_cpu, worker_pool
from .encoding import (
    EncodedEpisodes,
    LabelledLatents,
    encode_episodes,
    encode_rendered_scenes,
    open_rendered_scenes,
)
from .fit import TrainingError, adamw, fit
from .gates import GateError, gate_report
from .probes import SUBJECTS, assemble_probes, fit_probes, fit_subject
from .report import film_strips, training_report
from .training_run import METRICS_FILE, TrainingRun

REPORT_FILE = 'report.html'
TENSORBOARD_FOLDER = 'tensorboard'
VALIDATION_WINDOWS = 256
MetricsLog = Callable[[dict[str, float]], None]
"""Function that logs the metrics of a step."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a training run besides its configuration.

    Attributes:
        seed: random seed of weights, windows, projections and split.
        resume: whether to continue from the training state in the output folder. The losses equal
            those of an uninterrupted run on the same machine with the same number of threads.
        tensorboard: whether to write event files for TensorBoard.
        rendered_scenes: scenes rendered for the episode file, as further training data for the
            probe of the object.
    """

    seed: int
    resume: bool = True
    tensorboard: bool = False
    rendered_scenes: Path | None = None


def train_world_model(
    data: Path, out: Path, config: ModelFile, options: RunOptions
) -> tuple[Path, EncodedEpisodes]:
    """Train, measure and save a world model with its probes.

    Args:
        data: episode file.
        out: folder for ``metrics.jsonl``, the training state, ``gates.json``, ``report.html``
            and, if the gates pass, ``checkpoint/``.
        config: configuration of model and training.
        options: options of the run.

    Returns:
        The checkpoint folder, and the episodes encoded by the model.

    Raises:
        DataError: the data cannot be used.
        TrainingError: a loss is not finite, the training state belongs to another run, or
            TensorBoard is missing.
        GateError: the trained model is not good enough; no checkpoint is saved.
    """
    prepare_cpu()
    out.mkdir(parents=True, exist_ok=True)
    episodes, path = EpisodeFile(data), options.rendered_scenes
    scenes = path and open_rendered_scenes(path, episodes, options.seed, config.train.held_out)
    run = TrainingRun(episodes, out, config, options.seed, options.resume)
    with _metrics_log(run, options.tensorboard) as log:
        _train(run, log)
    run.save()
    recompute_batch_statistics(run.model, run.windows, config.train.batch, config.train.steps)
    return _finish(run, scenes)


@dataclass(frozen=True)
class WorldModelLosses:
    """Terms of the world model's loss, each a scalar.

    Attributes:
        rollout: open-loop mean squared error over the steps of the window.
        teacher_forced: mean squared error of one-step predictions.
        sigreg: SIGReg statistic, unweighted.
        inverse: mean squared error of inverse dynamics; None if its weight is 0.
    """

    rollout: Tensor
    teacher_forced: Tensor
    sigreg: Tensor
    inverse: Tensor | None = None

    def metrics(self, kind: str) -> dict[str, float]:
        """Return three of the terms as metrics named ``<kind>/...``; ``kind`` is train or val."""
        terms = {'pred': self.teacher_forced, 'rollout': self.rollout}
        values = {f'{kind}/{name}_loss': term.item() for name, term in terms.items()}
        return values | {f'{kind}/sigreg': self.sigreg.item()}

    def total(self, train: TrainConfig) -> Tensor:
        """Return the weighted sum."""
        loss = self.rollout + self.teacher_forced + train.sigreg_weight * self.sigreg
        if self.inverse is not None:
            loss = loss + train.inverse_dynamics_weight * self.inverse
        return loss


def world_model_losses(
    model: AnyWorldModel, windows: Windows, train: TrainConfig, seed: int
) -> WorldModelLosses:
    """Return the loss terms of a batch, whose frames are all encoded at once.

    ``seed`` determines SIGReg's random projections.
    """
    size, length = windows.proprio.shape[:2]
    with mixed_precision():
        z = model.encode(windows.pixels.flatten(0, 1), windows.proprio.flatten(0, 1))
        z = z.view(size, length, -1)
        rollout, teacher_forced = model.prediction_errors(z, windows.actions)
        inverse = None
        if train.inverse_dynamics_weight and isinstance(model, WorldModel):
            assert model.inverse_dynamics is not None
            inferred = model.inverse_dynamics(z[:, :-1], z[:, 1:])
            inverse = (inferred - windows.actions).square().mean()
    generator = torch.Generator().manual_seed(seed)
    return WorldModelLosses(
        rollout=rollout,
        teacher_forced=teacher_forced,
        sigreg=sigreg(z.transpose(0, 1), train.sigreg_projections, train.sigreg_knots, generator),
        inverse=inverse,
    )


def step_losses(run: TrainingRun, step: int, batch: Windows) -> WorldModelLosses:
    """Return the loss terms of ``batch``, with random numbers determined by seed and ``step``."""
    seed = run.seed * 1_000_003 + step
    torch.manual_seed(seed)  # so that dropout is the same in a resumed run
    return world_model_losses(run.model, batch, run.config.train, seed)


class _WorldModelTrainer:
    """Callbacks for ``fit``: the loss; after each step, metrics, validation and saving."""

    def __init__(self, run: TrainingRun, batches: Iterator[Windows], log: MetricsLog) -> None:
        self._run, self._batches, self._log = run, batches, log
        self._saved_at, self._began = time.monotonic(), time.perf_counter()
        self._losses: WorldModelLosses | None = None

    def loss(self, step: int) -> Tensor:
        """Return the loss of the next batch."""
        self._began = time.perf_counter()
        self._losses = step_losses(self._run, step, next(self._batches))
        return self._losses.total(self._run.config.train)

    def after_step(self, step: int, loss: float, grad_norm: float) -> None:
        """Log the step; validate, and save the training state, at the configured intervals."""
        run, train = self._run, self._run.config.train
        assert self._losses is not None
        row = {
            'step': step,
            'train/loss': loss,
            **self._losses.metrics('train'),
            'train/grad_norm': grad_norm,
            'train/frames_per_s': train.batch * train.window / (time.perf_counter() - self._began),
        }
        run.step = step + 1
        if run.step % train.validate_every == 0 or run.step == train.steps:
            row |= _validate(run)
        self._log(row)
        if time.monotonic() - self._saved_at > train.save_every_s:
            run.save()
            self._saved_at = time.monotonic()


def _train(run: TrainingRun, log: MetricsLog) -> None:
    steps = range(run.step, run.config.train.steps)
    with ThreadPoolExecutor(1) as executor:
        trainer = _WorldModelTrainer(run, _prefetch(run, steps, executor), log)
        optimizer = run.optimizer(steps, itertools.count(run.step).__next__)
        fit(run.model, trainer.loss, optimizer, 'world model', trainer.after_step)


def _prefetch(run: TrainingRun, steps: range, executor: ThreadPoolExecutor) -> Iterator[Windows]:
    """Yield the batch of each of ``steps`` while the next one is being read."""
    sampler, size = run.windows, run.config.train.batch
    pending = executor.submit(sampler.batch, steps.start, size)
    for step in steps:
        batch = pending.result()
        if step + 1 < steps.stop:
            pending = executor.submit(sampler.batch, step + 1, size)
        yield batch


@torch.no_grad()
def _validate(run: TrainingRun) -> dict[str, float]:
    """Return the losses of fixed held-out windows, with running statistics of batch norm."""
    run.model.eval()
    batch = run.validation.batch(0, VALIDATION_WINDOWS)
    losses = world_model_losses(run.model, batch, run.config.train, run.seed)
    run.model.train()
    return losses.metrics('val')


@torch.no_grad()
def recompute_batch_statistics(
    model: AnyWorldModel, windows: WindowSampler, size: int, first: int, batches: int = 60
) -> None:
    """Replace the running statistics of batch normalisation by averages for the final weights.

    The averages are over ``batches`` batches of ``size`` windows, from that of step ``first`` on.
    The model is left in eval mode.
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
def _metrics_log(run: TrainingRun, tensorboard: bool) -> Iterator[MetricsLog]:
    """Yield a function that logs to a file of JSON lines and, if wanted, also to TensorBoard."""
    with ExitStack() as stack:
        writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError(
                    f'curves: expected the package tensorboard ({error}): pip install -e '
                    '".[curves]"'
                ) from error
            folder = str(run.out / TENSORBOARD_FOLDER)
            writer = stack.enter_context(SummaryWriter(folder, purge_step=run.step))
        file = stack.enter_context((run.out / METRICS_FILE).open('a', buffering=1))

        def log(row: dict[str, float]) -> None:
            file.write(json.dumps(row) + '\n')
            for name, value in row.items():
                if writer is not None and name != 'step':
                    writer.add_scalar(name, value, int(row['step']))

        yield log


def train_predictor(
    model: WorldModel, encoded: EncodedEpisodes, config: PredictorConfig, seed: int
) -> None:
    """Train only the predictor of ``model`` further, with the prediction losses of joint training.

    Joint training spends most of its time in the encoder, while the predictor learns slowest. On
    frozen latents each frame is encoded only once.

    Args:
        model: world model whose predictor is trained in place.
        encoded: episodes with its latents; the training split is used.
        config: configuration of this training.
        seed: random seed of the windows.

    Raises:
        DataError: no episode is as long as a window.
        TrainingError: a loss is not finite.
    """
    rng = np.random.default_rng((seed, 1))
    windows = WindowSampler(encoded.episodes, encoded.training, config.window, seed)

    def loss(step: int) -> Tensor:
        starts = windows.starts[rng.integers(0, len(windows.starts), config.batch)]
        with mixed_precision():
            open_loop, one_step = model.prediction_errors(*windows.latents_at(starts, encoded.z))
        return open_loop + one_step

    optimizer = adamw(model.predictor, config.steps, config.learning_rate, weight_decay=1e-3)
    fit(model.predictor, loss, optimizer, 'predictor')


def _train_on_latents(
    run: TrainingRun, encoded: EncodedEpisodes, rendered: LabelledLatents | None
) -> tuple[Probes, dict[str, Any]]:
    """Train probes and, in parallel if configured, the predictor; return probes and report."""
    model, config = run.model, run.config
    if config.predictor is None:
        return fit_probes(encoded, config.train, run.seed, rendered)
    assert isinstance(model, WorldModel)  # ModelFile checks it
    job = partial(
        fit_subject, encoded=encoded, train=config.train, seed=run.seed, rendered=rendered
    )
    threads = torch.get_num_threads()
    with worker_pool(len(SUBJECTS)) as pool:
        fitted = pool.map(job, SUBJECTS)
        torch.set_num_threads(1)
        train_predictor(model, encoded, config.predictor, run.seed)
        torch.set_num_threads(threads)
        round_weights(model)
        return assemble_probes(model.latent_dim, fitted)


def _finish(run: TrainingRun, scenes: EpisodeFile | None) -> tuple[Path, EncodedEpisodes]:
    """Train on latents, write gate results and report, and save a checkpoint if gates pass."""
    episodes, model = run.episodes, run.model
    round_weights(model)
    encoded = encode_episodes(model, episodes, (run.training, run.held_out))
    if not np.isfinite(encoded.z).all():
        raise GateError('expected finite latents, got NaN or inf; nothing was saved')
    rendered = None if scenes is None else encode_rendered_scenes(model, scenes)
    probes, errors = _train_on_latents(run, encoded, rendered)
    gates = gate_report(model, encoded, run.seed, errors)
    (run.out / 'gates.json').write_text(json.dumps(gates, indent=1) + '\n')
    title = f'Training of {episodes.path.name}, seed {run.seed}, {run.step} steps'
    strips = film_strips(model, probes, encoded, run.seed)
    page = training_report(title, run.out / METRICS_FILE, gates, probes, encoded, strips)
    (run.out / REPORT_FILE).write_text(page)
    if gates['failures']:
        raise GateError(
            'the model failed its gates, nothing was saved:\n  ' + '\n  '.join(gates['failures'])
        )
    predictor = run.config.predictor
    info = {
        'gates': gates,
        'training': {
            'seed': run.seed,
            'steps': run.step,
            'config': to_dict(run.config.train),
            'predictor': predictor and to_dict(predictor),
        },
        'data': {
            'file': episodes.path.name,
            **run.identity['data'],
            'config': episodes.config,
            'rendered_scenes': 0 if rendered is None else len(rendered[0]),
        },
    }
    save_checkpoint(run.out / 'checkpoint', model, probes, info)
    return run.out / 'checkpoint', encoded
