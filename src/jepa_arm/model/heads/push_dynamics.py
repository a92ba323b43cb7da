"""Push dynamics: planar motion of an object that the tip pushes, learned from play.

In the object's frame a push is the same wherever the object lies. A small network in that frame
therefore learns pushing better from play than the world model does in its latents, as learned
models of planar pushing do (arXiv:1704.03033). It is trained after the world model, on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_arm.core.geometry import QUARTER
from jepa_arm.model.networks import mlp

TIP_SCALE_M, STEP_SCALE_M, YAW_STEP_SCALE = 0.04, 0.01, 0.1
"""Input units: tip position in the object frame; object motion and yaw change (rad) per step."""
MOTION_THRESHOLD_M, LEVER_ARM_M = 0.001, 0.03
"""Motion of tip and object per control step below which the predicted motion fades to zero; half
the object's size, as a lever arm that converts its rotation to a distance."""
MAX_FEATURE = 20.0
"""Input features are clamped to this magnitude; a tip further away does not push."""
YAW_HYPOTHESES = 4
"""Number of yaws that are propagated if the object's yaw is unknown."""


@dataclass(frozen=True)
class ObjectPose:
    """Poses of B objects and their motion in the last control step, base frame.

    Attributes:
        position: (B, 3) m, of the centre.
        yaw: (B,) rad, modulo quarter turns.
        position_step: (B, 3) m, displacement in the last control step.
        yaw_step: (B,) rad, rotation in the last control step.
    """

    position: Tensor
    yaw: Tensor
    position_step: Tensor
    yaw_step: Tensor

    def at_rest(self) -> ObjectPose:
        """Return the same pose without motion."""
        still = torch.zeros_like(self.position_step), torch.zeros_like(self.yaw_step)
        return ObjectPose(self.position, self.yaw, *still)


def yaw_hypotheses(position: Tensor, position_step: Tensor) -> ObjectPose:
    """Return poses (B * YAW_HYPOTHESES,) with equally spaced yaws for objects of unknown yaw.

    Args:
        position: (B, 3) m.
        position_step: (B, 3) m, displacement in the last control step.
    """
    yaw = torch.arange(YAW_HYPOTHESES) * (QUARTER / YAW_HYPOTHESES)
    yaws = yaw.to(position).repeat(len(position))
    return ObjectPose(
        position.repeat_interleave(YAW_HYPOTHESES, 0),
        yaws,
        position_step.repeat_interleave(YAW_HYPOTHESES, 0),
        torch.zeros_like(yaws),
    )


class ObjectFrame:
    """Planar frame of an object, whose x axis is the normal of the face nearest the tip.

    What is learned for one face of a square then holds for all four, wherever the object lies.

    Attributes:
        cos, sin: (B, 1), cosine and sine of the angle of the x axis in the base frame.
    """

    def __init__(self, yaw: Tensor, to_tip: Tensor) -> None:
        """Select the face of each object from its ``yaw`` (B,) rad.

        ``to_tip`` (B, 3) is the vector from the object's centre to the tip, base frame.
        """
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        ahead = cos * to_tip[:, 0] + sin * to_tip[:, 1]
        left = cos * to_tip[:, 1] - sin * to_tip[:, 0]
        is_along_x = (ahead.abs() >= left.abs()).to(yaw.dtype)
        one = torch.ones_like(yaw)
        x = is_along_x * torch.where(ahead >= 0, one, -one)
        y = (1.0 - is_along_x) * torch.where(left >= 0, one, -one)
        self.cos = (cos * x - sin * y)[:, None]
        self.sin = (sin * x + cos * y)[:, None]

    def from_base(self, vectors: Tensor) -> Tensor:
        """Return base-frame ``vectors`` (B, 3) or (B, T, 3) expressed in this frame."""
        return self._rotate(vectors, self.sin)

    def to_base(self, vectors: Tensor) -> Tensor:
        """Return ``vectors`` (B, 3) or (B, T, 3) of this frame expressed in the base frame."""
        return self._rotate(vectors, -self.sin)

    def _rotate(self, vectors: Tensor, sin: Tensor) -> Tensor:
        cos = self.cos
        if vectors.dim() == 3:
            cos, sin = cos[:, None], sin[:, None]
        x, y, z = vectors[..., 0:1], vectors[..., 1:2], vectors[..., 2:3]
        return torch.cat([cos * x + sin * y, cos * y - sin * x, z], dim=-1)


class PushDynamics(nn.Module):
    """Network that predicts the object's pose one control step ahead from the tip's motion.

    It is symmetric: mirrored motions of the tip give mirrored motions of the object. If neither
    tip nor object moves, the prediction is no motion.
    """

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.net = mlp(12, width, 3, hidden=3)
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[-1].bias)  # type: ignore[arg-type]

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        """Return the pose after a control step.

        Args:
            pose: the current one.
            tips: (B, 3, 3) m, tip positions one control step ago, now, and one step ahead.
        """
        to_tip = tips - pose.position[:, None]
        frame = ObjectFrame(pose.yaw, to_tip[:, 1:].mean(1))
        to_tip, step = frame.from_base(to_tip), frame.from_base(pose.position_step)[:, :2]
        side = torch.where(to_tip[:, 1:, 1].sum(1) < 0.0, -1.0, 1.0)  # mirrors the tip to the left
        mirror = torch.stack([torch.ones_like(side), side], dim=1)
        mirrored = to_tip[..., :2] * mirror[:, None]
        parts = [
            mirrored.flatten(1) / TIP_SCALE_M,
            to_tip[..., 2] / TIP_SCALE_M,
            step * mirror / STEP_SCALE_M,
            (pose.yaw_step * side)[:, None] / YAW_STEP_SCALE,
        ]
        motion = tips.diff(dim=1).norm(dim=-1).sum(1) + pose.position_step.norm(dim=-1)
        motion = motion + LEVER_ARM_M * pose.yaw_step.abs()
        features = torch.cat(parts, dim=1).clamp(-MAX_FEATURE, MAX_FEATURE)
        out = self.net(features) * torch.tanh(motion / MOTION_THRESHOLD_M)[:, None]
        ahead, left, turn = out.unbind(1)
        step = torch.stack([ahead, left * side, torch.zeros_like(left)], dim=1) * STEP_SCALE_M
        step, yaw_step = frame.to_base(step), turn * side * YAW_STEP_SCALE
        return ObjectPose(pose.position + step, pose.yaw + yaw_step, step, yaw_step)
