"""A point mass as a world model: its latent is the position of tip and object at once."""

from __future__ import annotations

from torch import Tensor

from jepa_arm.config import Contract
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.planning.model import PlanningModel

STEP = 0.05


class PointMass:
    """World model in which each action block moves the latent by STEP times its sum."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + STEP * action_block.view(len(z), 2, 3).sum(1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        moves = STEP * actions.view(*actions.shape[:2], 2, 3).sum(2)
        return z[:, None] + moves.cumsum(1)


def point_mass_model(
    contract: Contract, actor_critic: ActorCritic | None = None, dynamics: PointMass | None = None
) -> PlanningModel:
    return PlanningModel(
        dynamics or PointMass(),
        contract,
        lambda subject, latents: latents[..., :3],
        actor_critic=actor_critic,
    )
