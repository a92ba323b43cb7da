"""Training, calibration and evaluation of position probes on frozen latents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.config import TrainConfig
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.model.checkpoint_files import read_info, round_weights, save_module, write_info
from jepa_arm.model.heads.probes import COVERAGE, COVERAGE_CHI_SQUARED, PositionProbe, Probes

from .cpu import TrainedParts, load_parts, weights_of
from .encoding import (
    EncodedEpisodes,
    LabelledLatents,
    encode_for,
    encode_rendered_scenes,
    open_rendered_scenes,
)
from .fit import adamw, fit, muon_and_adamw
from .gates import linear_r2
from .object_localiser import train_localiser

SUBJECTS = ('tip_target', 'object_position')
CALIBRATION_SHARE = 0.2
"""If labels are few, share of them that calibrates the probe; the others train it."""
BATCH, LEARNING_RATE = 1024, 2e-3
POSITION_WEIGHT_DECAY, COVARIANCE_WEIGHT_DECAY = 1e-2, 1e-3
MIN_SQUARED = 1e-6
"""Added to squared distances, in units of the positions' standard deviation, before the root."""
Floats = NDArray[np.float32]


def fit_probes(
    encoded: EncodedEpisodes,
    train: TrainConfig,
    seed: int,
    rendered: LabelledLatents | None = None,
) -> tuple[Probes, dict[str, Any]]:
    """Return trained and calibrated probes, and a report on their errors; see ``fit_subject``."""
    fitted = (fit_subject(name, encoded, train, seed, rendered) for name in SUBJECTS)
    return assemble_probes(encoded.z.shape[1], fitted)


def assemble_probes(
    latent_dim: int, fitted: Iterable[TrainedParts]
) -> tuple[Probes, dict[str, Any]]:
    """Return the probes and their report from the results of ``fit_subject`` for ``SUBJECTS``."""
    probes = Probes(latent_dim)
    report = load_parts(probes, fitted)
    return probes.eval().requires_grad_(False), report


def fit_subject(
    name: str,
    encoded: EncodedEpisodes,
    train: TrainConfig,
    seed: int,
    rendered: LabelledLatents | None,
) -> TrainedParts:
    """Return the trained and calibrated probe of ``name``, one of ``SUBJECTS``, and its errors.

    If ``train.probe_labels`` limits the labels of the object, only those train and calibrate its
    probe; all others only measure it. The tip's target is known in every frame.

    Args:
        name: an attribute of the episodes.
        encoded: play data with its latents.
        train: numbers of steps and labels.
        seed: random seed of weights, batches and labelled frames.
        rendered: further training data for the object, not used with limited labels.
    """
    z, truth = encoded.z, np.asarray(getattr(encoded.episodes, name))
    is_training, is_held_out = map(encoded.frames_of, (encoded.training, encoded.held_out))
    is_measured = is_held_out & ~encoded.frames_of(encoded.held_out[::2])
    training, calibration = np.flatnonzero(is_training), np.flatnonzero(is_held_out & ~is_measured)
    is_object = name == 'object_position'
    has_few_labels = train.probe_labels > 0 and is_object
    steps = train.probe_steps if is_object else train.tip_probe_steps or train.probe_steps
    # a covariance needs fewer steps than a mean
    covariance_steps = steps * 3 // (80 if has_few_labels else 8)
    if has_few_labels:
        count = round(CALIBRATION_SHARE * train.probe_labels)
        labelled = draw_frames(training, train.probe_labels - count, seed)
        calibration = draw_frames(calibration, count, seed)
        positions = _pseudo_labels(encoded.episodes, labelled, seed, train.localiser_steps)
        parts, training = [(z[training], positions[training])], labelled
    else:
        parts = [(z[training], truth[training])]
        parts += [rendered] if rendered is not None and is_object else []
    latents, targets = map(np.concatenate, zip(*parts, strict=True))
    probe = fit_probe(latents, targets, seed, steps)
    fit_covariance(probe, z[training], truth[training], seed, covariance_steps)
    round_weights(probe)
    calibrate_covariance(probe, z[calibration], truth[calibration])
    held_out = z[is_held_out], truth[is_held_out]
    errors = {
        **position_error_cm(probe, *held_out),
        'coverage_90': coverage(probe, z[is_measured], truth[is_measured]),
        'linear_r2': linear_r2((z[is_training], truth[is_training]), held_out),
    }
    return {name: weights_of(probe)}, {name: errors}


def _pseudo_labels(
    episodes: EpisodeFile, labelled: NDArray[np.int64], seed: int, steps: int
) -> Floats:
    """Return positions (N, 3) m of the object in all frames; see ``object_localiser``.

    Args:
        episodes: play.
        labelled: frames whose true position may be used.
        seed, steps: random seed and optimiser steps of the localiser's training.
    """
    truth = np.asarray(episodes.object_position)[labelled]
    images = np.array(episodes.pixels[labelled])
    localiser = train_localiser(images, truth, episodes.contract.camera, seed, steps)
    positions = localiser.locate(episodes.pixels)
    positions[labelled] = truth
    return positions


def fit_probe(latents: Floats, positions: Floats, seed: int, steps: int) -> PositionProbe:
    """Return a probe trained on frozen latents by the mean distance to the truth.

    Distances are used instead of their squares so that the few frames in which the object is
    hidden do not dominate the loss.

    Args:
        latents: (N, D). positions: (N, 3) m, ground truth.
        seed: random seed of weights and batches.
        steps: number of optimiser steps.
    """
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(np.asarray(latents)), torch.from_numpy(np.asarray(positions))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = PositionProbe(x.shape[1]).requires_grad_(False)
    probe.mean.copy_(y.mean(0))
    probe.std.fill_(y.std(0).max())  # one for all axes: an object's height hardly varies

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(x), BATCH))
        squared = ((probe(x[rows]) - y[rows]) / probe.std).square().sum(-1)
        return (squared + MIN_SQUARED).sqrt().mean()

    net = probe.position_net
    optimizer = muon_and_adamw(net, steps, LEARNING_RATE, POSITION_WEIGHT_DECAY, float('inf'))
    fit(net, loss, optimizer, 'position probe')
    return probe.eval()


def fit_covariance(
    probe: PositionProbe, latents: Floats, positions: Floats, seed: int, steps: int
) -> None:
    """Train the covariance of ``probe`` in place by Gaussian likelihood.

    Args:
        probe: probe with a trained mean.
        latents: (N, D). positions: (N, 3) m, ground truth.
        seed: random seed of the batches.
        steps: number of optimiser steps.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        x = torch.from_numpy(latents)
        residual = torch.from_numpy(positions) - probe(x)
    probe.error_scale.copy_(residual.square().mean().sqrt())

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(x), BATCH))
        factor = probe.precision_factor(x[rows])
        white = (factor @ (residual[rows] / probe.error_scale)[..., None])[..., 0]
        log_determinant = torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1)
        return (0.5 * white.square().sum(-1) - log_determinant).mean()

    net = probe.precision_net
    optimizer = adamw(net, steps, LEARNING_RATE, COVARIANCE_WEIGHT_DECAY, float('inf'))
    fit(net, loss, optimizer, 'probe covariance')


@torch.inference_mode()
def calibrate_covariance(probe: PositionProbe, latents: Floats, positions: Floats) -> None:
    """Scale the covariance of ``probe`` so that its 90 % region contains 90 % of ``positions``.

    This is split-conformal calibration: the frames must not have been used for training.

    Args:
        probe: probe whose ``error_scale`` is set in place.
        latents: (N, D). positions: (N, 3) m, ground truth.
    """
    squared = _squared_distance(probe, latents, positions)
    probe.error_scale.mul_((torch.quantile(squared, COVERAGE) / COVERAGE_CHI_SQUARED).sqrt())


@torch.inference_mode()
def coverage(probe: PositionProbe, latents: Floats, positions: Floats) -> float:
    """Return the share of ``positions`` (N, 3) m in the probe's 90 % regions for ``latents``."""
    squared = _squared_distance(probe, latents, positions)
    return float((squared <= COVERAGE_CHI_SQUARED).float().mean())


def _squared_distance(probe: PositionProbe, latents: Floats, positions: Floats) -> Tensor:
    """Return squared Mahalanobis distances (N,) of ``positions`` from the probe's estimates."""
    z = torch.from_numpy(latents)
    return probe.whiten(z, torch.from_numpy(positions) - probe(z)).square().sum(-1)


@torch.inference_mode()
def position_error_cm(
    probe: PositionProbe, latents: Floats, positions: Floats
) -> dict[str, float]:
    """Return median and 90th percentile (cm) of the distance of estimates from ``positions``."""
    distance = np.linalg.norm(probe(torch.from_numpy(latents)).numpy() - positions, axis=1)
    return {
        'median_cm': float(np.median(distance) * 100),
        'p90_cm': float(np.quantile(distance, 0.9) * 100),
    }


def draw_frames(frames: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return a sorted random sample of ``count`` of the ``frames``, without replacement."""
    return np.sort(np.random.default_rng(seed).permutation(frames)[:count])


def train_probes(
    folder: Path, data: Path, train: TrainConfig, seed: int, rendered_scenes: Path | None = None
) -> dict[str, Any]:
    """Retrain the probes of the checkpoint in ``folder``.

    Args:
        folder: checkpoint; its ``probes.safetensors`` is replaced.
        data: the episode file that the world model was trained on.
        train: numbers of steps and labels of the probes; all else is ignored.
        seed: random seed of weights, batches and labelled frames.
        rendered_scenes: scenes rendered for ``data``, as further training data for the object.

    Returns:
        The entry ``gates.probes`` of ``config.json``: the errors of each subject.

    Raises:
        CheckpointError, DataError: a file cannot be used, or the files do not belong together.
    """
    checkpoint, rendered = load_checkpoint(folder), None
    if rendered_scenes is not None:
        info = checkpoint.info['training']
        split = info['seed'], info['config']['held_out']
        scenes = open_rendered_scenes(rendered_scenes, EpisodeFile(data), *split)
        rendered = encode_rendered_scenes(checkpoint.model, scenes)
    probes, errors = fit_probes(encode_for(checkpoint, data), train, seed, rendered)
    info = read_info(folder)
    info['gates']['probes'] = errors
    save_module(folder, 'probes', probes)
    write_info(folder, info)
    return errors
