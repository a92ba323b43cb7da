"""Press term: how deep the tip would be inside the object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_arm.model.numerics import clamp_keep_nan
from jepa_arm.planning.model import PositionReader

from .cost_term import Rollouts


@dataclass(frozen=True)
class PressCost:
    """Mean depth of the tip inside the object, modelled as an upright cylinder on the table.

    Beside the object, the tip pushes it; inside the cylinder, it would press the object down. The
    model mispredicts such motions, and the guard stops the arm.

    Attributes:
        weight: cost per m.
        radius, height: m, of the cylinder.
        lag: share of a model step by which the tip lags behind its setpoint.
        read_position: reads the tip's setpoint from latents.
    """

    weight: float
    radius: float
    height: float
    lag: float
    read_position: PositionReader
    name = 'press'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,); ``rollouts.positions`` are those of the object."""
        setpoints = self.read_position('tip', rollouts.path)
        tip = torch.lerp(setpoints[:, 1:], setpoints[:, :-1], self.lag)
        aside = (tip[..., :2] - rollouts.positions[..., :2]).norm(dim=-1)
        depth, below = self.radius - aside, self.height - tip[..., 2]
        inside = clamp_keep_nan(depth, 0.0, below.clamp(min=0.0)) + 0.0 * below  # keeps NaN
        return self.weight * inside.mean(1)
