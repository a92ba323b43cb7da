"""SIGReg: regulariser that prevents collapse by making latents standard Gaussian.

LeJEPA, arXiv:2511.08544: the Epps-Pulley test of normality on random one-dimensional
projections, in the form used by LeWorldModel (arXiv:2603.19312):

    EP = B * integral |phi_hat(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

with phi_hat the empirical characteristic function of B projected latents. The integrand is even
in t, so the integral is approximated by twice the trapezoid sum over [0, 3].
"""

from __future__ import annotations

import torch
from torch import Tensor

T_MAX = 3.0


def sigreg(z: Tensor, projections: int, knots: int, generator: torch.Generator) -> Tensor:
    """Return the mean Epps-Pulley statistic; the lower, the closer to a standard Gaussian.

    Args:
        z: (T, B, D) latents; the statistic is computed over the batch, for each of T time steps.
        projections: number of random directions.
        knots: points of the trapezoid rule in [0, 3].
        generator: source of the random directions.
    """
    directions = torch.randn(z.shape[-1], projections, generator=generator)
    directions = directions / directions.norm(dim=0)
    return _EppsPulley.apply(z.float() @ directions, knots)  # type: ignore[return-value]


def trapezoid(knots: int) -> tuple[Tensor, Tensor]:
    """Return points t (knots,) in [0, 3] and weights of the two-sided trapezoid rule."""
    t = torch.linspace(0.0, T_MAX, knots)
    step = T_MAX / (knots - 1)
    weights = torch.full((knots,), 2.0 * step)
    weights[0] = weights[-1] = step
    return t, weights


class _EppsPulley(torch.autograd.Function):
    """Epps-Pulley statistic and its gradient, computed in one pass over the knots.

    All arrays stay in the processor's cache; autograd over (T, B, projections, knots) is several
    times slower.
    """

    @staticmethod
    def forward(ctx, x: Tensor, knots: int) -> Tensor:
        t, weights = trapezoid(knots)
        size, count = x.shape[-2], x.shape[0] * x.shape[-1]
        cos_1, sin_1 = torch.cos(x * t[1]), torch.sin(x * t[1])
        cos, sin = torch.ones_like(x), torch.zeros_like(x)
        value = torch.zeros(())
        gradient = torch.zeros_like(x)
        for k in range(1, knots):  # t = 0 contributes nothing: phi_hat(0) = phi(0) = 1
            cos, sin = cos * cos_1 - sin * sin_1, sin * cos_1 + cos * sin_1
            gauss = torch.exp(-(t[k] ** 2) / 2)
            weight = weights[k] * gauss * size / count
            error, odd = cos.mean(-2, keepdim=True) - gauss, sin.mean(-2, keepdim=True)
            value = value + weight * (error.square().sum() + odd.square().sum())
            gradient += (odd * cos - error * sin) * (2 * weight * t[k] / size)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None
