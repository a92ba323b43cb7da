"""Obstacle avoidance: constraints on the tip and the object, and subgoals on the way around.

Obstacles are known by their declared shape and pose, not from images. The guard keeps the arm off
them whatever is planned; plans keep a larger clearance, so that the guard need not intervene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.config import ObstacleConfig
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.routes import (
    ObstacleBoxes,
    is_blocked,
    point_along,
    route_length,
    shortest_route,
    upright_box,
)

from .push_map import HEADINGS, PushMap

STAND_OFFS = (0.075, 0.060, 0.050)
"""m, candidate distances between the object's centre and a tip behind it, preferred first."""
APPROACH_MARGIN_SHARE = 0.75
"""Share of the tip's margin that is kept between its place behind the object and the object."""
OBJECT_CENTRE_HEIGHT = 0.025
"""m, height of the object's centre above the table."""
VISIBLE_PART = 0.03
"""m, distance of the object's centre from a hidden region at which enough of it is visible."""
MIN_SHADOW_WIDTH = 0.01
"""m, least width of a box that represents a hidden region."""
SHADOW_BOXES = 3
"""Number of boxes per hidden region."""
DIMENSIONS = {'object': 2, 'tip': 3}
"""Number of axes along which each subject moves; the object moves only on the table."""
OBJECT_SIZE = 0.05
"""m, edge length of the object, which the tip must move around."""


class Subgoal(NamedTuple):
    """Intermediate goal on the way to a goal.

    Attributes:
        position: (3,) m.
        remaining_path: m, length of the path to the final goal.
        heading: (2,) unit vector of the first push, if the object must leave its shortest path;
            None otherwise.
    """

    position: FloatArray
    remaining_path: float
    heading: FloatArray | None = None


class ObstacleConstraints:
    """Clearances of tip and object from declared obstacles.

    Attributes:
        obstacles: declared obstacles in the base frame; may be empty.
        margins: m, clearance by subject: of the object's centre (half its width and a reserve)
            and of the tip (the peg's radius, the guard's clearance and a reserve).
        min_subgoal_distance: m, least distance to a subgoal on a path around obstacles.
    """

    def __init__(
        self,
        obstacles: Sequence[ObstacleConfig],
        margins: dict[str, float],
        bounds: dict[str, FloatArray],
        min_subgoal_distance: float,
        camera: FloatArray | None = None,
    ) -> None:
        """Prepare the boxes around the obstacles and the map of possible pushes.

        Args:
            obstacles, margins, min_subgoal_distance: see the attributes.
            bounds: m, boxes that paths must stay in, (2, 2) for the object, (2, 3) for the tip.
            camera: (3,) m, position of the camera. If given, the object's paths stay in
                its view where possible.
        """
        self.obstacles, self.margins, self._bounds = tuple(obstacles), margins, bounds
        self.min_subgoal_distance = min_subgoal_distance
        shrink = max(0.0, margins['object'] - VISIBLE_PART)
        self._shadows = () if camera is None else hidden_behind(obstacles, camera, shrink)
        self._boxes = {s: ObstacleBoxes(obstacles, dim) for s, dim in DIMENSIONS.items()}
        self._tensors = {s: _as_tensors(boxes) for s, boxes in self._boxes.items()}
        self._push_map = self._make_push_map() if obstacles else None

    def check(self, goal: PositionGoal) -> None:
        """Raise GoalError if ``goal`` violates its subject's margin to an obstacle."""
        dim, margin = DIMENSIONS[goal.subject], self.margins[goal.subject]
        for obstacle in self.obstacles:
            depth = ObstacleBoxes([obstacle], dim).depth(goal.position[:dim], margin)
            if depth.max(initial=0.0) > 0.0:
                raise GoalError(
                    f'goal: expected a position for the {goal.subject} at least {margin:g} m from '
                    f'the obstacle {obstacle.name}, got {np.round(goal.position, 3).tolist()}, '
                    f'{depth.max():.3f} m nearer'
                )

    def depth(self, subject: str, path: Tensor) -> Tensor:
        """Return how far (...) m ``subject`` is inside its margin at each point of ``path``.

        ``path`` is (..., 3) m. The depth is 0 where the margin to every obstacle is kept.
        """
        centre, half, rotation = self._tensors[subject]
        if not len(centre):
            return torch.zeros(path.shape[:-1])
        offset = path[..., None, : half.shape[-1]] - centre
        local = torch.einsum('nij,...nj->...ni', rotation, offset)
        outside = (local.abs() - half - self.margins[subject]).amax(-1)
        return (-outside).amax(-1).clamp(min=0.0)

    def is_blocked(self, start: Tensor, path: Tensor, slack: float) -> Tensor:
        """Return a mask (...) of the tip paths (..., T, 3) m that come too near to an obstacle.

        A path is too near if its missing clearance exceeds both ``slack`` m and that at ``start``
        (3,) m, so that a tip that is already too near may leave.
        """
        allowed = self.depth('tip', start).clamp(min=slack)
        return self.depth('tip', path).amax(-1) > allowed

    def subgoal(
        self,
        subject: str,
        position: FloatArray,
        goal: FloatArray,
        previous_heading: FloatArray | None = None,
    ) -> Subgoal:
        """Return the first subgoal on the shortest path around the obstacles.

        It is the next bend, or a point ``min_subgoal_distance`` ahead if that is further; the
        goal if nothing is in the way, or if there is no path. If the tip has no room behind the
        object to push it there, the object takes the shortest path on which the tip has room, and
        the subgoal is ``min_subgoal_distance`` ahead in the direction of its first push.

        Args:
            subject: 'object' or 'tip'.
            position, goal: (3,) m.
            previous_heading: (2,) heading of the last subgoal; None if it had none.
        """
        shortest = self._on_shortest_route(subject, position, goal)
        if subject == 'tip' or self._push_map is None:
            return shortest
        if self._place_behind(position, shortest.position) is not None:
            return shortest
        ahead = self.min_subgoal_distance
        push = self._push_map.best_push(position[:2], goal[:2], ahead, previous_heading)
        if push is None:
            return shortest
        heading, remaining_path = push
        target = np.concatenate([position[:2] + ahead * heading, goal[2:]])
        return Subgoal(target, remaining_path, heading)

    def approach(
        self,
        tip: FloatArray,
        position: FloatArray,
        target: FloatArray,
        only_if_blocked: bool = False,
    ) -> Subgoal | None:
        """Return the tip's first subgoal on its path to the place behind the object.

        The path leads around the object and the obstacles.

        Args:
            tip: (3,) m, setpoint of the tip.
            position, target: (3,) m, the object's position, and where it is to be pushed.
            only_if_blocked: whether to return None if no obstacle stands between tip and place.

        Returns:
            None if there is no room behind the object, or no path to that place.
        """
        behind, margin = self._place_behind(position, target), self.margins['tip']
        if behind is None:
            return None
        reduced = APPROACH_MARGIN_SHARE * margin
        if only_if_blocked and not is_blocked(tip, behind, self.obstacles, reduced):
            return None
        size, (x, y) = (OBJECT_SIZE, OBJECT_SIZE, OBJECT_SIZE), map(float, position[:2])
        the_object = ObstacleConfig('object', 'box', size, (x, y, OBJECT_SIZE / 2.0))
        obstacles = (*self.obstacles, the_object)
        route = shortest_route(tip, behind, obstacles, margin, self._bounds['tip'])
        if route is None:
            return None
        return Subgoal(self._first_point(tip, route), route_length(tip, route))

    def _first_point(self, start: FloatArray, route: FloatArray) -> FloatArray:
        """Return the first bend of ``route`` (N, 2 or 3) m, or a later point if it is too near."""
        first = float(np.linalg.norm(route[0] - start))
        return point_along(start, route, max(first, self.min_subgoal_distance))

    def _on_shortest_route(self, subject: str, position: FloatArray, goal: FloatArray) -> Subgoal:
        """Return the first subgoal on the shortest path, even if the tip cannot push along it."""
        dim = DIMENSIONS[subject]
        start, end = position[:dim], goal[:dim]
        margin, bounds = self.margins[subject], self._bounds[subject]
        route = None
        if subject == 'object' and self._shadows:
            route = shortest_route(start, end, self.obstacles + self._shadows, margin, bounds)
        if route is None:
            route = shortest_route(start, end, self.obstacles, margin, bounds)
        if route is None:
            route = end[None]
        remaining_path = route_length(start, route)
        if len(route) == 1:
            return Subgoal(goal, remaining_path)
        target = np.concatenate([self._first_point(start, route), goal[dim:]])
        return Subgoal(target, remaining_path)

    def _make_push_map(self) -> PushMap:
        """Return the map of pushes on the part of the table that the tip reaches.

        Positions outside the object's bounds or hidden from the camera are allowed, but avoided.
        """
        shadows, margin = ObstacleBoxes(self._shadows, 2), self.margins['object']
        low, high = self._bounds['object']

        def is_avoided(positions: FloatArray) -> NDArray[np.bool_]:
            is_outside = np.any((positions < low) | (positions > high), axis=1)
            return is_outside | (_max_depth(shadows, positions, margin) > 0.0)

        def can_push(positions: FloatArray) -> NDArray[np.bool_]:
            return np.asarray(np.isfinite(self._places_behind(positions, HEADINGS)).all(axis=-1))

        return PushMap(
            self._bounds['tip'][:, :2],
            can_push,
            lambda positions: _max_depth(self._boxes['object'], positions, margin),
            is_avoided,
            margin - OBJECT_SIZE / 2.0,
        )

    def _place_behind(self, position: FloatArray, target: FloatArray) -> FloatArray | None:
        """Return the place (3,) m from which the tip can push an object to ``target`` (3,) m.

        It is behind the object at ``position`` (3,) m, near the table. Place and line to the
        object are clear of obstacles; None if there is no such place.
        """
        offset = (target - position)[:2]
        heading = offset / max(float(np.linalg.norm(offset)), 1e-9)
        place = self._places_behind(position[None, :2], heading[None])[0, 0]
        return None if np.isnan(place).any() else place

    def _places_behind(self, positions: FloatArray, headings: FloatArray) -> FloatArray:
        """Return the places (M, K, 3) m behind objects (M, 2) m along ``headings`` (K, 2).

        Places that do not exist are NaN, see ``_place_behind``.
        """
        margin, (low, high) = self.margins['tip'], self._bounds['tip']
        boxes, shape = self._boxes['tip'], (len(positions), len(headings))
        objects = np.append(positions, np.full((len(positions), 1), low[2]), axis=1)
        objects = np.repeat(objects, len(headings), axis=0)
        found = np.full((len(objects), 3), np.nan)
        reduced = APPROACH_MARGIN_SHARE * margin
        # the tip may come as near to an obstacle as the object already is
        grown = boxes.half + reduced - boxes.depth(objects, reduced)[..., None]
        for stand_off in reversed(STAND_OFFS):
            back = np.append(stand_off * headings, np.zeros((len(headings), 1)), axis=1)
            places = objects - np.tile(back, (len(positions), 1))
            is_free = np.all((places >= low) & (places <= high), axis=1)
            is_free &= boxes.distances(places).min(axis=-1, initial=np.inf) >= margin
            is_free &= ~boxes.hit(places, objects, grown)
            found[is_free] = places[is_free]
        return found.reshape(*shape, 3)


def hidden_behind(
    obstacles: Sequence[ObstacleConfig], camera: FloatArray, shrink: float
) -> tuple[ObstacleConfig, ...]:
    """Return boxes on the table where obstacles hide the centre of a low object from the camera.

    Copies of each obstacle are placed along the region behind it. Obstacles as high as the camera
    are left out.

    Args:
        obstacles: base frame.
        camera: (3,) m, position of the camera.
        shrink: m by which the boxes are smaller than the obstacle on each side.
    """
    found = []
    for obstacle in obstacles:
        centre, half, yaw = upright_box(obstacle)
        top = centre[2] + half[2]
        if not OBJECT_CENTRE_HEIGHT < top < camera[2]:
            continue
        away = (centre - camera)[:2]
        shadow = away * (top - OBJECT_CENTRE_HEIGHT) / (camera[2] - top)
        length_m, width_m = map(float, np.maximum(2.0 * (half[:2] - shrink), MIN_SHADOW_WIDTH))
        for share in (np.arange(SHADOW_BOXES) + 1.0) / SHADOW_BOXES:
            x, y = map(float, centre[:2] + share * shadow)
            size = length_m, width_m, OBJECT_CENTRE_HEIGHT
            position = x, y, OBJECT_CENTRE_HEIGHT / 2.0
            name = f'hidden by {obstacle.name}'
            found.append(ObstacleConfig(name, 'box', size, position, (0.0, 0.0, yaw)))
    return tuple(found)


def _max_depth(boxes: ObstacleBoxes, positions: FloatArray, margin: float) -> FloatArray:
    """Return the depth (M,) m of ``positions`` (M, dim) in ``boxes`` grown by ``margin``, or 0."""
    return boxes.depth(positions, margin).max(axis=-1, initial=0.0)


def _as_tensors(boxes: ObstacleBoxes) -> tuple[Tensor, Tensor, Tensor]:
    arrays = (boxes.centre, boxes.half, boxes.rotation)
    centre, half, rotation = (torch.tensor(array, dtype=torch.float32) for array in arrays)
    return centre, half, rotation
