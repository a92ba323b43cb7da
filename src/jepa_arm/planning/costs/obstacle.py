"""Obstacle term: missing clearance from declared obstacles, and paths that run into them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jepa_arm.planning.obstacles.constraints import ObstacleConstraints
from jepa_arm.robot.action_space import ACTION_METRES

from .cost_term import Rollouts

BLOCKED_COST = 1e3
"""Additional cost of a tip path into an obstacle, larger than that of any path that stays out."""


@dataclass(frozen=True)
class ObstacleCost:
    """Mean missing clearance along the path, plus ``BLOCKED_COST`` if the tip comes too near.

    The tip's path is its setpoint moved by the actions; the object's is read from the latents.

    Attributes:
        weight: cost per m.
        slack: m of clearance that the tip may lack before its path counts as blocked.
        constraints: obstacles and clearances.
        tip_setpoint: (3,) m, commanded tip position before the first action.
        moves_object: whether the goal is for the object; if so, its path counts too.
    """

    weight: float
    slack: float
    constraints: ObstacleConstraints
    tip_setpoint: Tensor
    moves_object: bool
    name = 'obstacle'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the cost (S,)."""
        assert rollouts.actions is not None
        path = self.tip_setpoint + ACTION_METRES * rollouts.actions.cumsum(1)
        is_blocked = self.constraints.is_blocked(self.tip_setpoint, path, self.slack)
        depth = self.constraints.depth('tip', path).mean(1)
        if self.moves_object:
            depth = depth + self.constraints.depth('object', rollouts.positions).mean(1)
        return self.weight * depth + BLOCKED_COST * is_blocked
