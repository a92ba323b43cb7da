"""What plans for an object's place and yaw need beside the world model; taught on its latents.

All of it sees the plane as the object does: from its middle, with the face that is nearest the
tip ahead. What holds for one face then holds for all four, wherever the object lies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..goals import Goal, PositionGoal
from ..model.bounded import bounded
from ..model.checkpoint import Checkpoint, load_module
from ..model.face import Face
from ..model.yaw import YawReader
from ..motion import ACTION_METRES
from .heads import Mixture, Twin, mlp

SCALE = 10.0
"""1/m; lengths are given in units of 10 cm."""
FEATURES = 17
MOTION_FEATURES = 14
MIDDLE = 0.5, 0.0
"""m, of the table."""


def pose_features(
    yaw: Tensor, tip: tuple[Tensor, Tensor], thing: tuple[Tensor, Tensor], goal: Tensor
) -> tuple[Tensor, Face]:
    """(B, FEATURES) for actor and value, and the face they go by.

    Args:
        yaw: (B,) rad. tip, thing: where tip target and object are read to be, (B, 3) m, now and
            a model step ago. goal: (B, 4), a place (m) and a yaw (rad).
    """
    face = Face(yaw, tip[0] - thing[0])
    way = face.to(tip[0] - thing[0])
    turn = 4.0 * (goal[:, 3] - yaw)
    middle = thing[0][:, :2] - thing[0].new_tensor(MIDDLE)
    parts = [
        way * SCALE,
        face.to(tip[0] - tip[1]) * SCALE,
        face.to(thing[0] - thing[1])[:, :2] * SCALE,
        face.to(goal[:, :3] - thing[0])[:, :2] * SCALE,
        torch.stack([torch.sin(turn), torch.cos(turn)], dim=1),
        middle * SCALE,
        way[:, :2].norm(dim=1, keepdim=True) * SCALE,
        face.cos,
        face.sin,
    ]
    return torch.cat(parts, dim=1), face


def motion_features(
    yaw: Tensor, tip: tuple[Tensor, Tensor], thing: tuple[Tensor, Tensor], actions: Tensor
) -> Tensor:
    """(B, MOTION_FEATURES) of a model step in which the object turns.

    Args:
        yaw: (B,) rad, before it. tip: (B, 3) m, its target now and a model step ago.
        thing: (B, 3) m, now and a model step later. actions: (B, K, 3), what is moved in it.
    """
    face = Face(yaw, tip[0] - thing[0])
    path = tip[0][:, None] + ACTION_METRES * actions.cumsum(1)
    there = torch.cat([tip[1][:, None], tip[0][:, None], path], dim=1) - thing[0][:, None]
    moved = face.to(thing[1] - thing[0])[:, :2]
    return torch.cat([face.to(there).flatten(1) * 2.0 * SCALE, moved * 4.0 * SCALE], dim=1)


class Turn(nn.Module):
    """By how much the object turns in a model step; mirrored motions turn it the other way."""

    LARGEST = 0.2
    """rad, the unit of its output."""

    def __init__(self, block: int, width: int = 64) -> None:
        """``block``: control steps in a model step."""
        super().__init__()
        self.net = mlp(3 * (block + 2) + 2, width, 1)
        mirror = [1.0, -1.0, 1.0] * (block + 2) + [1.0, -1.0]
        self.register_buffer('mirror', torch.tensor(mirror), persistent=False)

    mirror: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """(B,) rad, from ``motion_features``."""
        both = self.net(features) - self.net(features * self.mirror)
        return both[:, 0] * self.LARGEST / 2.0


class PoseActor(Mixture):
    """Action blocks, as the object sees them, that lead to a pose in a given time.

    Args:
        block: K*A, values of an action block. width: hidden size.
    """

    def __init__(self, block: int, width: int = 104) -> None:
        super().__init__(FEATURES + 1, block, width, largest=1.45)  # sqrt 2: a turned corner

    def log_prob(self, features: Tensor, remaining: Tensor, action: Tensor) -> Tensor:
        """(B,) log density of ``action`` (B, K*A), as the object sees it.

        Args:
            features: (B, FEATURES) of ``pose_features``.
            remaining: (B,) share of the longest hindsight left, in [0, 1].
        """
        return self.log_density(torch.cat([features, remaining[:, None]], dim=-1), action)

    def pick(
        self, features: Tensor, face: Face, remaining: Tensor, gumbel: Tensor, noise: Tensor
    ) -> Tensor:
        """(B, K, A) in [-1, 1], in the base frame; see ``Mixture.draw``."""
        told = torch.cat([features, remaining[:, None]], dim=-1)
        seen, broken = self.draw(told, gumbel, noise)
        sample = bounded(face.back(seen.view(seen.shape[0], -1, 3)), -1.0, 1.0)
        return sample + broken.view_as(sample)  # NaN goes through


class PoseValue(Twin):
    """Of a pose, told by ``pose_features``."""

    def __init__(self, width: int = 104) -> None:
        super().__init__(FEATURES, width)


class PoseHeads(nn.Module):
    """What belongs to one world model, to push objects to a place and a yaw.

    Args:
        skip: K, control steps in a model step. width: A, of an action.
        max_steps: control steps of the longest hindsight.
    """

    def __init__(self, skip: int, width: int, max_steps: int) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.reader, self.turn = YawReader(), Turn(skip)
        self.actor, self.value = PoseActor(skip * width), PoseValue()

    def know(self, goal: Goal) -> bool:
        """Whether it is the kind of goal that they were trained for."""
        return isinstance(goal, PositionGoal) and goal.yaw is not None


def load_pose_heads(checkpoint: Checkpoint) -> PoseHeads | None:
    """Those of a checkpoint, in eval mode; None if it has none.

    Raises:
        CheckpointError: their file is broken or belongs to another model.
    """
    if 'pose' not in checkpoint.info:
        return None
    skip = checkpoint.contract.time.frame_skip
    width = checkpoint.contract.action_width
    heads = PoseHeads(skip, width, int(checkpoint.info['pose']['max_steps']))
    load_module(checkpoint.folder, 'pose', heads)
    return heads
