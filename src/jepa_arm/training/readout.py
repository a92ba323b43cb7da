"""What can be read of a trained world model: calibrated probes, and the gate report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig
from ..data.episodes import EpisodeFile
from ..data.windows import WindowSampler
from ..model.architectures import AnyWorldModel
from ..model.checkpoint import round_weights
from ..model.gates import HeldOut, effective_rank, failures, linear_r2, prediction_report
from ..model.probes import (
    Probes,
    calibrate,
    coverage,
    fit_probe,
    fit_spread,
    position_error_cm,
)

HORIZON = 5
"""Model steps ahead in the gate report."""
MOST_WINDOWS = 8192


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
