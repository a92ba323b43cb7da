"""What can be read of a trained world model: calibrated probes, and the gate report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import TrainConfig
from ..data.episodes import EpisodeFile
from ..data.windows import WindowSampler
from ..model.architectures import AnyWorldModel
from ..model.checkpoint import (
    check_contract,
    load_checkpoint,
    read_info,
    round_weights,
    save_module,
    write_info,
)
from ..model.gates import HeldOut, effective_rank, failures, linear_r2, prediction_report
from ..model.probes import (
    PositionProbe,
    Probes,
    calibrate,
    coverage,
    fit_probe,
    fit_spread,
    position_error_cm,
)
from .encoding import Labelled, encode_frames, encode_stills, open_stills, split_of
from .pointer import teach_pointer

HORIZON = 5
"""Model steps ahead in the gate report."""
MOST_WINDOWS = 8192
SUBJECTS = ('tip_target', 'object_position')
LABELS = {'tip_target': (500, 2000, 10000), 'object_position': (500, 2000)}
"""Frames with ground truth for which errors are told."""
SPARED = 0.2
"""Share of few labels that calibrates what the others taught."""


Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of the training and of the held-out episodes."""
Fitted = tuple[dict[str, NDArray], dict[str, Any]]
"""Weights of a probe, and how far off it is."""


def gate_report(
    model: AnyWorldModel,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    held_out: NDArray[np.int64],
    seed: int,
    probes: dict[str, Any],
) -> dict[str, Any]:
    """How well ``model`` predicts the episodes ``held_out``, and which gates it fails.

    Args:
        latents: (N, D) of all frames of ``episodes``, by ``model``.
        probes: how far off they are, see ``fit_probes``.
    """
    windows = held_out_windows(model, episodes, latents, held_out, seed)
    report: dict[str, Any] = prediction_report(model, windows, HORIZON, seed)
    rows = np.isin(episodes.episode_of_frames(), held_out)
    report['effective_rank'] = effective_rank(latents[rows])
    report['failures'] = failures(report, model.latent)
    report['probes'] = probes
    return report


def fit_probes(
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    split: Split,
    train: TrainConfig,
    seed: int,
    stills: Labelled | None = None,
) -> tuple[Probes, dict[str, Any]]:
    """Calibrated probes, and how far off they are.

    Args:
        latents: (N, D) of all frames of ``episodes``.
        stills: more of the object, see ``fit_subject``.
    """
    given = episodes, latents, split, train, seed, stills
    return probes_of(latents.shape[1], (fit_subject(*given, name) for name in SUBJECTS))


def probes_of(latent: int, fitted: Iterable[Fitted]) -> tuple[Probes, dict[str, Any]]:
    """Probes of latents (..., ``latent``), and how far off they are, of each of ``SUBJECTS``."""
    probes, report = Probes(latent), {}
    for name, (weights, measured) in zip(SUBJECTS, fitted, strict=True):
        state = {key: torch.from_numpy(value) for key, value in weights.items()}
        getattr(probes, name).load_state_dict(state)
        report[name] = measured
    return probes.eval().requires_grad_(False), report


def fit_subject(
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    split: Split,
    train: TrainConfig,
    seed: int,
    stills: Labelled | None,
    name: str,
) -> Fitted:
    """The calibrated probe of ``name``, one of ``SUBJECTS``.

    Where few labels of the object may be used, they teach and calibrate its probe; others tell
    how far off it is. Where the tip was told to go is known of every frame.

    Args:
        latents: (N, D) of all frames of ``episodes``.
        stills: that teach where the object is beside the training split, unless few labels do.
    """
    training, held_out = split
    of_frame, truth = episodes.episode_of_frames(), np.asarray(getattr(episodes, name))
    train_rows, val_rows = np.isin(of_frame, training), np.isin(of_frame, held_out)
    measured = val_rows & ~np.isin(of_frame, held_out[::2])
    taught, calibration = every = np.flatnonzero(train_rows), np.flatnonzero(val_rows & ~measured)
    is_object = name == 'object_position'
    is_few = train.probe_labels > 0 and is_object
    steps = train.probe_steps if is_object else train.tip_probe_steps or train.probe_steps
    spread_steps = steps * 3 // (80 if is_few else 8)  # a covariance is learned sooner
    if is_few:
        spared = round(SPARED * train.probe_labels)
        taught = drawn(every[0], train.probe_labels - spared, seed)
        calibration = drawn(every[1], spared, seed)
        probe = fit_probe_to_images(episodes, latents, every[0], taught, seed, train, steps)
    else:
        parts = [(latents[taught], truth[taught])]
        if stills is not None and is_object:
            parts.append(stills)
        z, positions = map(np.concatenate, zip(*parts, strict=True))
        probe = fit_probe(z, positions, seed, steps)
    fit_spread(probe, latents[taught], truth[taught], seed, spread_steps)
    round_weights(probe)
    calibrate(probe, latents[calibration], truth[calibration])
    weights = {key: value.numpy() for key, value in probe.state_dict().items()}
    return weights, {
        **position_error_cm(probe, latents[val_rows], truth[val_rows]),
        'coverage_90': coverage(probe, latents[measured], truth[measured]),
        'linear_r2': linear_r2(
            (latents[train_rows], truth[train_rows]), (latents[val_rows], truth[val_rows])
        ),
    }


def fit_probe_to_images(
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    rows: NDArray[np.int64],
    labelled: NDArray[np.int64],
    seed: int,
    train: TrainConfig,
    steps: int,
) -> PositionProbe:
    """A probe of the object's position taught by few labels and all images, see ``pointer``.

    Args:
        latents: (N, D) of all frames.
        rows: frames that may be looked at. labelled: those whose truth may be.
        steps: of the probe.
    """
    truth, camera = np.asarray(episodes.object_position), episodes.contract.camera
    pixels = np.array(episodes.pixels[labelled])
    pointer = teach_pointer(pixels, truth[labelled], camera, seed, train.pointer_steps)
    told = pointer.point(episodes.pixels)
    told[labelled] = truth[labelled]
    return fit_probe(latents[rows], told[rows], seed, steps)


def drawn(rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """``count`` of the ``rows``, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])


def train_probes(
    folder: Path, data: Path, train: TrainConfig, seed: int, stills: Path | None = None
) -> dict[str, Any]:
    """Reads positions off the world model in ``folder`` anew, and tells what labels are worth.

    Args:
        folder: checkpoint; gets ``probes.safetensors``.
        data: the episode file it was trained on.
        train: how many steps and labels; the rest of it is not asked.
        stills: of that file, that teach where the object is, too.

    Returns:
        What ``config.json`` keeps of it under ``gates``: ``probes``, and of each subject in
        ``labels`` the errors by how many frames with ground truth were used.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
    """
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    model, split, more = checkpoint.model, split_of(checkpoint, episodes), None
    if stills is not None:
        about = checkpoint.info['training']
        opened = open_stills(stills, episodes, about['seed'], about['config']['held_out'])
        more = encode_stills(model, opened)
    latents = encode_frames(model, episodes).z
    probes, measured = fit_probes(episodes, latents, split, train, seed, more)
    training, held_out = (np.isin(episodes.episode_of_frames(), part) for part in split)
    curves: dict[str, Any] = {}
    for name in SUBJECTS:
        truth, curves[name] = np.asarray(getattr(episodes, name)), {}
        for labels in (n for n in LABELS[name] if n < training.sum()):
            steps, every = train.probe_steps // 4, np.flatnonzero(training)
            rows = drawn(every, labels, seed)
            if name == 'object_position':
                few = fit_probe_to_images(episodes, latents, every, rows, seed, train, steps)
            else:
                few = fit_probe(latents[rows], truth[rows], seed, steps)
            curves[name][str(labels)] = position_error_cm(few, latents[held_out], truth[held_out])
    found = {'probes': measured, 'labels': curves}
    info = read_info(folder)
    info['gates'] |= found
    save_module(folder, 'probes', probes)
    write_info(folder, info)
    return found


def format_probes(found: dict[str, Any]) -> str:
    """What ``train_probes`` found, as a table for people."""
    lines = ['labels          ' + '   '.join(f'{name}, median / p90' for name in SUBJECTS)]
    rows = {n: [found['labels'][s].get(n) for s in SUBJECTS] for n in found['labels'][SUBJECTS[0]]}
    rows['as configured'] = [found['probes'][s] for s in SUBJECTS]
    for labels, parts in rows.items():
        cells = (f'{p["median_cm"]:9.2f} / {p["p90_cm"]:.2f} cm' if p else ' ' * 9 for p in parts)
        lines.append(f'{labels:14s}' + '     '.join(cells))
    return '\n'.join(lines)


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
