"""Sends the tip behind an object that comes no nearer to its goal, to push it from there.

Short of the goal by a centimetre or three the value of a tip at rest above or far from the object
is overrated: every plan of a second that goes round to push looks dearer than staying, and the arm
stays. A sub-goal for the tip leads out of that local optimum; what comes after is planned again.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..types import FloatArray
from .obstacles import KeepOut, Leg

AIM = 0.01
"""m to the goal, within which an object need not be pushed again."""
NEARER = 0.005
"""m that count as nearer."""
RESTS_S, COMES_S = 0.8, 2.0
"""Without coming nearer, of a tip that all but rests and of one that moves, until it is sent."""
RESTS_WITHIN = 0.03
"""m, on each axis, in which a tip rests that only dithers."""
ARRIVED = 0.015
"""m before its place behind the object, where the tip has arrived."""
LONGEST_S = 3.0
"""On the way there."""
TRIES = 2
"""Until the object has come nearer."""


class Reposition:
    """Watches a push, and interferes."""

    def __init__(self, keep_out: KeepOut, lead: float, control_dt: float) -> None:
        """Of pushes planned each ``control_dt`` (s); legs are at least ``lead`` (m) long.

        ``keep_out`` tells of the places behind an object, and of the ways there.
        """
        self._keep_out, self._lead = keep_out, lead
        self._rests, self._comes, self._longest = (
            round(seconds / control_dt) for seconds in (RESTS_S, COMES_S, LONGEST_S)
        )
        self.reset()

    def reset(self) -> None:
        """Forgets the push."""
        self._told: deque[FloatArray] = deque(maxlen=self._rests)
        self._ways: deque[float] = deque(maxlen=self._comes)
        self._left, self._tries, self._nearest = 0, 0, np.inf

    def leg(self, told: FloatArray, here: FloatArray, place: FloatArray, way: float) -> Leg | None:
        """Where the tip goes first, or None: the object may be pushed on.

        Args:
            told: (3,) m, where the tip is told to go.
            here: (3,) m, where the object is. place: (3,) m, where it goes next.
            way: m, of the object to its goal.
        """
        if self._left == 0 and not self._is_due(told, way):
            return None
        leg = self._keep_out.approach(told, here, place, self._lead)
        self._left -= 1
        if leg is None or leg.left < ARRIVED or self._left == 0:
            self._left = 0
            self._told.clear()
            self._ways.clear()
            return None
        return leg

    def _is_due(self, told: FloatArray, way: float) -> bool:
        """Whether the tip is to be sent; begins it."""
        self._told.append(told)
        self._ways.append(way)
        if way < self._nearest - NEARER:
            self._nearest, self._tries = way, 0
        if way < AIM or self._tries == TRIES:
            return False
        is_long = self._has_stayed(self._comes)
        rests = self._has_stayed(self._rests) and np.ptp(self._told, axis=0).max() < RESTS_WITHIN
        if not (is_long or rests):
            return False
        self._tries += 1
        self._left = self._longest
        return True

    def _has_stayed(self, count: int) -> bool:
        """Whether the object came no nearer in the last ``count`` decisions."""
        if len(self._ways) < count:
            return False
        recent = list(self._ways)[-count:]
        return min(recent) > recent[0] - NEARER
