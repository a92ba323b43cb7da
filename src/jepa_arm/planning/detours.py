"""Where object and tip go first on their way to a goal."""

from __future__ import annotations

import numpy as np

from ..types import FloatArray
from .obstacles import KeepOut, Leg
from .reposition import Reposition

METRES_A_RADIAN = 0.1
"""An object that is to be turned by 10 degrees yet counts as one to be pushed by 2 cm."""


class Detours:
    """Round obstacles, and behind an object that comes no nearer."""

    def __init__(
        self, keep_out: KeepOut, has_obstacles: bool, lead: float, control_dt: float
    ) -> None:
        """See ``Reposition``; without obstacles ways are straight."""
        self._keep_out, self._has_obstacles, self._lead = keep_out, has_obstacles, lead
        self._reposition = Reposition(keep_out, lead, control_dt)
        self._aside: FloatArray | None = None

    def reset(self) -> None:
        """Forgets the push."""
        self._reposition.reset()
        self._aside = None

    def legs(
        self, subject: str, told: FloatArray, here: FloatArray, place: FloatArray, turn: float
    ) -> tuple[Leg, Leg | None]:
        """The leg of ``subject`` towards ``place``, and of the tip one that comes before it.

        Args:
            subject: 'object' or 'tip'. told: (3,) m, where the tip is told to go.
            here: (3,) m, where the subject is. place: (3,) m, of the goal.
            turn: rad, by which the object is to be turned yet; NaN if nobody asked.
        """
        leg, first, lead = Leg(place, np.nan), None, self._lead
        if self._has_obstacles:
            leg = self._keep_out.towards(subject, here, place, lead, self._aside)
            self._aside = leg.aside
        if subject == 'tip':
            return leg, None
        if self._has_obstacles:
            first = self._keep_out.round_first(told, here, leg.place, lead)
        if first is None:
            way = leg.left if self._has_obstacles else float(np.linalg.norm((place - here)[:2]))
            if np.isfinite(turn):
                way += METRES_A_RADIAN * turn
            first = self._reposition.leg(told, here, leg.place, way)
        return leg, first
