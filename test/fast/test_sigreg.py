"""SIGReg: equals its direct formula, separates Gaussian from collapsed latents."""

import math

import pytest
import torch
from torch import Tensor

from jepa_arm.model.sigreg import sigreg


def direct(z: Tensor, projections: int, knots: int, seed: int) -> Tensor:
    """Return LeJEPA's statistic (arXiv:2511.08544) term by term, with plain autograd."""
    directions = torch.randn(
        z.shape[-1], projections, generator=torch.Generator().manual_seed(seed)
    )
    directions = directions / directions.norm(dim=0)
    statistics = []
    for batch in z:
        for direction in directions.T:
            x = batch @ direction
            integrand = []
            for k in range(knots):
                t = 3.0 * k / (knots - 1)
                gap = torch.exp(1j * t * x).mean() - math.exp(-(t**2) / 2)
                integrand.append(gap.abs().square() * math.exp(-(t**2) / 2))
            area = 2 * torch.trapezoid(torch.stack(integrand), dx=3.0 / (knots - 1))
            statistics.append(len(batch) * area)
    return torch.stack(statistics).mean()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(('spread', 'shift'), [(1.0, 0.0), (0.3, 0.5), (2.0, -1.0)])
def test_value_and_gradient_equal_the_direct_formula(spread: float, shift: float) -> None:
    z = torch.randn(2, 24, 5, generator=generator(0)) * spread + shift
    slow, fast = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected = direct(slow, projections=6, knots=9, seed=1)
    value = sigreg(fast, 6, 9, generator(1))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    (3.0 * expected).backward()
    (3.0 * value).backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-3, atol=1e-6)


def test_a_gaussian_scores_far_below_collapsed_or_discrete_latents() -> None:
    gaussian = torch.randn(1, 512, 16, generator=generator(0))
    collapsed = torch.zeros_like(gaussian)
    one_direction = gaussian[..., :1].expand_as(gaussian)
    shrunk = 0.3 * gaussian
    score = sigreg(gaussian, 128, 17, generator(1))
    for bad in (collapsed, one_direction, shrunk):
        assert sigreg(bad, 128, 17, generator(1)) > 10 * score


def test_gradient_descent_spreads_collapsed_latents() -> None:
    z = (0.05 * torch.randn(1, 256, 4, generator=generator(0))).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(z, 32, 17, generator(step)).backward()
        optimizer.step()
    covariance = torch.cov(z.detach()[0].T)
    torch.testing.assert_close(covariance, torch.eye(4), atol=0.3, rtol=0.0)
