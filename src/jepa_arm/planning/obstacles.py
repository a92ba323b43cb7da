"""What declared obstacles mean for a plan: where tip and object must not go, and the way round.

Obstacles are known by their declared shape and place, not by sight: the guard holds the arm off
them, whatever is planned; a plan keeps off them with more room, so that the guard need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import ObstacleConfig
from ..goals import GoalError, PositionGoal
from ..routes import Boxes, ahead, is_blocked, length, route, upright
from ..types import FloatArray
from .push_map import HEADINGS, PushMap

STAND_OFFS = (0.075, 0.060, 0.050)
"""m, from the object's middle to a tip behind it."""
CLEAR = 0.75
"""Share of the tip's margin that its way to the object keeps, unless the object is nearer."""
MIDDLE = 0.025
"""m above the table, the middle of an object."""
SEEN = 0.03
"""m that an object's middle keeps from where it is hidden: half of it is seen then."""
THIN = 0.01
"""m, the least width of what stands for a shadow."""
SHADOWS = 3
"""Boxes that stand for the shadow of an obstacle."""
SIDE = 0.05
"""m, of the object, which the tip goes round."""
BARRED = 1e3
"""What a tip path into an obstacle costs more: any path that keeps out is better."""


class Leg(NamedTuple):
    """Where to go first, ``place`` (3,) m, on a way of ``left`` m in all.

    ``aside`` (2,) is the heading where an object is led off its shortest way.
    """

    place: FloatArray
    left: float
    aside: FloatArray | None = None


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
        camera: FloatArray | None = None,
    ) -> None:
        """Of ``obstacles``.

        Args:
            obstacles: declared, base frame.
            margins: m, by subject, 'object' and 'tip'.
            bounds: m, boxes that ways must stay in: (2, 2) of the object, (2, 3) of the tip.
            camera: (3,) m, from where the object is seen; its ways go where it can be, if any do.
        """
        self._obstacles, self.margins, self._bounds = tuple(obstacles), margins, bounds
        less = max(0.0, margins['object'] - SEEN)
        self._hidden = () if camera is None else hidden_behind(obstacles, camera, less)
        self._around_tip, self._around_object = Boxes(obstacles, 3), Boxes(obstacles, 2)
        self._boxes = {'object': _tensors(self._around_object), 'tip': _tensors(self._around_tip)}
        self._map = self._push_map() if obstacles else None

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

    def towards(
        self,
        subject: str,
        here: FloatArray,
        goal: FloatArray,
        lead: float,
        before: FloatArray | None = None,
    ) -> Leg:
        """Where to go first on the shortest way round from ``here`` to ``goal`` (3,) m.

        The next bend, or a point ``lead`` m ahead where that is further; the goal where nothing
        is in the way, or where there is no way. Where there is no room for the tip behind the
        object, it goes ``lead`` m along the shortest way on which there is.

        Args:
            before: (2,) along which it was led aside until now, if it was.
        """
        leg = self._straight(subject, here, goal, lead)
        if subject == 'tip' or self._map is None:
            return leg
        if self._behind(here, _unit(leg.place[:2] - here[:2])) is not None:
            return leg
        aside = self._map.heading(here[:2], goal[:2], lead, before)
        if aside is None:
            return leg
        heading, left = aside
        place = np.concatenate([here[:2] + lead * heading, goal[2:]])
        return Leg(place, left, heading)

    def round_first(
        self, told: FloatArray, here: FloatArray, place: FloatArray, lead: float
    ) -> Leg | None:
        """Where the tip goes first to push an object from ``here`` to ``place`` (3,) m.

        None where no obstacle stands between where it is ``told`` (3,) m to go and its place
        behind the object.
        """
        behind = self._behind(here, _unit(place[:2] - here[:2]))
        kept = CLEAR * self.margins['tip']
        if behind is None or not is_blocked(told, behind, self._obstacles, kept):
            return None
        return self._round(told, here, behind, lead)

    def approach(
        self, told: FloatArray, here: FloatArray, place: FloatArray, lead: float
    ) -> Leg | None:
        """Where the tip goes first to come behind an object, round it and round obstacles.

        As ``round_first``; None where there is no room behind the object, or no way.
        """
        behind = self._behind(here, _unit(place[:2] - here[:2]))
        return None if behind is None else self._round(told, here, behind, lead)

    def _round(
        self, told: FloatArray, here: FloatArray, behind: FloatArray, lead: float
    ) -> Leg | None:
        """On the tip's way from ``told`` to ``behind`` (3,) m, round an object ``here``."""
        size, (x, y) = (SIDE, SIDE, SIDE), map(float, here[:2])
        itself = ObstacleConfig('object', 'box', size, (x, y, SIDE / 2.0))
        around = (*self._obstacles, itself)
        way = route(told, behind, around, self.margins['tip'], self._bounds['tip'])
        if way is None:
            return None
        place = ahead(told, way, max(float(np.linalg.norm(way[0] - told)), lead))
        return Leg(place, length(told, way))

    def _straight(self, subject: str, here: FloatArray, goal: FloatArray, lead: float) -> Leg:
        dim = 2 if subject == 'object' else 3
        margin, bounds = self.margins[subject], self._bounds[subject]
        way = None
        if subject == 'object' and self._hidden:
            kept = self._obstacles + self._hidden
            way = route(here[:dim], goal[:dim], kept, margin, bounds)
        if way is None:
            way = route(here[:dim], goal[:dim], self._obstacles, margin, bounds)
        if way is None:
            way = goal[None, :dim]
        left = length(here[:dim], way)
        if len(way) == 1:
            return Leg(goal, left)
        first = float(np.linalg.norm(way[0] - here[:dim]))
        place = np.concatenate([ahead(here[:dim], way, max(first, lead)), goal[dim:]])
        return Leg(place, left)

    def _push_map(self) -> PushMap:
        """Of the table as far as the tip reaches; the object had better be in its bounds, seen."""
        shadows, margin = Boxes(self._hidden, 2), self.margins['object']
        low, high = self._bounds['object']

        def is_worse(places: FloatArray) -> NDArray[np.bool_]:
            is_out = np.any((places < low) | (places > high), axis=1)
            return is_out | (_depths(shadows, places, margin) > 0.0)

        return PushMap(
            self._bounds['tip'][:, :2],
            lambda places: ~np.any(np.isnan(self._places_behind(places, HEADINGS)), axis=-1),
            lambda places: _depths(self._around_object, places, margin),
            is_worse,
            margin - SIDE / 2.0,
        )

    def _behind(self, here: FloatArray, heading: FloatArray) -> FloatArray | None:
        """(3,) m, a free place for the tip to push from along ``heading`` (2,), and a clear way.

        Low behind an object that is ``here`` (3,) m.
        """
        place = self._places_behind(here[None, :2], heading[None])[0, 0]
        return None if np.isnan(place).any() else place

    def _places_behind(self, objects: FloatArray, headings: FloatArray) -> FloatArray:
        """(M, K, 3) m, the same of ``objects`` (M, 2) along ``headings`` (K, 2); NaN for none."""
        margin, (low, high) = self.margins['tip'], self._bounds['tip']
        boxes, shape = self._around_tip, (len(objects), len(headings))
        middles = np.append(objects, np.full((len(objects), 1), low[2]), axis=1)
        middles = np.repeat(middles, len(headings), axis=0)
        found = np.full((len(middles), 3), np.nan)
        kept = boxes.half + CLEAR * margin - boxes.depths(middles, CLEAR * margin)[..., None]
        for away in reversed(STAND_OFFS):
            back = np.append(away * headings, np.zeros((len(headings), 1)), axis=1)
            places = middles - np.tile(back, (len(objects), 1))
            is_free = np.all((places >= low) & (places <= high), axis=1)
            is_free &= boxes.distances(places).min(axis=-1, initial=np.inf) >= margin
            is_free &= ~boxes.hit(places, middles, kept)
            found[is_free] = places[is_free]
        return found.reshape(*shape, 3)


def _depths(boxes: Boxes, places: FloatArray, margin: float) -> FloatArray:
    """(M,) m by which ``places`` (M, dim) lie in the grown ``boxes``, 0 outside."""
    return boxes.depths(places, margin).max(axis=-1, initial=0.0)


def _unit(way: FloatArray) -> FloatArray:
    return way / max(float(np.linalg.norm(way)), 1e-9)


def hidden_behind(
    obstacles: Sequence[ObstacleConfig], camera: FloatArray, less: float = 0.0
) -> tuple[ObstacleConfig, ...]:
    """Boxes on the table where a low object's middle is hidden from ``camera`` (3,) m.

    An obstacle again and again, along its shadow, ``less`` m smaller on each side; none behind
    what is as high as the camera.
    """
    found = []
    for obstacle in obstacles:
        centre, half, yaw = upright(obstacle)
        top = centre[2] + half[2]
        if not MIDDLE < top < camera[2]:
            continue
        away = (centre - camera)[:2]
        shadow = away * (top - MIDDLE) / (camera[2] - top)
        for share in (np.arange(SHADOWS) + 1.0) / SHADOWS:
            x, y = map(float, centre[:2] + share * shadow)
            long, wide = map(float, np.maximum(2.0 * (half[:2] - less), THIN))
            size, place = (long, wide, MIDDLE), (x, y, MIDDLE / 2.0)
            name = f'hidden by {obstacle.name}'
            found.append(ObstacleConfig(name, 'box', size, place, (0.0, 0.0, yaw)))
    return tuple(found)


def _tensors(boxes: Boxes) -> tuple[Tensor, Tensor, Tensor]:
    arrays = (boxes.centre, boxes.half, boxes.turn)
    centre, half, turn = (torch.tensor(array, dtype=torch.float32) for array in arrays)
    return centre, half, turn
