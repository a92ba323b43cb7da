"""What the world model is taught to make small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..data.windows import Windows
from ..model.architectures import AnyWorldModel
from ..model.precision import mixed_precision
from ..model.sigreg import sigreg
from ..model.world_model import WorldModel


@dataclass(frozen=True)
class Losses:
    """Terms of the loss, each a scalar.

    Attributes:
        rollout: open-loop MSE over the steps of the window.
        teacher_forced: one-step MSE.
        sigreg: SIGReg statistic, unweighted.
        inverse: MSE of the actions told from two latents, if it has a weight.
        bend: of the latents' path, if it has a weight; see ``path_bend``.
    """

    rollout: Tensor
    teacher_forced: Tensor
    sigreg: Tensor
    inverse: Tensor | None = None
    bend: Tensor | None = None

    def total(self, train: TrainConfig) -> Tensor:
        """The weighted sum."""
        loss = self.rollout + self.teacher_forced + train.sigreg_weight * self.sigreg
        if self.inverse is not None:
            loss = loss + train.inverse_weight * self.inverse
        if self.bend is not None:
            loss = loss + train.straightening_weight * self.bend
        return loss


def losses(model: AnyWorldModel, windows: Windows, train: TrainConfig, step_seed: int) -> Losses:
    """The loss terms of one batch; the encoder sees all frames of all windows at once."""
    size, length = windows.proprio.shape[:2]
    with mixed_precision():
        z = model.encode(windows.pixels.flatten(0, 1), windows.proprio.flatten(0, 1))
        z = z.view(size, length, -1)
        rollout, teacher_forced = model.prediction_errors(z, windows.actions)
        inverse = None
        if train.inverse_weight and isinstance(model, WorldModel):
            inverse = model.inverse_error(z, windows.actions)
    generator = torch.Generator().manual_seed(step_seed)
    return Losses(
        rollout=rollout,
        teacher_forced=teacher_forced,
        sigreg=sigreg(z.transpose(0, 1), train.sigreg_projections, train.sigreg_knots, generator),
        inverse=inverse,
        bend=path_bend(z) if train.straightening_weight else None,
    )


def path_bend(z: Tensor) -> Tensor:
    """1 - cosine between successive changes of latents (B, L, D): temporal straightening."""
    change = z.diff(dim=1)
    return 1.0 - nn.functional.cosine_similarity(change[:, 1:], change[:, :-1], dim=-1).mean()
