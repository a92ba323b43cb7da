"""Ways on which an object can be pushed: where the tip has room behind it, all along.

The shortest way of an object may be one on which nothing can push it: away from a wall it lies at,
or from the edge of the tip's workspace. What leads on from there is found on a lattice over the
table, by value iteration (Bellman 1957).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..types import FloatArray

SPACING = 0.02
"""m between the lattice's places."""
QUARTER_TURNS = np.array([[[c, s], [-s, c]] for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
_QUARTER = np.array([(1, 0), (3, 1), (2, 1), (1, 1), (1, 2), (1, 3)])
STEPS = np.concatenate([_QUARTER @ turn for turn in QUARTER_TURNS])
"""From one place of the lattice to others, in 24 directions."""
LENGTHS = np.linalg.norm(STEPS, axis=1)
HEADINGS = STEPS / LENGTHS[:, None]
CELL = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
NEAR = 1.5
"""Lattice spacings to the goal, from where it is reached straight."""
BEYOND = 0.03
"""m outside the lattice, from where a way leads into it."""
WORSE = 3.0
"""So many times as long counts a way where the object had better not be, or is near obstacles."""
NEARER_COST = 4.0
"""m, of a way that leads nearer to an obstacle than it should, for each m nearer."""
TURNED_COST = 0.1
"""m, of a heading against the last one, for which the tip goes round the object; half across."""


class PushMap:
    """Lengths of the ways to one goal after another, among the same obstacles."""

    def __init__(
        self,
        bounds: FloatArray,
        room: Callable[[FloatArray], NDArray[np.bool_]],
        depth: Callable[[FloatArray], FloatArray],
        is_worse: Callable[[FloatArray], NDArray[np.bool_]],
        deepest: float,
    ) -> None:
        """Looks at each place of the lattice once.

        Args:
            bounds: (2, 2) m, box of the lattice.
            room: of places (M, 2) m, (M, 24) whether the tip can push from there along HEADINGS.
            depth: of places (M, 2) m, (M,) m by which the object is too near to obstacles.
            is_worse: of places (M, 2) m, (M,) whether the object had better not be there.
            deepest: m, so near that the object lies at the obstacle.
        """
        self._room, self._depth, self._deepest = room, depth, deepest
        shape = np.maximum(1, np.round((bounds[1] - bounds[0]) / SPACING).astype(int))
        self._nodes = bounds[0] + SPACING * np.stack(
            np.meshgrid(np.arange(shape[0] + 1), np.arange(shape[1] + 1), indexing='ij'), axis=-1
        )
        flat = self._nodes.reshape(-1, 2)
        grid = self._nodes.shape[:2]
        can_push = room(flat).reshape(*grid, -1)
        deep = depth(flat).reshape(grid)
        worse = np.where(is_worse(flat).reshape(grid) | (deep > 0.0), WORSE, 1.0)
        self._edges = np.full((*grid, len(STEPS)), np.inf)
        for k, step in enumerate(STEPS):
            here, there = _overlap(grid, step)
            is_open = can_push[here][..., k] & (deep[there] <= np.maximum(deepest, deep[here]))
            metres = SPACING * LENGTHS[k] * worse[there]
            metres += NEARER_COST * np.maximum(0.0, deep[there] - deep[here])
            self._edges[here][..., k] = np.where(is_open, metres, np.inf)
        self._goal = np.full(2, np.nan)
        self._left = np.full(grid, np.inf)

    def heading(
        self, here: FloatArray, goal: FloatArray, lead: float, before: FloatArray | None
    ) -> tuple[FloatArray, float] | None:
        """Along which the object goes first, (2,), and how long its way is then, m.

        The one nearest to the goal where no way was found; None where the tip has no room at all.

        Args:
            here, goal: (2,) m. lead: m, of the first push, at most.
            before: (2,), the heading until now, if there is one.
        """
        has_room = self._room(here[None])[0]
        if not has_room.any():
            return None
        self._aim(goal)
        reach = SPACING * np.arange(1, 1 + max(1, round(lead / SPACING)))
        ends = here + reach[:, None, None] * HEADINGS
        flat = ends.reshape(-1, 2)
        deep, begins = self._depth(flat).reshape(ends.shape[:2]), self._depth(here[None])[0]
        deep = np.maximum.accumulate(deep)
        left = self._left_from(flat).reshape(deep.shape)
        cost = reach[:, None] + left + NEARER_COST * np.maximum(0.0, deep - begins)
        cost = np.where(deep > max(self._deepest, begins), np.inf, cost).min(0)
        if not np.isfinite(cost[has_room]).any():
            cost = lead + np.linalg.norm(here + lead * HEADINGS - goal, axis=1)
        cost[~has_room] = np.inf
        turned = 0.0 if before is None else TURNED_COST * (1.0 - HEADINGS @ before) / 2.0
        best = int(np.argmin(cost + turned))
        return HEADINGS[best], float(cost[best])

    def _aim(self, goal: FloatArray) -> None:
        """Lengths from every place of the lattice to ``goal`` (2,) m."""
        if np.array_equal(goal, self._goal):
            return
        self._goal = goal.copy()
        away = np.linalg.norm(self._nodes - goal, axis=-1)
        self._left = np.where(away <= NEAR * SPACING, away, np.inf)
        before = np.full_like(away, np.nan)
        while not np.array_equal(before, self._left):
            before = self._left.copy()
            for k, step in enumerate(STEPS):
                here, there = _overlap(away.shape, step)
                through = self._edges[here][..., k] + self._left[there]
                self._left[here] = np.minimum(self._left[here], through)

    def _left_from(self, places: FloatArray) -> FloatArray:
        """(M,) m, from ``places`` (M, 2) by way of the lattice's places round each."""
        most = np.array(self._left.shape) - 1
        first = np.floor((places - self._nodes[0, 0]) / SPACING).astype(int)
        round_it = np.clip(first[:, None] + CELL, 0, most)
        i, j = round_it[..., 0], round_it[..., 1]
        away = np.linalg.norm(self._nodes[i, j] - places[:, None], axis=-1)
        left = (self._left[i, j] + away).min(axis=1)
        return np.where(away.min(axis=1) < BEYOND, left, np.inf)


def _overlap(
    grid: tuple[int, ...], step: NDArray[np.int_]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where in ``grid`` a ``step`` stays inside, and where it ends."""
    here = [slice(max(0, -s), min(n, n - s)) for n, s in zip(grid, step, strict=True)]
    there = [slice(max(0, s), min(n, n + s)) for n, s in zip(grid, step, strict=True)]
    return (here[0], here[1]), (there[0], there[1])
