"""Gates: quality on held-out episodes that a world model must reach in order to be saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.core.errors import JepaArmError
from jepa_arm.datasets.windows import WindowSampler
from jepa_arm.model.checkpoint import AnyWorldModel
from jepa_arm.model.world_model import stack_history

from .encoding import EncodedEpisodes, LabelledLatents

MAX_ERROR_SHARE = 0.2
MIN_SHUFFLED_RATIO = 2.0
MIN_RANK_SHARE = 0.25
HORIZON = 5
"""Model steps of the open-loop predictions in the report."""
MAX_WINDOWS = 8192
"""Largest number of held-out windows that are rolled out."""


class GateError(JepaArmError, RuntimeError):
    """Error for a trained model that failed its gates; the message names the failed ones."""


@dataclass(frozen=True)
class RolloutWindows:
    """W windows of recorded latents and actions: a start, the actions after it, and the outcome.

    Attributes:
        frames: (W, H + 1) rows of the episode file, from the start on, one model step apart.
        z: (W, D) latents at the start. z_prev: (W, past*D), see ``WorldModel.predict``.
        actions: (W, H, K*A).
        targets: (W, H, D) recorded latents, one after each action block.
    """

    frames: NDArray[np.int64]
    z: Tensor
    z_prev: Tensor
    actions: Tensor
    targets: Tensor

    @torch.inference_mode()
    def rollout(self, model: AnyWorldModel) -> Tensor:
        """Return the latents (W, H, D) that ``model`` predicts open loop."""
        return model.rollout(self.z, self.z_prev, self.actions)


def held_out_windows(
    model: AnyWorldModel,
    encoded: EncodedEpisodes,
    horizon: int,
    seed: int,
    max_windows: int = MAX_WINDOWS,
) -> RolloutWindows:
    """Return random windows of ``horizon`` model steps from the held-out episodes.

    Raises:
        DataError: no held-out episode is long enough.
    """
    length = horizon + 1 + model.past
    starts = WindowSampler(encoded.episodes, encoded.held_out, length, seed).starts
    starts = np.random.default_rng(seed).permutation(starts)[:max_windows]
    return rollout_windows(model, encoded, starts, horizon)


def rollout_windows(
    model: AnyWorldModel, encoded: EncodedEpisodes, starts: NDArray[np.int64], horizon: int
) -> RolloutWindows:
    """Return the windows of ``horizon`` model steps whose history begins at frames ``starts``.

    ``model.past`` model steps lie between a frame of ``starts`` (W,) and the start of its rollout.
    """
    skip, past = model.contract.time.frame_skip, model.past
    frames = np.add.outer(starts, np.arange(horizon + 1 + past) * skip)
    controls = np.add.outer(starts + past * skip, np.arange(horizon * skip))
    z = torch.from_numpy(encoded.z[frames])
    actions = torch.from_numpy(np.asarray(encoded.episodes.action)[controls])
    return RolloutWindows(
        frames[:, past:],
        z[:, past],
        stack_history(z, past, past + 1, past)[:, 0],
        actions.reshape(len(z), horizon, -1),
        z[:, past + 1 :],
    )


@torch.inference_mode()
def prediction_report(model: AnyWorldModel, windows: RolloutWindows, seed: int) -> dict[str, Any]:
    """Return the open-loop errors, with persistence and shuffled actions for comparison.

    Returns:
        ``mse``, ``persistence_mse``: a value per model step; ``shuffled_mse``: first step only.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(windows.z)))
    shuffled = model.predict(windows.z, windows.z_prev, windows.actions[order, 0])
    targets = windows.targets
    return {
        'mse': (windows.rollout(model) - targets).square().mean((0, 2)).tolist(),
        'persistence_mse': (windows.z[:, None] - targets).square().mean((0, 2)).tolist(),
        'shuffled_mse': float((shuffled - targets[:, 0]).square().mean()),
    }


def gate_report(
    model: AnyWorldModel, encoded: EncodedEpisodes, seed: int, probes: dict[str, Any]
) -> dict[str, Any]:
    """Return how well ``model`` predicts the held-out episodes and which gates it fails.

    Args:
        model: world model in eval mode. encoded: episodes with its latents.
        seed: random seed of the windows.
        probes: report of ``fit_probes``, which becomes part of this one.
    """
    windows = held_out_windows(model, encoded, HORIZON, seed)
    report = prediction_report(model, windows, seed)
    report['effective_rank'] = effective_rank(encoded.z[encoded.frames_of(encoded.held_out)])
    report['failures'] = failed_gates(report, model.latent_dim)
    report['probes'] = probes
    return report


def effective_rank(latents: NDArray[np.float32]) -> float:
    """Return the effective rank, in [1, D], of the covariance of latents (N, D).

    It is the exponential of the entropy of the normalised spectrum.
    """
    spectrum = np.linalg.eigvalsh(np.cov(latents.astype(np.float64), rowvar=False))
    shares = np.clip(spectrum, 0.0, None)
    if not shares.sum() > 0.0:
        return 1.0
    shares = shares[shares > 0.0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def linear_r2(train: LabelledLatents, held_out: LabelledLatents) -> float:
    """Return R² of linear regression from latents to targets, on held-out pairs.

    It is the mean over those target dimensions whose standard deviation exceeds 1e-4.

    Args:
        train: latents (N, D) and targets (N, 3) for the least-squares fit.
        held_out: the same for the evaluation.
    """
    design = np.column_stack([train[0], np.ones(len(train[0]))]).astype(np.float64)
    gram = design.T @ design + 1e-6 * len(design) * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design.T @ train[1].astype(np.float64))
    predicted = np.column_stack([held_out[0], np.ones(len(held_out[0]))]) @ weights
    residual = ((held_out[1] - predicted) ** 2).mean(0)
    variance = held_out[1].var(0)
    varies = variance > 1e-8
    return float(1.0 - (residual[varies] / variance[varies]).mean())


def failed_gates(report: dict[str, Any], latent_dim: int) -> list[str]:
    """Return a sentence for each gate that ``report`` fails; empty if the model may be saved."""
    one, persistence = report['mse'][0], report['persistence_mse'][0]
    numbers = [*report['mse'], *report['persistence_mse'], report['shuffled_mse']]
    if not np.isfinite([*numbers, report['effective_rank']]).all():
        return ['expected finite errors, got NaN or inf']
    failed = []
    if one > MAX_ERROR_SHARE * persistence:
        failed.append(
            f'one-step error: expected <= {MAX_ERROR_SHARE} of persistence {persistence:.4f}, '
            f'got {one:.4f}'
        )
    if report['shuffled_mse'] < MIN_SHUFFLED_RATIO * one:
        failed.append(
            f'shuffled actions: expected >= {MIN_SHUFFLED_RATIO} x the error {one:.4f}, got '
            f'{report["shuffled_mse"]:.4f}: the model ignores actions'
        )
    if report['effective_rank'] <= MIN_RANK_SHARE * latent_dim:
        failed.append(
            f'effective rank: expected > {MIN_RANK_SHARE * latent_dim:g} of {latent_dim}, got '
            f'{report["effective_rank"]:.1f}: the latents collapse'
        )
    return failed


def format_report(report: dict[str, Any]) -> str:
    """Return the report of ``gate_report`` as a table."""
    lines = ['model steps     error   persistence   share']
    pairs = zip(report['mse'], report['persistence_mse'], strict=True)
    for step, (error, persistence) in enumerate(pairs, start=1):
        lines.append(f'{step:11d} {error:9.4f} {persistence:13.4f} {error / persistence:7.1%}')
    lines += [
        f'shuffled actions, one step  {report["shuffled_mse"]:.4f} '
        f'({report["shuffled_mse"] / report["mse"][0]:.0f} x the error)',
        f'effective rank              {report["effective_rank"]:.1f}',
    ]
    failed = report['failures']
    verdict = 'gates: ' + ('all passed' if not failed else 'FAILED\n  ' + '\n  '.join(failed))
    return '\n'.join([*lines, format_probe_errors(report['probes']), verdict])


def format_probe_errors(errors: dict[str, Any]) -> str:
    """Return the report of ``fit_probes`` as text, one line per subject."""
    return '\n'.join(
        f'{name:27s} median {values["median_cm"]:.2f} cm, p90 {values["p90_cm"]:.2f} cm, '
        f'linear R² {values["linear_r2"]:.3f}, {values["coverage_90"]:.1%} in the 90 % region'
        for name, values in errors.items()
    )
