"""Pose dynamics: a world model whose latents are augmented with positions and the yaw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic, motion_features
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import WorldModel, shift_history

from .model import PlanningModel

POSE_WIDTH = 7
"""Values appended to a latent: setpoint of the tip, position of the object (m), yaw (rad)."""


class PoseDynamics(nn.Module):
    """World model whose latents are augmented with positions read by the probes, and a yaw.

    An augmented latent (B, D+7) consists of a latent of the model, the tip's setpoint and the
    object's position as the probes read them from it, and the object's yaw. The positions are
    read only once per latent.

    Attributes:
        model: the world model.
        latent_dim: D+7. past: number of earlier latents in ``z_prev``.
    """

    def __init__(self, model: WorldModel, probes: Probes, networks: PoseActorCritic) -> None:
        super().__init__()
        self.model, self.probes, self.yaw_change = model, probes, networks.yaw_change
        self.latent_dim, self.past = model.latent_dim + POSE_WIDTH, model.past
        self._width = model.contract.action_width

    def planning_model(self, networks: PoseActorCritic) -> PlanningModel:
        """Return a planning model of these dynamics, with ``networks`` as its actor-critic."""
        return PlanningModel(self, self.model.contract, self.read, self.position_std, networks)

    @staticmethod
    def read(subject: str, z: Tensor) -> Tensor:
        """Return the position (..., 3) m of ``subject`` in augmented latents (..., D+7)."""
        return z[..., -7:-4] if subject == 'tip' else z[..., -4:-1]

    def position_std(self, subject: str, z: Tensor) -> Tensor:
        """Return the predicted rms error (...,) m of the position of ``subject``, see ``read``."""
        return self.probes.expected_error(subject, z[..., :-POSE_WIDTH])

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Return the augmented latents after one action block, see ``Dynamics.predict``."""
        count = z.shape[0]
        before = z_prev.view(count, self.past, self.latent_dim)
        latents_before = before[..., :-POSE_WIDTH].flatten(1)
        after = self._with_positions(
            self.model.predict(z[:, :-POSE_WIDTH], latents_before, action_block)
        )
        tip = self.read('tip', z), self.read('tip', before[:, 0])
        position = self.read('object', z), after[:, -3:]
        actions = action_block.view(count, -1, self._width)
        yaw = z[:, -1] + self.yaw_change(motion_features(z[:, -1], tip, position, actions))
        return torch.cat([after, yaw[:, None]], dim=1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """Return the augmented latents after each action block, see ``Dynamics.rollout``."""
        latents = []
        for block in actions.unbind(1):
            z, z_prev = self.predict(z, z_prev, block), shift_history(z, z_prev)
            latents.append(z)
        return torch.stack(latents, 1)

    def augment(self, z: Tensor, z_prev: Tensor, yaw: float) -> tuple[Tensor, Tensor]:
        """Return ``z`` (1, D) and ``z_prev`` (1, past*D), augmented.

        Args:
            z, z_prev: latents of the model.
            yaw: rad, current yaw of the object. ``z_prev`` gets the same yaw, which is never
                used there.
        """
        latents = torch.cat([z, z_prev.view(-1, z.shape[1])])
        yaws = z.new_full((len(latents), 1), yaw)
        augmented = torch.cat([self._with_positions(latents), yaws], 1)
        return augmented[:1], augmented[1:].view(1, -1)

    def _with_positions(self, z: Tensor) -> Tensor:
        """Return ``z`` (B, D) with the positions read from it by the probes appended (B, D+6)."""
        return torch.cat([z, self.probes.read('tip', z), self.probes.read('object', z)], dim=1)
