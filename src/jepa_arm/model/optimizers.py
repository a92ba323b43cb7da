"""What small networks are trained by."""

from __future__ import annotations

import torch
from torch import nn

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
    parts = (torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay),)
    return Optimizers(parts, steps)


def muon_and_adamw(net: nn.Module, rate: float, decay: float, steps: int) -> Optimizers:
    """Muon for the hidden matrices of ``net``, AdamW for its biases and its last layer.

    Muon: https://kellerjordan.github.io/posts/muon; ``rate`` and ``decay`` are AdamW's.
    """
    *_, output = (m.weight for m in net.modules() if isinstance(m, nn.Linear))
    hidden = [p for p in net.parameters() if p.ndim == 2 and p is not output]
    others = [p for p in net.parameters() if p.ndim != 2 or p is output]
    muon = torch.optim.Muon(hidden, lr=MUON_RATE, weight_decay=MUON_DECAY)
    return Optimizers((muon, torch.optim.AdamW(others, lr=rate, weight_decay=decay)), steps)
