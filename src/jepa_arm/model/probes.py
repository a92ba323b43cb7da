"""Probes: read positions in metres off a latent, and how sure they are.

Trained after the world model, never with it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .optimizers import adamw, muon_and_adamw

REGION, REGION_SQUARED_RADIUS = 0.9, 6.251
"""Share of the truth that the calibrated region holds; the chi-square quantile of it, 3 axes."""


LEAST_SQUARED = 1e-6
"""Added to squared distances, in units of the positions' spread, before their root."""


LOG_PRECISIONS = math.log(1e-2), math.log(1e2)
"""Bounds on what stands on the diagonal of the precision's factor."""


class PositionProbe(nn.Module):
    """Two small MLPs from a latent to a position and to its covariance.

    The second gives the lower triangular factor P of the precision: with residual r and ``unit``
    in m, P r / unit is standard normal (Gaussian likelihood; one scale is then calibrated).
    """

    mean: Tensor
    std: Tensor
    unit: Tensor

    def __init__(self, latent: int, width: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3),
        )  # fmt: skip
        self.spread = nn.Sequential(
            nn.Linear(latent, width // 2), nn.SiLU(), nn.Linear(width // 2, width // 2), nn.SiLU(),
            nn.Linear(width // 2, 6),
        )  # fmt: skip
        self.register_buffer('unit', torch.ones(()))
        self.register_buffer('mean', torch.zeros(3))
        self.register_buffer('std', torch.ones(3))

    def forward(self, z: Tensor) -> Tensor:
        """Positions (..., 3) m, base frame, of latents (..., D)."""
        return self.mlp(z) * self.std + self.mean

    def precision_factor(self, z: Tensor) -> Tensor:
        """P (..., 3, 3), lower triangular with a positive diagonal, of latents (..., D)."""
        rows, columns = torch.tril_indices(3, 3)
        factor = z.new_zeros(*z.shape[:-1], 3, 3)
        factor[..., rows, columns] = self.spread(z)
        diagonal = torch.diagonal(factor, dim1=-2, dim2=-1)
        return torch.tril(factor, -1) + torch.diag_embed(diagonal.clamp(*LOG_PRECISIONS).exp())

    def whiten(self, z: Tensor, residual: Tensor) -> Tensor:
        """P r / unit (..., 3) of latents (..., D) and residuals (..., 3) m; 1 is usual."""
        return (self.precision_factor(z) @ (residual / self.unit)[..., None])[..., 0]

    def covariance(self, z: Tensor) -> Tensor:
        """(..., 3, 3) m^2 of the error of ``forward``, for latents (..., D)."""
        root = torch.linalg.inv(self.precision_factor(z)) * self.unit
        return root @ root.mT

    def rms(self, z: Tensor) -> Tensor:
        """(...,) m, root of the trace of ``covariance``, without an inverse for each."""
        a, b, c, d, e, f = self.spread(z).unbind(-1)
        a, c, f = (x.clamp(*LOG_PRECISIONS).exp() + 0.0 * x for x in (a, c, f))  # NaN goes through
        squared = a**-2 + c**-2 + f**-2 + (b / (a * c)) ** 2 + (e / (c * f)) ** 2
        return self.unit * (squared + ((b * e - c * d) / (a * c * f)) ** 2).sqrt()


class Probes(nn.Module):
    """The positions a planner may ask for.

    Attributes:
        tip_target, object_position: modules, latents (..., D) -> (..., 3) m, base frame. Of the
            tip the latent tells best where it is told to be, which the actions decide; the tip
            itself follows a control step behind, and the joints tell where it is.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.tip_target = PositionProbe(latent)
        self.object_position = PositionProbe(latent)

    def read(self, subject: str, z: Tensor) -> Tensor:
        """Positions (..., 3) m in latents (..., D) of the 'object' or the 'tip' (its target)."""
        return self._probe(subject)(z)

    def spread(self, subject: str, z: Tensor) -> Tensor:
        """Root mean square distance (...,) m to be expected between reading and truth."""
        return self._probe(subject).rms(z)

    def _probe(self, subject: str) -> PositionProbe:
        return {'tip': self.tip_target, 'object': self.object_position}[subject]


def fit_probe(
    latents: NDArray[np.float32],
    positions: NDArray[np.float32],
    seed: int,
    steps: int = 3000,
    batch: int = 1024,
) -> PositionProbe:
    """A probe trained on frozen latents by the mean distance to the truth.

    Distances rather than their squares: a few frames in which the object is hidden must not
    decide how exactly it is read in all others.

    Args:
        latents: (N, D) of the training split.
        positions: (N, 3) m, ground truth.
    """
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(np.asarray(latents)), torch.from_numpy(np.asarray(positions))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = PositionProbe(x.shape[1])
    probe.mean.copy_(y.mean(0))
    probe.std.fill_(y.std(0).max())  # one for all axes: an object's height hardly varies
    optimizers = muon_and_adamw(probe.mlp, 2e-3, 1e-2, steps)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(x), batch))
        squared = ((probe(x[rows]) - y[rows]) / probe.std).square().sum(-1)
        loss = (squared + LEAST_SQUARED).sqrt().mean()
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()
    return probe.eval().requires_grad_(False)


def fit_spread(
    probe: PositionProbe,
    latents: NDArray[np.float32],
    positions: NDArray[np.float32],
    seed: int,
    steps: int = 1500,
    batch: int = 1024,
) -> None:
    """Teaches ``probe`` its covariance by Gaussian likelihood, in place; see ``calibrate``.

    Args:
        latents: (N, D). positions: (N, 3) m, ground truth.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        x = torch.from_numpy(latents)
        residual = torch.from_numpy(positions) - probe(x)
    probe.unit.copy_(residual.square().mean().sqrt())
    probe.spread.requires_grad_(True)
    optimizer = adamw(probe.spread, 2e-3, 1e-3, steps)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(x), batch))
        factor = probe.precision_factor(x[rows])
        white = (factor @ (residual[rows] / probe.unit)[..., None])[..., 0]
        log_determinant = torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1)
        loss = (0.5 * white.square().sum(-1) - log_determinant).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probe.spread.requires_grad_(False)


@torch.inference_mode()
def calibrate(
    probe: PositionProbe, latents: NDArray[np.float32], positions: NDArray[np.float32]
) -> None:
    """Scales the covariance so that its 90 % region holds 90 % of (N, 3) m, in place.

    Use episodes that the probe was not trained on (split-conformal).
    """
    squared = _squared_distance(probe, latents, positions)
    probe.unit.mul_((torch.quantile(squared, REGION) / REGION_SQUARED_RADIUS).sqrt())


@torch.inference_mode()
def coverage(
    probe: PositionProbe, latents: NDArray[np.float32], positions: NDArray[np.float32]
) -> float:
    """Share of positions (N, 3) m inside the 90 % region of their latents (N, D)."""
    squared = _squared_distance(probe, latents, positions)
    return float((squared <= REGION_SQUARED_RADIUS).float().mean())


def _squared_distance(
    probe: PositionProbe, latents: NDArray[np.float32], positions: NDArray[np.float32]
) -> Tensor:
    """(N,) squared Mahalanobis distance."""
    z = torch.from_numpy(latents)
    return probe.whiten(z, torch.from_numpy(positions) - probe(z)).square().sum(-1)


@torch.inference_mode()
def position_error_cm(
    probe: PositionProbe, latents: NDArray[np.float32], positions: NDArray[np.float32]
) -> dict[str, float]:
    """Median and 90th percentile of the distance to the truth, cm, on latents (N, D)."""
    distance = np.linalg.norm(probe(torch.from_numpy(latents)).numpy() - positions, axis=1)
    return {
        'median_cm': float(np.median(distance) * 100),
        'p90_cm': float(np.quantile(distance, 0.9) * 100),
    }
