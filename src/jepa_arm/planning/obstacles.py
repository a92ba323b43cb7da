"""What declared obstacles mean for a plan: where tip and object must not go, and the way round.

Obstacles are known by their declared shape and place, not by sight: the guard holds the arm off
them, whatever is planned; a plan keeps off them with more room, so that the guard need not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..config import ObstacleConfig
from ..goals import GoalError, PositionGoal
from ..routes import Boxes, ahead, route
from ..types import FloatArray

BARRED = 1e3
"""What a tip path into an obstacle costs more: any path that keeps out is better."""


class KeepOut:
    """The boxes round declared obstacles, grown by the room that tip and object need.

    Attributes:
        margins: m, of the object (its half width and some) and of the tip (the peg's radius, the
            guard's clearance and some).
    """

    def __init__(
        self,
        obstacles: Sequence[ObstacleConfig],
        margins: dict[str, float],
        bounds: dict[str, FloatArray],
    ) -> None:
        """Of ``obstacles``.

        Args:
            obstacles: declared, base frame.
            margins: m, by subject, 'object' and 'tip'.
            bounds: m, boxes that ways must stay in: (2, 2) of the object, (2, 3) of the tip.
        """
        self._obstacles, self.margins, self._bounds = tuple(obstacles), margins, bounds
        self._boxes = {'object': _tensors(obstacles, 2), 'tip': _tensors(obstacles, 3)}

    def check(self, goal: PositionGoal) -> None:
        """Raises GoalError where tip or object cannot be at ``goal`` for an obstacle."""
        dim = 2 if goal.subject == 'object' else 3
        for obstacle in self._obstacles:
            depth = Boxes([obstacle], dim).depth(goal.position[:dim], self.margins[goal.subject])
            if depth.max(initial=0.0) > 0.0:
                raise GoalError(
                    f'goal: expected a place for the {goal.subject} at least '
                    f'{self.margins[goal.subject]:g} m from the obstacle {obstacle.name}, got '
                    f'{np.round(goal.position, 3).tolist()}, {depth.max():.3f} m nearer'
                )

    def depth(self, subject: str, path: Tensor) -> Tensor:
        """(...) m by which places (..., 3) of ``subject`` are inside grown boxes, 0 outside."""
        centre, half, turn = self._boxes[subject]
        if not len(centre):
            return torch.zeros(path.shape[:-1])
        offset = path[..., None, : half.shape[-1]] - centre
        local = torch.einsum('nij,...nj->...ni', turn, offset)
        outside = (local.abs() - half - self.margins[subject]).amax(-1)
        return (-outside).amax(-1).clamp(min=0.0)

    def is_barred(self, start: Tensor, path: Tensor, slack: float) -> Tensor:
        """(...) whether tip paths (..., T, 3) m lead further in than ``slack`` m and ``start``.

        A tip that is nearer than its margin already may leave.
        """
        allowed = self.depth('tip', start).clamp(min=slack)
        return self.depth('tip', path).amax(-1) > allowed

    def towards(self, subject: str, here: FloatArray, goal: FloatArray, lead: float) -> FloatArray:
        """(3,) m, where to go first on the shortest way round from ``here`` to ``goal`` (3,) m.

        The next bend, or a point ``lead`` m ahead where that is further; the goal where nothing
        is in the way, or where there is no way.
        """
        dim = 2 if subject == 'object' else 3
        margin, bounds = self.margins[subject], self._bounds[subject]
        way = route(here[:dim], goal[:dim], self._obstacles, margin, bounds)
        if way is None or len(way) == 1:
            return goal
        first = float(np.linalg.norm(way[0] - here[:dim]))
        return np.concatenate([ahead(here[:dim], way, max(first, lead)), goal[dim:]])


def _tensors(obstacles: Sequence[ObstacleConfig], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    boxes = Boxes(obstacles, dim)
    arrays = (boxes.centre, boxes.half, boxes.turn)
    centre, half, turn = (torch.tensor(array, dtype=torch.float32) for array in arrays)
    return centre, half, turn
