"""Region term: how far the object would be outside the region where the tip can push it back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cost_term import Rollouts


@dataclass(frozen=True)
class RegionCost:
    """Mean distance of the object from the region in which the tip can reach all its sides.

    Attributes:
        weight: cost per m.
        region: (2, 2) m, lowest and highest (x, y); it is extended to contain the goal.
    """

    weight: float
    region: Tensor
    name = 'region'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,)."""
        goal, positions = rollouts.goal[0, :2], rollouts.positions[..., :2]
        low, high = torch.minimum(self.region[0], goal), torch.maximum(self.region[1], goal)
        outside = (positions - positions.clamp(low, high)).norm(dim=-1)
        return self.weight * outside.mean(1)
