"""What stands round a task, for policies that see it: ways round it for the tip and the object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import ObstacleConfig
from ..motion import ACTION_METRES
from ..routes import ahead, distance, is_blocked, length, pushed_out, route
from ..types import FloatArray
from .obstacles import THING_MARGIN, TIP_MARGIN

KEPT = 0.027
"""m, nearer than this the tip is not told to go to an obstacle."""
CUT = 0.02
"""m, nearer than this the tip's own straight way to its target does not come."""
LOOK_AHEAD = 0.03
"""m along its way, where an object is pushed to."""


@dataclass(frozen=True)
class Surroundings:
    """Obstacles, and where tip and object may be between them.

    Attributes:
        obstacles: what stands there.
        workspace: (2, 3) m, of the tip; region: (2, 2) m, of the object's centre.
    """

    obstacles: tuple[ObstacleConfig, ...]
    workspace: FloatArray
    region: FloatArray

    def tip_towards(
        self, target: FloatArray, goal: FloatArray, others: tuple[ObstacleConfig, ...] = ()
    ) -> FloatArray:
        """(3,) m, where the tip goes next on its way from ``target`` to ``goal`` (3,) m.

        A control step ahead; up first where there is no way. ``others``: also in the way.
        """
        obstacles = self.obstacles + others
        way = route(target, goal, obstacles, TIP_MARGIN, self.workspace)
        if way is None:
            is_up = target[2] > self.workspace[1, 2] - ACTION_METRES
            return goal if is_up else target + np.array([0.0, 0.0, ACTION_METRES])
        first = np.abs(way[0] - target)
        longest = float(np.linalg.norm(first)) / max(float(first.max()), 1e-9)
        return ahead(target, way, ACTION_METRES * max(1.0, longest))

    def object_towards(
        self, centre: FloatArray, goal: FloatArray, extra: float
    ) -> tuple[FloatArray, float]:
        """Where an object at ``centre`` is pushed next, (2,) m, and how long its way is, m.

        ``extra``: m by which it reaches farther from its centre than the standard cube.
        """
        way = route(centre, goal, self.obstacles, THING_MARGIN + extra, self.region)
        if way is None:
            way = goal[None]
        return ahead(centre, way, LOOK_AHEAD), length(centre, way)

    def is_free(self, tip: FloatArray) -> bool:
        """Whether the tip may stand at ``tip`` (3,) m."""
        low, high = self.workspace
        is_inside = bool(np.all(tip >= low) and np.all(tip <= high))
        return is_inside and distance(tip, self.obstacles) > TIP_MARGIN - 0.001

    def is_clear(self, tip: FloatArray, end: FloatArray) -> bool:
        """Whether the tip may go straight from ``tip`` to ``end`` (3,) m."""
        return not is_blocked(tip, end, self.obstacles, KEPT)

    def has_room(self, place: FloatArray) -> bool:
        """Whether an object can be pushed to ``place`` (2,) m and left there."""
        return distance(place, self.obstacles) > THING_MARGIN

    def kept_out(self, tip: FloatArray, target: FloatArray, action: FloatArray) -> FloatArray:
        """``action`` (3,) turned so that the tip target (3,) m stays ``KEPT`` off obstacles.

        No action where the tip (3,) m, which lags behind, would cut a corner.
        """
        place = np.clip(target + np.clip(action, -1.0, 1.0) * ACTION_METRES, *self.workspace)
        free = pushed_out(place, self.obstacles, KEPT, self.workspace)
        if free is None or np.abs(free - target).max() > 1.5 * ACTION_METRES:
            return np.zeros(3)
        is_near = distance(tip, self.obstacles) < CUT
        if not is_near and is_blocked(tip, free, self.obstacles, CUT):
            return np.zeros(3)
        if free is place:
            return action
        return np.clip((free - target) / ACTION_METRES, -1.0, 1.0)
