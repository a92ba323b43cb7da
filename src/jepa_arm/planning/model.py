"""Planning model: a world model with the probes and the actor-critic that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from jepa_arm.config import Contract
from jepa_arm.model.checkpoint import Checkpoint, load_actor_critic
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic

PositionReader = Callable[[str, Tensor], Tensor]
"""(subject, latents (..., D)) -> positions (..., 3) m, or predicted rms errors (...,) m."""


class Dynamics(Protocol):
    """Interface of the world model that a search uses."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Return the latents (B, D) after one action block (B, K*A)."""
        ...

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """Return the latents (B, H, D) after each of the action blocks (B, H, K*A), open loop."""
        ...


@dataclass(frozen=True)
class PlanningModel:
    """World model for planning, with the probes and networks that read its latents.

    Attributes:
        dynamics: predicts latents.
        contract: timing, camera and action space that the model was trained for.
        read_position: probe of the object's and the tip's position.
        position_std: predicted rms error of ``read_position``, or None.
        actor_critic: goal-conditioned actor and value, or None.
    """

    dynamics: Dynamics
    contract: Contract
    read_position: PositionReader
    position_std: PositionReader | None = None
    actor_critic: ActorCritic | PoseActorCritic | None = None

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> PlanningModel:
        """Return the model, probes and actor-critic of a checkpoint.

        Raises:
            CheckpointError: the file of the actor-critic is broken or belongs to another model.
        """
        return cls(
            checkpoint.model,
            checkpoint.contract,
            checkpoint.probes.read,
            checkpoint.probes.expected_error,
            load_actor_critic(checkpoint),
        )
