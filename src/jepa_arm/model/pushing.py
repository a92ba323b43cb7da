"""How an object moves that the tip pushes over the table: planar pushing, learned from play.

Seen from the object a push is the same wherever it lies, so that a small network learns it better
from play than a world model does in its latents, as models of planar pushing do that are learned
from data (arXiv:1704.03033). It is taught after the world model, never with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..angles import QUARTER
from .face import Face

WAY_M, MOVED_M, TURNED = 0.04, 0.01, 0.1
"""Units: of ways to the tip, of how far an object moves in a control step, and turns (rad)."""
STIR_M, ARM_M = 0.001, 0.03
"""By which tip and object move in a control step, together, if they do; half of an object."""
FARTHEST = 20.0
"""Units, beyond which nothing matters."""
YAWS = 4
"""That are followed where nobody knows the yaw."""


@dataclass(frozen=True)
class ObjectPose:
    """Where B objects are, and how they moved in the last control step; base frame.

    Attributes:
        place: (B, 3) m, of the middle. yaw: (B,) rad, up to quarter turns.
        moved: (B, 3) m. turned: (B,) rad.
    """

    place: Tensor
    yaw: Tensor
    moved: Tensor
    turned: Tensor

    def at_rest(self) -> ObjectPose:
        """There, without motion."""
        still = torch.zeros_like(self.moved), torch.zeros_like(self.turned)
        return ObjectPose(self.place, self.yaw, *still)


def every_yaw(place: Tensor, moved: Tensor) -> ObjectPose:
    """Objects at ``place`` (B, 3) m that ``moved`` (B, 3) m, as each of ``YAWS``: (B*YAWS,)."""
    yaw = torch.arange(YAWS) * (QUARTER / YAWS)
    many = place.repeat_interleave(YAWS, 0), moved.repeat_interleave(YAWS, 0)
    yaws = yaw.to(place).repeat(len(place))
    return ObjectPose(many[0], yaws, many[1], torch.zeros_like(yaws))


class Pushing(nn.Module):
    """An object's pose a control step later; what is mirrored moves in the mirrored way.

    Where neither tip nor object moves, nothing does.
    """

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(12, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3),
        )  # fmt: skip
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[-1].bias)  # type: ignore[arg-type]

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        """The pose after a control step.

        Args:
            pose: now. tips: (B, 3, 3) m, where the tip was a control step ago, is, and will be.
        """
        way = tips - pose.place[:, None]
        face = Face(pose.yaw, way[:, 1:].mean(1))
        way, moved = face.to(way), face.to(pose.moved)[:, :2]
        side = torch.where(way[:, 1:, 1].sum(1) < 0.0, -1.0, 1.0)  # the tip is on the left now
        mirror = torch.stack([torch.ones_like(side), side], dim=1)
        across = way[..., :2] * mirror[:, None]
        parts = [
            across.flatten(1) / WAY_M,
            way[..., 2] / WAY_M,
            moved * mirror / MOVED_M,
            (pose.turned * side)[:, None] / TURNED,
        ]
        stir = tips.diff(dim=1).norm(dim=-1).sum(1) + pose.moved.norm(dim=-1)
        stir = stir + ARM_M * pose.turned.abs()
        told = torch.cat(parts, dim=1).clamp(-FARTHEST, FARTHEST)
        out = self.net(told) * torch.tanh(stir / STIR_M)[:, None]
        ahead, left, turn = out.unbind(1)
        moved = torch.stack([ahead, left * side, torch.zeros_like(left)], dim=1) * MOVED_M
        moved, turned = face.back(moved), turn * side * TURNED
        return ObjectPose(pose.place + moved, pose.yaw + turned, moved, turned)
