"""Muon in the precision of the parameters agrees with that of torch."""

from __future__ import annotations

import pytest
import torch

from jepa_arm.training.fit import Muon


@pytest.mark.parametrize('shape', [(24, 16), (16, 24)])
def test_muon_takes_the_same_steps_as_that_of_torch(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizers = [
        kind([p], lr=0.02, weight_decay=0.01)
        for kind, p in ((Muon, ours), (torch.optim.Muon, theirs))
    ]
    for _ in range(5):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved, expected = (ours - start).detach(), (theirs - start).detach()
    assert expected.norm() > 0.1
    assert (moved - expected).norm() < 0.02 * expected.norm()  # torch's multiplies in bfloat16


def test_muon_does_not_change_parameters_without_gradient() -> None:
    p = torch.ones(2, 2, requires_grad=True)
    Muon([p], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(p, torch.ones(2, 2))
