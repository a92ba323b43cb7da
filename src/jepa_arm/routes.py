"""Shortest ways of a point round declared obstacles: of an object on the table, of the tip.

A visibility graph over the corners of boxes that are grown by a margin, searched by A* (Hart,
Nilsson and Raphael 1968). A box that leans, a sphere and a capsule that lies count with their
bounding box. In 2-D the boxes are footprints on the table. In 3-D they reach ``OVERHEAD`` lower
than the obstacle, since the peg stands above its tip: a way leads round them or over them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .config import ObstacleConfig
from .types import FloatArray

OVERHEAD = 0.20
"""m above a tip, or above the table, from where on nothing is in its way: the peg's length."""
ROUNDING = 1e-6
"""m by which a way may enter a grown box through rounding."""
CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
MIDDLES = np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])


def route(
    start: FloatArray,
    goal: FloatArray,
    obstacles: Sequence[ObstacleConfig],
    margin: float,
    bounds: FloatArray | None = None,
) -> FloatArray | None:
    """(N, dim) m, way points after ``start`` of the shortest way found; the last is ``goal``.

    In 3-D the way is the shortest over a few points of each edge, not over all. A start or a goal
    nearer than ``margin`` is left or reached straight, without coming nearer than it is.

    Args:
        start, goal: (dim,) m, base frame, dim 2 or 3.
        obstacles: what stands in the way.
        margin: m, how far the way keeps from them.
        bounds: (2, dim) m, box in which the points between start and goal must lie.

    Returns:
        None if there is no way, or the goal lies in an obstacle.
    """
    start, goal = np.asarray(start, dtype=float), np.asarray(goal, dtype=float)
    if not obstacles:
        return goal[None]
    boxes = _boxes(tuple(obstacles), len(start))
    if boxes.depth(goal, 0.0).max(initial=0.0) > ROUNDING:
        return None
    grown = boxes.half + margin
    from_start = grown - boxes.depth(start, margin)[:, None]
    to_goal = grown - boxes.depth(goal, margin)[:, None]
    if not boxes.hit(start[None], goal[None], np.minimum(from_start, to_goal))[0]:
        return goal[None]
    between = boxes.ways_round(start, goal, margin)
    is_free = np.all(boxes.depths(between, margin) <= ROUNDING, axis=1)
    if bounds is not None:
        is_free &= np.all((between >= bounds[0] - ROUNDING) & (between <= bounds[1]), axis=1)
    nodes = np.vstack([start, goal, between[is_free]])

    def seen_from(i: int) -> NDArray[np.bool_]:
        halves = np.broadcast_to(from_start if i == 0 else grown, (len(nodes), *grown.shape))
        halves = halves.copy()
        halves[1] = np.minimum(halves[1], to_goal)
        return ~boxes.hit(np.broadcast_to(nodes[i], nodes.shape), nodes, halves)

    return _search(nodes, seen_from)


def is_blocked(
    start: FloatArray, goal: FloatArray, obstacles: Sequence[ObstacleConfig], margin: float
) -> bool:
    """Whether the straight line from ``start`` to ``goal`` (dim,) m comes nearer than ``margin``.

    Near is what lies in a box grown by it.
    """
    if not obstacles:
        return False
    boxes = _boxes(tuple(obstacles), len(start))
    return bool(boxes.hit(start[None], goal[None], boxes.half + margin)[0])


def distance(point: FloatArray, obstacles: Sequence[ObstacleConfig]) -> float:
    """m from ``point`` (dim,) to the nearest obstacle's box; 0 in it, infinite without any."""
    if not obstacles:
        return math.inf
    return float(_boxes(tuple(obstacles), len(point)).distances(point).min())


def pushed_out(
    point: FloatArray,
    obstacles: Sequence[ObstacleConfig],
    margin: float,
    bounds: FloatArray,
) -> FloatArray | None:
    """``point`` (dim,) m, or the nearest place on a face of a grown box that is free of all.

    None where no such face lies within ``bounds`` (2, dim).
    """
    if not obstacles:
        return point
    boxes = _boxes(tuple(obstacles), len(point))
    depth = boxes.depth(point, margin)
    inside = np.flatnonzero(depth > ROUNDING)
    if not inside.size:
        return point
    faces = np.vstack([boxes.faces(point, int(i), margin) for i in inside])
    is_free = np.all(boxes.depths(faces, margin) <= ROUNDING, axis=1)
    is_free &= np.all((faces >= bounds[0]) & (faces <= bounds[1]), axis=1)
    if not np.any(is_free):
        return None
    faces = faces[is_free]
    return faces[int(np.argmin(np.linalg.norm(faces - point, axis=1)))]


def ahead(start: FloatArray, way: FloatArray, metres: float) -> FloatArray:
    """(dim,) m, the point ``metres`` along ``way`` (N, dim) from ``start``, or its end."""
    here = start
    for point in way:
        step = point - here
        length = float(np.linalg.norm(step))
        if length >= metres:
            return here + step * (metres / length)
        metres -= length
        here = point
    return way[-1]


def length(start: FloatArray, way: FloatArray) -> float:
    """m along ``way`` (N, dim) from ``start`` (dim,) to its last point."""
    return float(np.linalg.norm(np.diff(np.vstack([start, way]), axis=0), axis=1).sum())


def _search(nodes: FloatArray, seen_from: Callable[[int], NDArray[np.bool_]]) -> FloatArray | None:
    """A* from node 0 to node 1; the nodes after the first, or None."""
    left = np.linalg.norm(nodes - nodes[1], axis=1)
    cost = np.full(len(nodes), np.inf)
    before = np.zeros(len(nodes), dtype=int)
    is_done = np.zeros(len(nodes), dtype=bool)
    cost[0] = 0.0
    queue = [(float(left[0]), 0)]
    while queue:
        _, i = heapq.heappop(queue)
        if is_done[i]:
            continue
        is_done[i] = True
        if i == 1:
            way = [1]
            while before[way[-1]] != 0:
                way.append(int(before[way[-1]]))
            return nodes[way[::-1]]
        reached = cost[i] + np.linalg.norm(nodes - nodes[i], axis=1)
        for j in np.flatnonzero((reached < cost - ROUNDING) & ~is_done & seen_from(i)):
            cost[j], before[j] = reached[j], i
            heapq.heappush(queue, (float(reached[j] + left[j]), int(j)))
    return None


class Boxes:
    """N upright boxes, each turned about z, in ``dim`` dimensions.

    Attributes:
        centre, half: (N, dim) m. turn: (N, dim, dim), rows are a box's axes.
    """

    def __init__(self, obstacles: Sequence[ObstacleConfig], dim: int) -> None:
        rows = [upright(obstacle) for obstacle in obstacles]
        centre = np.array([row[0] for row in rows]).reshape(-1, 3)
        half = np.array([row[1] for row in rows]).reshape(-1, 3)
        yaw = np.array([row[2] for row in rows])
        if dim == 2:
            is_low = centre[:, 2] - half[:, 2] < OVERHEAD
            centre, half, yaw = centre[is_low], half[is_low], yaw[is_low]
        else:
            centre[:, 2] -= OVERHEAD / 2.0
            half[:, 2] += OVERHEAD / 2.0
        self.centre, self.half = centre[:, :dim], half[:, :dim]
        self.turn = np.tile(np.eye(dim), (len(yaw), 1, 1))
        self.turn[:, 0, 0] = self.turn[:, 1, 1] = np.cos(yaw)
        self.turn[:, 0, 1], self.turn[:, 1, 0] = np.sin(yaw), -np.sin(yaw)

    def local(self, points: FloatArray) -> FloatArray:
        """(..., N, dim) m, ``points`` (..., dim) in each box's frame."""
        offset = points[..., None, :] - self.centre
        return np.einsum('nij,...nj->...ni', self.turn, offset)

    def depth(self, point: FloatArray, margin: float) -> FloatArray:
        """(N,) m by which ``point`` (dim,) lies in each grown box, 0 outside."""
        return self.depths(point[None], margin)[0]

    def depths(self, points: FloatArray, margin: float) -> FloatArray:
        """(M, N) m, the same of ``points`` (M, dim)."""
        outside = (np.abs(self.local(points)) - self.half - margin).max(axis=-1)
        return np.maximum(0.0, -outside)

    def distances(self, points: FloatArray) -> FloatArray:
        """(..., N) m from ``points`` (..., dim) to each box; 0 in it."""
        apart = np.maximum(np.abs(self.local(points)) - self.half, 0.0)
        return np.linalg.norm(apart, axis=-1)

    def hit(self, begin: FloatArray, end: FloatArray, half: FloatArray) -> NDArray[np.bool_]:
        """(M,) whether each segment (M, dim) enters a box of half sizes (N, dim) or (M, N, dim).

        By slabs (Kay and Kajiya 1986).
        """
        first = self.local(begin)
        way = self.local(end) - first
        way = np.where(np.abs(way) < 1e-12, 1e-12, way)
        half = np.maximum(half - ROUNDING, 0.0)
        near, far = (-half - first) / way, (half - first) / way
        enter = np.minimum(near, far).max(axis=-1)
        leave = np.maximum(near, far).min(axis=-1)
        return np.any((enter < leave) & (leave > 0.0) & (enter < 1.0), axis=-1)

    def ways_round(self, start: FloatArray, goal: FloatArray, margin: float) -> FloatArray:
        """(M, dim) m, where a shortest way may bend: at the corners, in 3-D also on top."""
        grown = self.half + margin
        if len(start) == 2:
            return self._out(CORNERS[None] * grown[:, None])
        heights = np.array([start[2], (start[2] + goal[2]) / 2.0, goal[2]])
        top = (self.centre + grown)[:, 2]
        points = []
        for i, size in enumerate(grown[:, :2]):
            over = [*CORNERS * size, *MIDDLES * size, *self._crossings(start, goal, i, size)]
            points += [np.array([*xy, z]) for z in heights for xy in self._flat(CORNERS * size, i)]
            points += [np.array([*xy, top[i]]) for xy in self._flat(np.array(over), i)]
        return np.array(points)

    def faces(self, point: FloatArray, i: int, margin: float) -> FloatArray:
        """(F, dim) m, the feet of ``point`` on the faces of grown box ``i``; not on its bottom."""
        local, grown = self.local(point)[i], self.half[i] + margin
        feet = []
        for axis in range(len(point)):
            for sign in (1.0,) if axis == 2 else (-1.0, 1.0):
                foot = local.copy()
                foot[axis] = sign * grown[axis]
                feet.append(foot)
        return np.array(feet) @ self.turn[i] + self.centre[i]

    def _out(self, local: FloatArray) -> FloatArray:
        """(N * M, dim) m in the base frame, of places (N, M, dim) in the boxes' frames."""
        return (np.einsum('nij,nmi->nmj', self.turn, local) + self.centre[:, None]).reshape(
            -1, local.shape[-1]
        )

    def _flat(self, local: FloatArray, i: int) -> FloatArray:
        """(M, 2) m in the base frame, of places (M, 2) in the frame of box ``i``."""
        return local @ self.turn[i, :2, :2] + self.centre[i, :2]

    def _crossings(
        self, start: FloatArray, goal: FloatArray, i: int, size: FloatArray
    ) -> list[FloatArray]:
        """(2,) m each, where the line from ``start`` to ``goal`` crosses the outline of a box."""
        first, last = self.local(start)[i, :2], self.local(goal)[i, :2]
        way = np.where(np.abs(last - first) < 1e-12, 1e-12, last - first)
        near, far = (-size - first) / way, (size - first) / way
        enter, leave = np.minimum(near, far).max(), np.maximum(near, far).min()
        if enter >= leave:
            return []
        return [first + share * way for share in (enter, leave) if 0.0 < share < 1.0]


@lru_cache(maxsize=64)
def _boxes(obstacles: tuple[ObstacleConfig, ...], dim: int) -> Boxes:
    return Boxes(obstacles, dim)


def upright(obstacle: ObstacleConfig) -> tuple[FloatArray, FloatArray, float]:
    """Centre (3,) and half sizes (3,) m and yaw of an upright box that holds ``obstacle``."""
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


def _rotation(roll: float, pitch: float, yaw: float) -> FloatArray:
    """(3, 3), turns about the fixed axes x, y, z in this order."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x
