"""Latent-distance term: how far the predicted latents are from the latent of the goal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .cost_term import Rollouts


@dataclass(frozen=True)
class LatentDistanceCost:
    """Mean squared distance to the latent of the goal, over model steps and latent dimensions.

    Attributes:
        weight: cost per unit of the mean squared distance.
    """

    weight: float
    name = 'latent'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,)."""
        return self.weight * latent_distance(rollouts.latents, rollouts.goal)


def latent_distance(latents: Tensor, goal: Tensor) -> Tensor:
    """Return the mean squared distance (S,) of ``latents`` (S, H, D) to ``goal`` (1, D)."""
    return ((latents - goal) ** 2).mean(dim=(1, 2))
