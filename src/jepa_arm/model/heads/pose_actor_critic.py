"""Pose actor-critic: networks for pushing an object to a position and a yaw.

Actor, value and yaw change head work in the object's frame, whose x axis is the normal of the face
nearest the tip. What they learn for one face of the square object then holds for all four.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_arm.model.numerics import clamp_keep_nan
from jepa_arm.robot.action_space import ACTION_METRES

from .actor_critic import ActionMixture, TwinValue, normalised_mlp
from .push_dynamics import ObjectFrame
from .yaw_probe import YawProbe

SCALE = 10.0
"""1/m; lengths enter the networks in units of 10 cm."""
FEATURES = 17
"""Number of input features of actor and value."""
WIDTH = 104
"""Hidden size of actor and value."""
MOTION_FEATURES = 14
"""Number of input features of ``YawChangeHead`` if a model step has two control steps."""
TABLE_CENTRE = 0.5, 0.0
"""m, (x, y) in the base frame."""


def pose_features(
    yaw: Tensor,
    tip: tuple[Tensor, Tensor],
    position: tuple[Tensor, Tensor],
    goal: Tensor,
) -> tuple[Tensor, ObjectFrame]:
    """Return the inputs (B, FEATURES) of actor and value, and the object frame they are in.

    Args:
        yaw: (B,) rad, yaw of the object.
        tip: tip setpoints now and one model step before, (B, 3) m each.
        position: object positions now and one model step before, (B, 3) m each.
        goal: (B, 4), position (m) and yaw (rad).
    """
    frame = ObjectFrame(yaw, tip[0] - position[0])
    offset = frame.from_base(tip[0] - position[0])
    yaw_error = 4.0 * (goal[:, 3] - yaw)
    from_centre = position[0][:, :2] - position[0].new_tensor(TABLE_CENTRE)
    parts = [
        offset * SCALE,
        frame.from_base(tip[0] - tip[1]) * SCALE,
        frame.from_base(position[0] - position[1])[:, :2] * SCALE,
        frame.from_base(goal[:, :3] - position[0])[:, :2] * SCALE,
        torch.stack([torch.sin(yaw_error), torch.cos(yaw_error)], dim=1),
        from_centre * SCALE,
        offset[:, :2].norm(dim=1, keepdim=True) * SCALE,
        frame.cos,
        frame.sin,
    ]
    return torch.cat(parts, dim=1), frame


def motion_features(
    yaw: Tensor, tip: tuple[Tensor, Tensor], position: tuple[Tensor, Tensor], actions: Tensor
) -> Tensor:
    """Return the inputs (B, MOTION_FEATURES) of ``YawChangeHead`` for one model step.

    Args:
        yaw: (B,) rad, yaw of the object before the step.
        tip: tip setpoints before the step and one model step earlier, (B, 3) m each.
        position: object positions before and after the step, (B, 3) m each.
        actions: (B, K, 3), actions that take effect in the step.
    """
    frame = ObjectFrame(yaw, tip[0] - position[0])
    path = tip[0][:, None] + ACTION_METRES * actions.cumsum(1)
    offsets = torch.cat([tip[1][:, None], tip[0][:, None], path], dim=1) - position[0][:, None]
    moved = frame.from_base(position[1] - position[0])[:, :2]
    return torch.cat(
        [frame.from_base(offsets).flatten(1) * 2.0 * SCALE, moved * 4.0 * SCALE], dim=1
    )


class YawChangeHead(nn.Module):
    """Network that predicts the change of the object's yaw in a model step.

    It is antisymmetric by construction: a mirrored motion turns the object the other way.
    """

    OUTPUT_SCALE = 0.2
    """rad per unit of the network's output."""

    mirror: Tensor

    def __init__(self, frame_skip: int, width: int = 64) -> None:
        """Create the network.

        Args:
            frame_skip: K, control steps in a model step. width: hidden size.
        """
        super().__init__()
        self.net = normalised_mlp(3 * (frame_skip + 2) + 2, width, 1)
        mirror = [1.0, -1.0, 1.0] * (frame_skip + 2) + [1.0, -1.0]
        self.register_buffer('mirror', torch.tensor(mirror), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the change (B,) rad for ``features`` from ``motion_features``."""
        difference = self.net(features) - self.net(features * self.mirror)
        return difference[:, 0] * self.OUTPUT_SCALE / 2.0


class PoseActor(ActionMixture):
    """Density of action blocks, in the object's frame, that lead to a pose in a given time."""

    def __init__(self, block: int) -> None:
        """Create the network; ``block`` is K*A, the number of values in an action block."""
        # a rotated corner of the action cube is sqrt(2) from the centre on an axis
        super().__init__(FEATURES + 1, block, WIDTH, max_mean=1.45)

    def log_prob(self, features: Tensor, remaining: Tensor, action: Tensor) -> Tensor:
        """Return the log density (B,) of ``action`` (B, K*A) in the frame of the object.

        Args:
            features: (B, FEATURES), from ``pose_features``.
            remaining: (B,) time to the goal as a share of the longest in training, in [0, 1].
            action: action blocks to rate.
        """
        return self.log_density(torch.cat([features, remaining[:, None]], dim=-1), action)

    def sample(
        self,
        features: Tensor,
        frame: ObjectFrame,
        remaining: Tensor,
        gumbel: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Return sampled action blocks (B, K, A) in [-1, 1], in the base frame.

        They are NaN where an output of the network is not finite.

        Args:
            features, frame: from ``pose_features``.
            remaining: (B,) see ``log_prob``.
            gumbel, noise: see ``ActionMixture.draw``.
        """
        inputs = torch.cat([features, remaining[:, None]], dim=-1)
        sample, nan_carrier = self.draw(inputs, gumbel, noise)
        actions = clamp_keep_nan(frame.to_base(sample.view(sample.shape[0], -1, 3)), -1.0, 1.0)
        return actions + nan_carrier.view_as(actions)


class PoseActorCritic(nn.Module):
    """Networks for pushing an object to a position and a yaw, for one world model.

    Attributes:
        max_steps: longest time to a goal in training, in control steps.
        yaw_probe: reads the yaw from an image.
        yaw_change: predicts the change of the yaw in a model step.
        actor, value: conditioned on a goal position and yaw.
    """

    def __init__(self, frame_skip: int, action_width: int, max_steps: int) -> None:
        """Create the networks.

        Args:
            frame_skip: K, control steps in a model step. action_width: A.
            max_steps: see ``PoseActorCritic``.
        """
        super().__init__()
        self.max_steps = max_steps
        self.yaw_probe, self.yaw_change = YawProbe(), YawChangeHead(frame_skip)
        self.actor = PoseActor(frame_skip * action_width)
        self.value = TwinValue(FEATURES, WIDTH)
