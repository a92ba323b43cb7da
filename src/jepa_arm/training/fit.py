"""Training loop of all networks, and its optimisers with their learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from jepa_arm.core.errors import JepaArmError
from jepa_arm.model.numerics import has_bfloat16

RECENT_STEPS = 200
"""Optimiser steps over which a reported loss is averaged."""
MUON_LEARNING_RATE, MUON_WEIGHT_DECAY = 2e-2, 1e-2


class TrainingError(JepaArmError, RuntimeError):
    """Error for training that cannot start or continue; the message says what to do."""


@dataclass(frozen=True)
class ScheduledOptimizer:
    """Optimisers of one network with their learning-rate schedules.

    Attributes:
        parts, schedules: the optimisers, and their learning-rate schedules.
        steps: indices of the optimiser steps to make, in order.
        clip_norm: largest norm of a gradient; inf: gradients are not clipped.
    """

    parts: Sequence[torch.optim.Optimizer]
    schedules: Sequence[LRScheduler]
    steps: Iterable[int]
    clip_norm: float

    def zero_grad(self) -> None:
        """Reset all gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Make one step of each optimiser and advance the schedules."""
        for part in (*self.parts, *self.schedules):
            part.step()


def fit(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    optimizer: ScheduledOptimizer,
    name: str,
    after_step: Callable[[int, float, float], None] | None = None,
) -> list[float]:
    """Minimise ``loss`` and return its value in each step.

    A progress bar appears after 2 s.

    Args:
        module: network to train; left in eval mode and without gradients.
        loss: returns the scalar loss of a step, given the index of the step.
        optimizer: optimiser of the parameters of ``module``; also sets the number of steps.
        name: name of the network, for the progress bar and errors.
        after_step: called after each optimiser step with its index, its loss and the norm of the
            gradient before clipping.

    Raises:
        TrainingError: a loss is not finite.
    """
    module.train().requires_grad_(True)
    losses: list[float] = []
    bar = tqdm(optimizer.steps, desc=name, unit='step', mininterval=2.0, delay=2.0)
    for step in bar:
        value = loss(step)
        if not torch.isfinite(value):
            raise TrainingError(
                f'{name}, step {step}: expected a finite loss, got {value.item()}; lower '
                'learning_rate'
            )
        optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), optimizer.clip_norm)
        optimizer.step()
        losses.append(value.item())
        if after_step is not None:
            after_step(step, losses[-1], norm.item())
        if step % 20 == 0:
            bar.set_postfix(loss=f'{losses[-1]:.4f}', refresh=False)
    module.eval().requires_grad_(False)
    return losses


def recent_mean(losses: list[float]) -> float:
    """Return the mean loss of the last ``RECENT_STEPS`` steps."""
    return float(np.mean(losses[-RECENT_STEPS:]))


def adamw(
    net: nn.Module, steps: int, lr: float, weight_decay: float = 1e-4, clip_norm: float = 1.0
) -> ScheduledOptimizer:
    """Return AdamW for ``net`` with a cosine learning-rate schedule from ``lr`` to zero."""
    part = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    return ScheduledOptimizer([part], [CosineAnnealingLR(part, steps)], range(steps), clip_norm)


def adamw_one_cycle(
    net: nn.Module, steps: int, lr: float, weight_decay: float = 1e-4, clip_norm: float = 1.0
) -> ScheduledOptimizer:
    """Return AdamW for ``net`` with a one-cycle learning-rate schedule that peaks at ``lr``."""
    part = torch.optim.AdamW(net.parameters(), lr, weight_decay=weight_decay)
    schedule = OneCycleLR(part, lr, steps, pct_start=0.1)
    return ScheduledOptimizer([part], [schedule], range(steps), clip_norm)


def muon_and_adamw(
    net: nn.Module, steps: int, lr: float, weight_decay: float = 1e-4, clip_norm: float = 1.0
) -> ScheduledOptimizer:
    """Return Muon for the hidden matrices of ``net``, AdamW for its biases and last layer.

    Both learning rates follow cosine schedules to zero.

    Args:
        net: the network, whose last linear layer is its output.
        steps: number of optimiser steps.
        lr, weight_decay: values for AdamW; Muon's are constants of this module.
        clip_norm: see ``ScheduledOptimizer``.
    """
    *_, output = (m.weight for m in net.modules() if isinstance(m, nn.Linear))
    hidden = [p for p in net.parameters() if p.ndim == 2 and p is not output]
    others = [p for p in net.parameters() if p.ndim != 2 or p is output]
    # torch's Muon multiplies in bfloat16, which is slow on processors without it
    kind = torch.optim.Muon if has_bfloat16() else Muon
    muon = kind(hidden, lr=MUON_LEARNING_RATE, weight_decay=MUON_WEIGHT_DECAY)
    rest = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)
    schedules = [CosineAnnealingLR(part, steps) for part in (muon, rest)]
    return ScheduledOptimizer([muon, rest], schedules, range(steps), clip_norm)


class Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` in the precision of the parameters: orthogonalised momentum.

    Muon (https://kellerjordan.github.io/posts/muon) with Nesterov momentum.
    """

    COEFFICIENTS = 3.4445, -4.7750, 2.0315
    """Coefficients of the quintic polynomial in the Newton-Schulz iteration."""
    ITERATIONS, MOMENTUM = 5, 0.95

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        """Create the optimiser of the matrices ``params``."""
        super().__init__(params, {'lr': lr, 'weight_decay': weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        mean = self.state[p].setdefault('momentum_buffer', torch.zeros_like(p))
        mean.lerp_(gradient, 1.0 - self.MOMENTUM)
        update = self._orthogonalise(gradient.lerp(mean, self.MOMENTUM))
        learning_rate, (rows, columns) = group['lr'], p.shape
        p.mul_(1.0 - learning_rate * group['weight_decay'])
        p.add_(update, alpha=-learning_rate * max(1.0, rows / columns) ** 0.5)

    def _orthogonalise(self, x: Tensor) -> Tensor:
        """Return ``x`` (M, N) with all singular values near 1."""
        a, b, c = self.COEFFICIENTS
        is_tall = x.shape[0] > x.shape[1]
        x = x.T if is_tall else x
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(self.ITERATIONS):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if is_tall else x
