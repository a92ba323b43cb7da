"""Yaw term: how far the object is from the yaw of the goal along the rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cost_term import Rollouts


@dataclass(frozen=True)
class YawCost:
    """Mean yaw error of the object, modulo quarter turns.

    The error e enters as ``|sin(2 e)| / 2``, which repeats every quarter turn without a jump.

    Attributes:
        weight: cost per rad.
    """

    weight: float
    name = 'yaw'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,)."""
        error = rollouts.goal[:, 3] - rollouts.latents[..., -1]
        return self.weight * (torch.sin(2.0 * error).abs() / 2.0).mean(1)
