"""What small networks are trained by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .precision import has_bfloat16

MUON_RATE, MUON_DECAY = 2e-2, 1e-2


class Optimizers:
    """Several that go together, each with a rate that falls to zero as a cosine in ``steps``."""

    def __init__(self, parts: tuple[torch.optim.Optimizer, ...], steps: int) -> None:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR
        self._parts, self._schedules = parts, [schedule(part, steps) for part in parts]

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for part in self._parts:
            part.zero_grad()

    def step(self) -> None:
        """One step of each."""
        for part in (*self._parts, *self._schedules):
            part.step()


def adamw(net: nn.Module, rate: float, decay: float, steps: int) -> Optimizers:
    """AdamW for all of ``net``."""
    parts = (torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay, fused=True),)
    return Optimizers(parts, steps)


def muon_and_adamw(net: nn.Module, rate: float, decay: float, steps: int) -> Optimizers:
    """Muon for the hidden matrices of ``net``, AdamW for its biases and its last layer.

    ``rate`` and ``decay`` are AdamW's. torch's own Muon multiplies in bfloat16 on any processor.
    """
    *_, output = (m.weight for m in net.modules() if isinstance(m, nn.Linear))
    hidden = [p for p in net.parameters() if p.ndim == 2 and p is not output]
    others = [p for p in net.parameters() if p.ndim != 2 or p is output]
    kind = torch.optim.Muon if has_bfloat16() else Muon
    muon = kind(hidden, lr=MUON_RATE, weight_decay=MUON_DECAY)
    rest = torch.optim.AdamW(others, lr=rate, weight_decay=decay, fused=True)
    return Optimizers((muon, rest), steps)


class Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` in the precision of the parameters: momentum that is made orthogonal.

    Muon: https://kellerjordan.github.io/posts/muon, with Nesterov's momentum.
    """

    COEFFICIENTS = 3.4445, -4.7750, 2.0315
    """Of the quintic that Newton-Schulz iterates."""
    ITERATIONS, MOMENTUM = 5, 0.95

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        """``params`` are matrices."""
        super().__init__(params, {'lr': lr, 'weight_decay': weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    self._move(p, p.grad, group)

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        mean = self.state[p].setdefault('momentum_buffer', torch.zeros_like(p))
        mean.lerp_(gradient, 1.0 - self.MOMENTUM)
        update = self._orthogonal(gradient.lerp(mean, self.MOMENTUM))
        rate, (rows, columns) = group['lr'], p.shape
        p.mul_(1.0 - rate * group['weight_decay'])
        p.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _orthogonal(self, x: Tensor) -> Tensor:
        """``x`` (M, N) with singular values of about 1."""
        a, b, c = self.COEFFICIENTS
        is_tall = x.shape[0] > x.shape[1]
        x = x.T if is_tall else x
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(self.ITERATIONS):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if is_tall else x
