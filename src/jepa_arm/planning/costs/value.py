"""Value term: estimated number of model steps to the goal, from the trained value network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .cost_term import Rollouts


@dataclass(frozen=True)
class ValueCost:
    """Negative value of the predicted latents, averaged along the rollout.

    Attributes:
        weight: cost per model step.
        value: value network, features (N, F) -> values (N,).
    """

    weight: float
    value: Callable[[Tensor], Tensor]
    name = 'value'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,)."""
        assert rollouts.features is not None
        value = self.value(rollouts.features).view(-1, rollouts.latents.shape[1])
        return -self.weight * value.mean(1)
