"""Routes: shortest paths of a point around declared obstacles, for the object and for the tip.

A visibility graph over the corners of inflated boxes is searched by A* (Hart, Nilsson and Raphael
1968). Spheres, capsules and tilted boxes are replaced by upright bounding boxes. In 2-D (object
on the table) the boxes are footprints. In 3-D (tip) they extend ``OVERHEAD_M`` below the obstacle,
since the peg above the tip would strike it; routes thus lead around or over obstacles, not under.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from jepa_arm.config import ObstacleConfig
from jepa_arm.core.types import FloatArray

OVERHEAD_M = 0.20
"""Length of the peg; obstacles higher than this above the tip or the table are ignored."""
ROUNDING_M = 1e-6
"""Penetration of an inflated box that counts as a rounding error."""
CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
MIDDLES = np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])


def shortest_route(
    start: FloatArray,
    goal: FloatArray,
    obstacles: Sequence[ObstacleConfig],
    margin: float,
    bounds: FloatArray | None = None,
) -> FloatArray | None:
    """Return the waypoints (N, dim) m of the shortest route from ``start`` (excluded) to ``goal``.

    In 3-D, routes bend only at a few points of each obstacle's edges, so the result is only
    approximately the shortest. If the start or goal is closer to an obstacle than ``margin``, the
    route leaves the start or reaches the goal without getting any closer to that obstacle.

    Args:
        start, goal: (dim,) m, base frame, dim 2 or 3.
        obstacles: obstacles to avoid.
        margin: m, distance to keep from them.
        bounds: (2, dim) m, box for the waypoints between start and goal.

    Returns:
        None if there is no route, or the goal lies in an obstacle.
    """
    start, goal = np.asarray(start, dtype=float), np.asarray(goal, dtype=float)
    if not obstacles:
        return goal[None]
    boxes = _boxes(tuple(obstacles), len(start))
    if boxes.depth(goal, 0.0).max(initial=0.0) > ROUNDING_M:
        return None
    inflated = boxes.half + margin
    from_start = inflated - boxes.depth(start, margin)[:, None]
    to_goal = inflated - boxes.depth(goal, margin)[:, None]
    if not boxes.hit(start[None], goal[None], np.minimum(from_start, to_goal))[0]:
        return goal[None]
    between = boxes.bends(start, goal, margin)
    is_free = np.all(boxes.depth(between, margin) <= ROUNDING_M, axis=1)
    if bounds is not None:
        is_free &= np.all((between >= bounds[0] - ROUNDING_M) & (between <= bounds[1]), axis=1)
    nodes = np.vstack([start, goal, between[is_free]])

    def visible_from(i: int) -> NDArray[np.bool_]:
        halves = np.broadcast_to(from_start if i == 0 else inflated, (len(nodes), *inflated.shape))
        halves = halves.copy()
        halves[1] = np.minimum(halves[1], to_goal)
        return ~boxes.hit(np.broadcast_to(nodes[i], nodes.shape), nodes, halves)

    return _shortest_path(nodes, visible_from)


def is_blocked(
    start: FloatArray, goal: FloatArray, obstacles: Sequence[ObstacleConfig], margin: float
) -> bool:
    """Check whether the line from ``start`` to ``goal`` (dim,) m enters any inflated box."""
    if not obstacles:
        return False
    boxes = _boxes(tuple(obstacles), len(start))
    return bool(boxes.hit(start[None], goal[None], boxes.half + margin)[0])


def obstacle_distance(point: FloatArray, obstacles: Sequence[ObstacleConfig]) -> float:
    """Return the distance (m) from ``point`` (dim,) to the nearest obstacle's box; 0 inside."""
    if not obstacles:
        return math.inf
    return float(_boxes(tuple(obstacles), len(point)).distances(point).min())


def nearest_free_point(
    point: FloatArray,
    obstacles: Sequence[ObstacleConfig],
    margin: float,
    bounds: FloatArray,
) -> FloatArray | None:
    """Return ``point`` (dim,) m if free, else the nearest free point on a face of a box around it.

    Args:
        point: point to move.
        obstacles: obstacles to keep clear of.
        margin: m, by which their boxes are inflated.
        bounds: (2, dim) m, box for the result.

    Returns:
        None if no such point lies within the bounds.
    """
    if not obstacles:
        return point
    boxes = _boxes(tuple(obstacles), len(point))
    depth = boxes.depth(point, margin)
    inside = np.flatnonzero(depth > ROUNDING_M)
    if not inside.size:
        return point
    faces = np.vstack([boxes.faces(point, int(i), margin) for i in inside])
    is_free = np.all(boxes.depth(faces, margin) <= ROUNDING_M, axis=1)
    is_free &= np.all((faces >= bounds[0]) & (faces <= bounds[1]), axis=1)
    if not np.any(is_free):
        return None
    faces = faces[is_free]
    return faces[int(np.argmin(np.linalg.norm(faces - point, axis=1)))]


def point_along(start: FloatArray, path: FloatArray, metres: float) -> FloatArray:
    """Return the point (dim,) ``metres`` from ``start`` along a route (N, dim), or its end."""
    here = start
    for point in path:
        step = point - here
        length = float(np.linalg.norm(step))
        if length >= metres:
            return here + step * (metres / length)
        metres -= length
        here = point
    return path[-1]


def route_length(start: FloatArray, path: FloatArray) -> float:
    """Return the length (m) of a route (N, dim) from ``start`` (dim,)."""
    return float(np.linalg.norm(np.diff(np.vstack([start, path]), axis=0), axis=1).sum())


def _shortest_path(
    nodes: FloatArray, visible_from: Callable[[int], NDArray[np.bool_]]
) -> FloatArray | None:
    """Return the shortest path from node 0 to node 1 (A*), without node 0; None if there is none.

    Args:
        nodes: (M, dim) m.
        visible_from: returns the mask (M,) of nodes visible from node i.
    """
    remaining = np.linalg.norm(nodes - nodes[1], axis=1)
    cost = np.full(len(nodes), np.inf)
    before = np.zeros(len(nodes), dtype=int)
    is_done = np.zeros(len(nodes), dtype=bool)
    cost[0] = 0.0
    queue = [(float(remaining[0]), 0)]
    while queue:
        _, i = heapq.heappop(queue)
        if is_done[i]:
            continue
        is_done[i] = True
        if i == 1:
            path = [1]
            while before[path[-1]] != 0:
                path.append(int(before[path[-1]]))
            return nodes[path[::-1]]
        reached = cost[i] + np.linalg.norm(nodes - nodes[i], axis=1)
        for j in np.flatnonzero((reached < cost - ROUNDING_M) & ~is_done & visible_from(i)):
            cost[j], before[j] = reached[j], i
            heapq.heappush(queue, (float(reached[j] + remaining[j]), int(j)))
    return None


class ObstacleBoxes:
    """N upright boxes, each rotated about z, in ``dim`` dimensions.

    Attributes:
        centre, half: (N, dim) m, centres and half sizes.
        rotation: (N, dim, dim), rows are a box's axes.
    """

    def __init__(self, obstacles: Sequence[ObstacleConfig], dim: int) -> None:
        rows = [upright_box(obstacle) for obstacle in obstacles]
        centre = np.array([row[0] for row in rows]).reshape(-1, 3)
        half = np.array([row[1] for row in rows]).reshape(-1, 3)
        yaw = np.array([row[2] for row in rows])
        if dim == 2:
            is_low = centre[:, 2] - half[:, 2] < OVERHEAD_M
            centre, half, yaw = centre[is_low], half[is_low], yaw[is_low]
        else:
            centre[:, 2] -= OVERHEAD_M / 2.0
            half[:, 2] += OVERHEAD_M / 2.0
        self.centre, self.half = centre[:, :dim], half[:, :dim]
        self.rotation = np.tile(np.eye(dim), (len(yaw), 1, 1))
        self.rotation[:, 0, 0] = self.rotation[:, 1, 1] = np.cos(yaw)
        self.rotation[:, 0, 1], self.rotation[:, 1, 0] = np.sin(yaw), -np.sin(yaw)

    def local(self, points: FloatArray) -> FloatArray:
        """Return ``points`` (..., dim) in each box's frame, (..., N, dim) m."""
        offset = points[..., None, :] - self.centre
        return np.einsum('nij,...nj->...ni', self.rotation, offset)

    def depth(self, points: FloatArray, margin: float) -> FloatArray:
        """Return how deep (..., N) m ``points`` (..., dim) lie in inflated boxes; 0 outside."""
        outside = (np.abs(self.local(points)) - self.half - margin).max(axis=-1)
        return np.maximum(0.0, -outside)

    def distances(self, points: FloatArray) -> FloatArray:
        """Return the distances (..., N) m from ``points`` (..., dim) to each box; 0 inside."""
        apart = np.maximum(np.abs(self.local(points)) - self.half, 0.0)
        return np.linalg.norm(apart, axis=-1)

    def hit(self, begin: FloatArray, end: FloatArray, half: FloatArray) -> NDArray[np.bool_]:
        """Return the mask (M,) of segments that enter a box (slab method, Kay and Kajiya 1986).

        Args:
            begin, end: (M, dim) m, end points of the segments.
            half: (N, dim) or (M, N, dim) m, half sizes of the boxes.
        """
        first = self.local(begin)
        path = _without_zeros(self.local(end) - first)
        enter, leave = _slab_shares(first, path, np.maximum(half - ROUNDING_M, 0.0))
        return np.any((enter < leave) & (leave > 0.0) & (enter < 1.0), axis=-1)

    def bends(self, start: FloatArray, goal: FloatArray, margin: float) -> FloatArray:
        """Return the points (M, dim) m where a route may bend: corners, in 3-D also top edges."""
        inflated = self.half + margin
        if len(start) == 2:
            corners = CORNERS * inflated[:, None]
            return (
                np.einsum('nij,nmi->nmj', self.rotation, corners) + self.centre[:, None]
            ).reshape(-1, 2)
        heights = np.array([start[2], (start[2] + goal[2]) / 2.0, goal[2]])
        top = (self.centre + inflated)[:, 2]
        points = []
        for i, size in enumerate(inflated[:, :2]):
            over = [*CORNERS * size, *MIDDLES * size, *self._crossings(start, goal, i, size)]
            points += [
                np.array([*xy, z]) for z in heights for xy in self._to_base_2d(CORNERS * size, i)
            ]
            points += [np.array([*xy, top[i]]) for xy in self._to_base_2d(np.array(over), i)]
        return np.array(points)

    def faces(self, point: FloatArray, i: int, margin: float) -> FloatArray:
        """Return the projections (F, dim) m of ``point`` on the sides and top of box ``i``."""
        local, inflated = self.local(point)[i], self.half[i] + margin
        sides = [(axis, sign) for axis in (0, 1) for sign in (-1.0, 1.0)]
        if len(point) == 3:
            sides.append((2, 1.0))
        projections = np.tile(local, (len(sides), 1))
        for projection, (axis, sign) in zip(projections, sides, strict=True):
            projection[axis] = sign * inflated[axis]
        return projections @ self.rotation[i] + self.centre[i]

    def _to_base_2d(self, local: FloatArray, i: int) -> FloatArray:
        """Transform points (M, 2) from the frame of box ``i`` to the base frame, (M, 2)."""
        return local @ self.rotation[i, :2, :2] + self.centre[i, :2]

    def _crossings(
        self, start: FloatArray, goal: FloatArray, i: int, size: FloatArray
    ) -> list[FloatArray]:
        """Return where the line from ``start`` to ``goal`` crosses the outline of box ``i``."""
        first, last = self.local(start)[i, :2], self.local(goal)[i, :2]
        path = _without_zeros(last - first)
        enter, leave = _slab_shares(first, path, size)
        if enter >= leave:
            return []
        return [first + share * path for share in (enter, leave) if 0.0 < share < 1.0]


@lru_cache(maxsize=64)
def _boxes(obstacles: tuple[ObstacleConfig, ...], dim: int) -> ObstacleBoxes:
    return ObstacleBoxes(obstacles, dim)


def upright_box(obstacle: ObstacleConfig) -> tuple[FloatArray, FloatArray, float]:
    """Return centre (3,) m, half sizes (3,) m and yaw of an upright box around ``obstacle``."""
    roll, pitch, yaw = obstacle.rpy
    if obstacle.shape == 'sphere':
        half = np.full(3, obstacle.size[0])
        roll = pitch = 0.0
    elif obstacle.shape == 'capsule':
        radius, length = obstacle.size
        half = np.array([radius, radius, length / 2.0 + radius])
    else:
        half = np.array(obstacle.size) / 2.0
    centre = np.array(obstacle.xyz, dtype=float)
    if abs(roll) < 1e-9 and abs(pitch) < 1e-9:
        return centre, half, yaw
    return centre, np.abs(_rotation(roll, pitch, yaw)) @ half, 0.0


def _without_zeros(path: FloatArray) -> FloatArray:
    return np.where(np.abs(path) < 1e-12, 1e-12, path)


def _slab_shares(
    first: FloatArray, path: FloatArray, half: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the fractions (...) of ``path`` at which a line enters and leaves a box.

    Args:
        first: (..., dim), start of the line, in the box's frame.
        path: (..., dim), vector from start to end; no component is zero.
        half: (..., dim), half sizes of the box.

    Returns:
        The line misses the box if it enters later than it leaves.
    """
    near, far = (-half - first) / path, (half - first) / path
    return np.minimum(near, far).max(axis=-1), np.maximum(near, far).min(axis=-1)


def _rotation(roll: float, pitch: float, yaw: float) -> FloatArray:
    """Return the matrix (3, 3) that rotates about the fixed axes x, y and z, in this order."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x
