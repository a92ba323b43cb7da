"""Push map: paths along which the tip can push an object, always with room behind it.

The tip may be unable to push an object along its shortest path, for example away from a wall or
from the edge of the tip's workspace. Value iteration (Bellman 1957) on a lattice over the table
finds the shortest path along which it can.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_arm.core.types import FloatArray

SPACING = 0.02
"""m, distance between neighbouring nodes of the lattice."""
QUARTER_TURNS = np.array([[[c, s], [-s, c]] for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
_QUARTER = np.array([(1, 0), (3, 1), (2, 1), (1, 1), (1, 2), (1, 3)])
STEPS = np.concatenate([_QUARTER @ turn for turn in QUARTER_TURNS])
"""Steps from a node to others, in lattice spacings, in 24 directions."""
LENGTHS = np.linalg.norm(STEPS, axis=1)
"""Lengths of the steps, in lattice spacings."""
HEADINGS = STEPS / LENGTHS[:, None]
"""Unit vectors of the steps."""
CELL = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
"""Corners of a lattice cell, relative to the first."""
GOAL_RADIUS = 1.5
"""Lattice spacings from the goal within which it is reached directly."""
ENTRY_RADIUS = 0.03
"""m, largest distance to the nearest node from which a path may enter the lattice."""
AVOIDED_FACTOR = 3.0
"""Factor on the length of steps to positions that are avoided or too near to obstacles."""
APPROACH_COST = 4.0
"""Cost (m) per m by which a push moves the object deeper into an obstacle's margin."""
REVERSAL_COST = 0.1
"""Cost (m) of reversing the heading, because the tip must then move around the object."""


class PushMap:
    """Lattice of push paths among fixed obstacles; it is evaluated for one goal at a time."""

    def __init__(
        self,
        bounds: FloatArray,
        can_push: Callable[[FloatArray], NDArray[np.bool_]],
        depth: Callable[[FloatArray], FloatArray],
        is_avoided: Callable[[FloatArray], NDArray[np.bool_]],
        max_depth: float,
    ) -> None:
        """Evaluate the functions once at every node of the lattice.

        Args:
            bounds: (2, 2) m, box that the lattice fills.
            can_push: positions (M, 2) m -> (M, 24) whether the tip has room to push, per heading.
            depth: positions (M, 2) m -> (M,) m of missing clearance from obstacles.
            is_avoided: positions (M, 2) m -> (M,) whether to avoid them if possible.
            max_depth: m of missing clearance at which the object touches the obstacle.
        """
        self._can_push, self._depth, self._max_depth = can_push, depth, max_depth
        shape = np.maximum(1, np.round((bounds[1] - bounds[0]) / SPACING).astype(int))
        grid = tuple(shape + 1)
        flat = bounds[0] + SPACING * np.array(list(np.ndindex(*grid)))
        self._nodes = flat.reshape(*grid, 2)
        has_room = can_push(flat).reshape(*grid, -1)
        depths = depth(flat).reshape(grid)
        factor = np.where(is_avoided(flat).reshape(grid) | (depths > 0.0), AVOIDED_FACTOR, 1.0)
        self._edges = np.full((*grid, len(STEPS)), np.inf)
        for k, step in enumerate(STEPS):
            here, there = _overlap(grid, step)
            is_open = depths[there] <= np.maximum(max_depth, depths[here])
            is_open &= has_room[here][..., k]
            metres = SPACING * LENGTHS[k] * factor[there]
            metres += APPROACH_COST * np.maximum(0.0, depths[there] - depths[here])
            self._edges[here][..., k] = np.where(is_open, metres, np.inf)
        self._goal = np.full(2, np.nan)
        self._cost_to_go = np.full(grid, np.inf)

    def best_push(
        self,
        position: FloatArray,
        goal: FloatArray,
        max_distance: float,
        previous_heading: FloatArray | None,
    ) -> tuple[FloatArray, float] | None:
        """Return the heading (2,) of the first push, and the cost (m) of the path that it begins.

        The cost is the length plus penalties. If there is no path, the push that ends nearest to
        the goal is returned.

        Args:
            position, goal: (2,) m, of the object.
            max_distance: m, longest first push.
            previous_heading: (2,) heading of the last push, if there was one.

        Returns:
            None if the tip has no room to push in any direction.
        """
        has_room = self._can_push(position[None])[0]
        if not has_room.any():
            return None
        self._set_goal(goal)
        distances = SPACING * np.arange(1, 1 + max(1, round(max_distance / SPACING)))
        ends = position + distances[:, None, None] * HEADINGS
        flat = ends.reshape(-1, 2)
        start_depth = self._depth(position[None])[0]
        depths = np.maximum.accumulate(self._depth(flat).reshape(ends.shape[:2]))
        cost_to_go = self._cost_from(flat).reshape(depths.shape)
        approach = APPROACH_COST * np.maximum(0.0, depths - start_depth)
        cost = distances[:, None] + cost_to_go + approach
        is_too_deep = depths > max(self._max_depth, start_depth)
        cost = np.where(is_too_deep, np.inf, cost).min(0)
        if not np.isfinite(cost[has_room]).any():
            ends = position + max_distance * HEADINGS
            cost = max_distance + np.linalg.norm(ends - goal, axis=1)
        cost[~has_room] = np.inf
        reversal = 0.0
        if previous_heading is not None:
            reversal = REVERSAL_COST * (1.0 - HEADINGS @ previous_heading) / 2.0
        best = int(np.argmin(cost + reversal))
        return HEADINGS[best], float(cost[best])

    def _set_goal(self, goal: FloatArray) -> None:
        """Compute the cost to go from every node to ``goal`` (2,) m, unless already done."""
        if np.array_equal(goal, self._goal):
            return
        self._goal = goal.copy()
        distance = np.linalg.norm(self._nodes - goal, axis=-1)
        self._cost_to_go = np.where(distance <= GOAL_RADIUS * SPACING, distance, np.inf)
        before = np.full_like(distance, np.nan)
        while not np.array_equal(before, self._cost_to_go):
            before = self._cost_to_go.copy()
            for k, step in enumerate(STEPS):
                here, there = _overlap(distance.shape, step)
                through = self._edges[here][..., k] + self._cost_to_go[there]
                self._cost_to_go[here] = np.minimum(self._cost_to_go[here], through)

    def _cost_from(self, positions: FloatArray) -> FloatArray:
        """Return the cost to go (M,) m from ``positions`` (M, 2) m via a neighbouring node."""
        last = np.array(self._cost_to_go.shape) - 1
        first = np.floor((positions - self._nodes[0, 0]) / SPACING).astype(int)
        corners = np.clip(first[:, None] + CELL, 0, last)
        i, j = corners[..., 0], corners[..., 1]
        distance = np.linalg.norm(self._nodes[i, j] - positions[:, None], axis=-1)
        cost = (self._cost_to_go[i, j] + distance).min(axis=1)
        return np.where(distance.min(axis=1) < ENTRY_RADIUS, cost, np.inf)


def _overlap(
    grid: tuple[int, ...], step: NDArray[np.int_]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return slices of ``grid``: nodes from which ``step`` stays inside, and those it leads to."""
    here = [slice(max(0, -s), min(n, n - s)) for n, s in zip(grid, step, strict=True)]
    there = [slice(max(0, s), min(n, n + s)) for n, s in zip(grid, step, strict=True)]
    return (here[0], here[1]), (there[0], there[1])
