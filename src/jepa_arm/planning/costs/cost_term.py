"""Interface of a cost term, and the rollouts that it scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollouts:
    """Predicted rollouts of S candidates towards one goal.

    Attributes:
        start: (1, D) latent that all of them start from.
        latents: (S, H, D) predicted latents.
        goal: (1, G): position (m), position and yaw (m, rad), or latent.
        positions: (S, H, 3) m of the goal's subject; empty for latent goals.
        features: (S*H, F) inputs of the value network; None without one.
        actions: (S, T, A) that lead to ``latents``; only the obstacle term needs them.
    """

    start: Tensor
    latents: Tensor
    goal: Tensor
    positions: Tensor
    features: Tensor | None = None
    actions: Tensor | None = None

    @property
    def path(self) -> Tensor:
        """(S, H+1, D) latents, the start included."""
        start = self.start.expand(self.latents.shape[0], 1, -1)
        return torch.cat([start, self.latents], dim=1)


class CostTerm(Protocol):
    """Weighted cost of rollouts; lower is better. Terms see latents, never images.

    Attributes:
        name: key of the term in ``Plan.terms``.
    """

    name: str

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the weighted cost (S,) of each rollout."""
        ...
