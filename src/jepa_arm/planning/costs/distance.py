"""Distance term: how far the goal's subject is from the goal along the rollout."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jepa_arm.planning.model import PositionReader

from .cost_term import Rollouts


@dataclass(frozen=True)
class DistanceCost:
    """Mean distance between subject and goal along the rollout.

    Attributes:
        weight: cost per m.
        position_std: predicts the rms error of the object's position, added in quadrature, so that
            a hidden object never counts as near the goal; None: not added.
    """

    weight: float
    position_std: PositionReader | None = None
    name = 'distance'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,)."""
        squared = (rollouts.positions - rollouts.goal[:, :3]).square().sum(-1)
        if self.position_std is not None:
            squared = squared + self.position_std('object', rollouts.latents).square()
        return self.weight * squared.sqrt().mean(1)
