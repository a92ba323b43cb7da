"""Obstacle routes: paths of tip and object around known obstacles, for scripted policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_arm.config import ObstacleConfig
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.action_space import ACTION_METRES
from jepa_arm.robot.routes import (
    is_blocked,
    nearest_free_point,
    obstacle_distance,
    point_along,
    route_length,
    shortest_route,
)

from .scene_sampling import OBJECT_MARGIN, TIP_MARGIN

TARGET_MARGIN = 0.027
"""Smallest distance (m) between the tip's target and an obstacle."""
CORNER_MARGIN = 0.02
"""Smallest distance (m) between an obstacle and the straight line from the tip to its target."""
OBJECT_LOOK_AHEAD = 0.03
"""Distance (m) along an object's route to the point that it is pushed to next."""


@dataclass(frozen=True)
class ObstacleRoutes:
    """Obstacles, and the regions in which tip and object may move between them.

    Attributes:
        obstacles: the obstacles.
        workspace: (2, 3) m, lower and upper bounds of the tip.
        object_region: (2, 2) m, lower and upper bounds of the object's centre.
    """

    obstacles: tuple[ObstacleConfig, ...]
    workspace: FloatArray
    object_region: FloatArray

    def next_tip_position(
        self, target: FloatArray, goal: FloatArray, others: tuple[ObstacleConfig, ...] = ()
    ) -> FloatArray:
        """Return the tip's next target (3,) m, one control step ahead on its route to ``goal``.

        Args:
            target: (3,) m, current target of the tip.
            goal: (3,) m.
            others: further obstacles.

        Returns:
            A point of the route. If there is none: a point straight above ``target``, or ``goal``
            if ``target`` is at the top of the workspace.
        """
        obstacles = self.obstacles + others
        way = shortest_route(target, goal, obstacles, TIP_MARGIN, self.workspace)
        if way is None:
            is_up = target[2] > self.workspace[1, 2] - ACTION_METRES
            return goal if is_up else target + np.array([0.0, 0.0, ACTION_METRES])
        first = np.abs(way[0] - target)
        stretch = float(np.linalg.norm(first)) / max(float(first.max()), 1e-9)
        return point_along(target, way, ACTION_METRES * max(1.0, stretch))

    def next_object_position(
        self, centre: FloatArray, goal: FloatArray, extra: float
    ) -> tuple[FloatArray, float]:
        """Return the next point to push an object to on its route, and the route's length.

        Args:
            centre: (2,) m, the object.
            goal: (2,) m.
            extra: m by which the object's footprint is larger than that of the standard cube.

        Returns:
            A point (2,) m of the route, and its length (m). Without a route, both are those of
            the straight line to ``goal``.
        """
        way = shortest_route(
            centre, goal, self.obstacles, OBJECT_MARGIN + extra, self.object_region
        )
        if way is None:
            way = goal[None]
        return point_along(centre, way, OBJECT_LOOK_AHEAD), route_length(centre, way)

    def is_tip_free(self, tip: FloatArray) -> bool:
        """Return whether the tip may be at ``tip`` (3,) m."""
        low, high = self.workspace
        is_inside = bool(np.all(tip >= low) and np.all(tip <= high))
        return is_inside and obstacle_distance(tip, self.obstacles) > TIP_MARGIN - 0.001

    def is_tip_path_clear(self, start: FloatArray, end: FloatArray) -> bool:
        """Return whether the tip may move straight from ``start`` to ``end`` (3,) m."""
        return not is_blocked(start, end, self.obstacles, TARGET_MARGIN)

    def is_object_free(self, position: FloatArray) -> bool:
        """Return whether an object can be pushed to ``position`` (2,) m and left there."""
        return obstacle_distance(position, self.obstacles) > OBJECT_MARGIN

    def deflect(self, tip: FloatArray, target: FloatArray, action: FloatArray) -> FloatArray:
        """Return ``action`` (3,), changed so that the tip's target stays off the obstacles.

        Args:
            tip: (3,) m; it lags behind its target.
            target: (3,) m, current target of the tip.
            action: (3,) in [-1, 1].

        Returns:
            (3,) in [-1, 1]; zeros if no free target is near or the tip would cut a corner.
        """
        place = np.clip(target + np.clip(action, -1.0, 1.0) * ACTION_METRES, *self.workspace)
        free = nearest_free_point(place, self.obstacles, TARGET_MARGIN, self.workspace)
        if free is None or np.abs(free - target).max() > 1.5 * ACTION_METRES:
            return np.zeros(3)
        is_near = obstacle_distance(tip, self.obstacles) < CORNER_MARGIN
        if not is_near and is_blocked(tip, free, self.obstacles, CORNER_MARGIN):
            return np.zeros(3)
        if free is place:
            return action
        return np.clip((free - target) / ACTION_METRES, -1.0, 1.0)
