"""Named cost terms on rollouts; each returns (S,), lower is better. Summed in one place.

Terms see latents, goals and read-outs of latents, never images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..goals import Goal, LatentGoal, PositionGoal
from .heads import Heads, goal_features

ReadOut = Callable[[str, Tensor], Tensor]
"""(subject, latents (B, D)) -> positions (B, 3) m."""


@dataclass(frozen=True)
class Task:
    """A goal with what is needed to price rollouts towards it.

    Attributes:
        goal: where to.
        read: the probes.
        heads: goal-conditioned heads, or None.
        value_weight, distance_weight: of the value (1 per model step) and of the read
            distance (1/m).
    """

    goal: Goal
    read: ReadOut
    heads: Heads | None
    value_weight: float
    distance_weight: float

    def cost(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total cost (S,) of rollouts ``latents`` (S, H, D) and each term's share.

        Non-finite costs become infinite: such a rollout is never chosen.
        """
        if isinstance(self.goal, LatentGoal):
            terms = {'latent': latent_distance(latents, self.goal)}
        else:
            terms = self._position_terms(latents)
        total = torch.stack(list(terms.values())).sum(0)
        return torch.where(torch.isfinite(total), total, torch.inf), terms

    def features(self, latents: Tensor) -> Tensor:
        """(B, D + 7) inputs of the heads for ``latents`` (B, D) and this position goal."""
        goal, subject = self._goal_tensors(latents)
        return goal_features(latents, self.read(self._subject, latents), subject, goal)

    @property
    def goal_is_for_object(self) -> bool:
        """Whether the goal is for the object; only then is there a way round to be valued."""
        return isinstance(self.goal, PositionGoal) and self.goal.subject == 'object'

    @property
    def _subject(self) -> str:
        assert not isinstance(self.goal, LatentGoal)
        return self.goal.subject

    def _goal_tensors(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        assert not isinstance(self.goal, LatentGoal)
        goal = torch.as_tensor(self.goal.position, dtype=latents.dtype).expand(len(latents), 3)
        is_object = 1.0 if self.goal.subject == 'object' else 0.0
        return goal, torch.full((len(latents),), is_object)

    def _position_terms(self, latents: Tensor) -> dict[str, Tensor]:
        candidates, horizon, width = latents.shape
        flat = latents.reshape(-1, width)
        goal, subject = self._goal_tensors(flat)
        read = self.read(self._subject, flat)
        distance = (read - goal).norm(dim=-1).view(candidates, horizon).mean(1)
        terms = {'distance': self.distance_weight * distance}
        if self.heads is not None and self.goal_is_for_object:
            value = self.heads.value(goal_features(flat, read, subject, goal))
            terms['value'] = -self.value_weight * value.view(candidates, horizon).mean(1)
        return terms


def latent_distance(latents: Tensor, goal: LatentGoal) -> Tensor:
    """(S,) squared distance to the goal's latent, the mean over path and latent."""
    target = torch.as_tensor(goal.latent, dtype=latents.dtype)
    return ((latents - target) ** 2).mean(dim=(1, 2))
