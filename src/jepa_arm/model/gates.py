"""Gates: what a trained world model must show on held-out episodes before it is shipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .architectures import AnyWorldModel
from .world_model import before

MAX_ERROR_SHARE = 0.2
MIN_SHUFFLED_RATIO = 2.0
MIN_RANK_SHARE = 0.25
LongArray = NDArray[np.int64]


class GateError(RuntimeError):
    """A trained model that failed its gates; the message names them."""


@dataclass(frozen=True)
class HeldOut:
    """Latents and actions of all frames, and where windows of held-out episodes start.

    Attributes:
        latents: (N, D).
        actions: (N, A) in [-1, 1]; the last row of an episode is never read.
        starts: (W,) frames from which horizon + 1 + ``past`` frames of the model stay inside one
            episode.
    """

    latents: NDArray[np.float32]
    actions: NDArray[np.float32]
    starts: LongArray


@torch.inference_mode()
def prediction_report(
    model: AnyWorldModel, data: HeldOut, horizon: int, seed: int
) -> dict[str, Any]:
    """Open-loop error per model step, beside persistence and shuffled actions.

    Returns:
        ``mse``, ``persistence_mse``: lists over 1..horizon; ``shuffled_mse``: one step.
    """
    now, z_prev, actions, after = windows_of(model, data, horizon)
    predicted = model.rollout(now, z_prev, actions)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(now)))
    shuffled = model.predict(now, z_prev, actions[order, 0])
    return {
        'mse': (predicted - after).square().mean((0, 2)).tolist(),
        'persistence_mse': (now[:, None] - after).square().mean((0, 2)).tolist(),
        'shuffled_mse': float((shuffled - after[:, 0]).square().mean()),
    }


def windows_of(
    model: AnyWorldModel, data: HeldOut, horizon: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``model.rollout`` takes in each window, and what then came.

    Returns:
        z (W, D), z_prev (W, past*D), action blocks (W, horizon, K*A), latents (W, horizon, D).
    """
    skip, past = model.contract.time.frame_skip, model.past
    frames = np.add.outer(data.starts, np.arange(horizon + 1 + past) * skip)
    controls = np.add.outer(data.starts + past * skip, np.arange(horizon * skip))
    z = torch.from_numpy(data.latents[frames])
    actions = torch.from_numpy(data.actions[controls]).reshape(len(z), horizon, -1)
    return z[:, past], before(z, past, past + 1, past)[:, 0], actions, z[:, past + 1 :]


def effective_rank(latents: NDArray[np.float32]) -> float:
    """exp of the entropy of the normalised spectrum of the covariance of (N, D); 1..D."""
    spectrum = np.linalg.eigvalsh(np.cov(latents.astype(np.float64), rowvar=False))
    shares = np.clip(spectrum, 0.0, None)
    if not shares.sum() > 0.0:
        return 1.0
    shares = shares[shares > 0.0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def linear_r2(
    train: tuple[NDArray[np.float32], NDArray[np.float32]],
    held_out: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> float:
    """R² on held-out (latents, targets) of the least-squares map fitted on the training ones.

    The mean over target dimensions that vary by more than 1e-4.
    """
    design = np.column_stack([train[0], np.ones(len(train[0]))]).astype(np.float64)
    gram = design.T @ design + 1e-6 * len(design) * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design.T @ train[1].astype(np.float64))
    predicted = np.column_stack([held_out[0], np.ones(len(held_out[0]))]) @ weights
    residual = ((held_out[1] - predicted) ** 2).mean(0)
    variance = held_out[1].var(0)
    varies = variance > 1e-8
    return float(1.0 - (residual[varies] / variance[varies]).mean())


def failures(report: dict[str, Any], latent: int) -> list[str]:
    """The gates that ``report`` fails, in words; empty if it may be shipped."""
    one, still = report['mse'][0], report['persistence_mse'][0]
    numbers = [*report['mse'], *report['persistence_mse'], report['shuffled_mse']]
    if not np.isfinite([*numbers, report['effective_rank']]).all():
        return ['expected finite errors, got NaN or inf']
    found = []
    if one > MAX_ERROR_SHARE * still:
        found.append(
            f'one-step error: expected <= {MAX_ERROR_SHARE} of persistence {still:.4f}, '
            f'got {one:.4f}'
        )
    if report['shuffled_mse'] < MIN_SHUFFLED_RATIO * one:
        found.append(
            f'shuffled actions: expected >= {MIN_SHUFFLED_RATIO} x the error {one:.4f}, got '
            f'{report["shuffled_mse"]:.4f}: the model ignores actions'
        )
    if report['effective_rank'] <= MIN_RANK_SHARE * latent:
        found.append(
            f'effective rank: expected > {MIN_RANK_SHARE * latent:g} of {latent}, got '
            f'{report["effective_rank"]:.1f}: the latents collapse'
        )
    return found


def format_report(report: dict[str, Any]) -> str:
    """The gate report as a table for people."""
    lines = ['model steps     error   persistence   share']
    pairs = zip(report['mse'], report['persistence_mse'], strict=True)
    for step, (error, still) in enumerate(pairs, start=1):
        lines.append(f'{step:11d} {error:9.4f} {still:13.4f} {error / still:7.1%}')
    lines += [
        f'shuffled actions, one step  {report["shuffled_mse"]:.4f} '
        f'({report["shuffled_mse"] / report["mse"][0]:.0f} x the error)',
        f'effective rank              {report["effective_rank"]:.1f}',
    ]
    for name, values in report['probes'].items():
        lines.append(
            f'{name:27s} median {values["median_cm"]:.2f} cm, p90 {values["p90_cm"]:.2f} cm, '
            f'linear R² {values["linear_r2"]:.3f}, {values["coverage_90"]:.1%} in the 90 % region'
        )
    failed = report['failures']
    lines.append('gates: ' + ('all passed' if not failed else 'FAILED\n  ' + '\n  '.join(failed)))
    return '\n'.join(lines)
