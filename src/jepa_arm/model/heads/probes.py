"""Probes: networks that read positions in metres, with their expected error, from a latent.

They are trained after the world model, on frozen latents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jepa_arm.model.networks import mlp

COVERAGE, COVERAGE_CHI_SQUARED = 0.9, 6.251
"""Probability that the true position lies in the calibrated region; the chi-square quantile of
that probability for three axes."""
LOG_PRECISION_BOUNDS = math.log(1e-2), math.log(1e2)
"""Bounds on the log of the diagonal of the precision's Cholesky factor."""


class PositionProbe(nn.Module):
    """Two small MLPs from a latent to a position and to the covariance of its error.

    The second predicts the lower triangular factor P of the precision matrix: for a residual r in
    m, P r / error_scale is standard normal. It is trained by Gaussian likelihood and calibrated by
    the single number ``error_scale``.

    Attributes:
        mean, std: (3,) m, scaling of the positions. error_scale: m.
    """

    mean: Tensor
    std: Tensor
    error_scale: Tensor

    def __init__(self, latent_dim: int, width: int = 256) -> None:
        super().__init__()
        self.position_net = mlp(latent_dim, width, 3, hidden=3)
        self.precision_net = mlp(latent_dim, width // 2, 6)
        self.register_buffer('error_scale', torch.ones(()))
        self.register_buffer('mean', torch.zeros(3))
        self.register_buffer('std', torch.ones(3))

    def forward(self, z: Tensor) -> Tensor:
        """Return positions (..., 3) m, base frame, of latents (..., D)."""
        return self.position_net(z) * self.std + self.mean

    def precision_factor(self, z: Tensor) -> Tensor:
        """Return P (..., 3, 3), lower triangular with positive diagonal, of latents (..., D)."""
        rows, columns = torch.tril_indices(3, 3)
        factor = z.new_zeros(*z.shape[:-1], 3, 3)
        factor[..., rows, columns] = self.precision_net(z)
        diagonal = torch.diagonal(factor, dim1=-2, dim2=-1)
        return torch.tril(factor, -1) + torch.diag_embed(
            diagonal.clamp(*LOG_PRECISION_BOUNDS).exp()
        )

    def whiten(self, z: Tensor, residual: Tensor) -> Tensor:
        """Return standard normal errors (..., 3): P r / error_scale.

        Shapes: latents ``z`` (..., D), ``residual`` (..., 3) m.
        """
        return (self.precision_factor(z) @ (residual / self.error_scale)[..., None])[..., 0]

    def rms(self, z: Tensor) -> Tensor:
        """Return the expected root mean square error (...,) m of ``forward`` for latents (..., D).

        It is the root of the trace of the error covariance, without matrix inverses.
        """
        a, b, c, d, e, f = self.precision_net(z).unbind(-1)
        # adding 0 * x keeps NaN, which a compiled clamp would replace
        a, c, f = (x.clamp(*LOG_PRECISION_BOUNDS).exp() + 0.0 * x for x in (a, c, f))
        squared = a**-2 + c**-2 + f**-2 + (b / (a * c)) ** 2 + (e / (c * f)) ** 2
        return self.error_scale * (squared + ((b * e - c * d) / (a * c * f)) ** 2).sqrt()


class Probes(nn.Module):
    """Position probes for the two subjects of a goal, the tip and the object.

    For the tip, the probe reads the tip's target instead of its position: the target is set by
    actions and read most precisely, and the tip follows it a control step later. The measured tip
    position is known from the joints.

    Attributes:
        tip_target, object_position: probes from latents (..., D) to positions (..., 3) m, base
            frame.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.tip_target = PositionProbe(latent_dim)
        self.object_position = PositionProbe(latent_dim)

    def read(self, subject: str, z: Tensor) -> Tensor:
        """Return positions (..., 3) m of the 'object' or the 'tip' in latents (..., D)."""
        return self._probe(subject)(z)

    def read_both(self, z: Tensor) -> list[Tensor]:
        """Return the positions (..., 3) m of tip and object in latents (..., D)."""
        return [self.read(subject, z) for subject in ('tip', 'object')]

    def expected_error(self, subject: str, z: Tensor) -> Tensor:
        """Return the expected root mean square distance (...,) m of ``read`` from the truth."""
        return self._probe(subject).rms(z)

    def _probe(self, subject: str) -> PositionProbe:
        return {'tip': self.tip_target, 'object': self.object_position}[subject]
