"""Where the tip was told to be, and when its commands came to the arm."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from .types import FloatArray

KEPT = 8


@dataclass
class _Order:
    """What was decided at one stamp.

    Attributes:
        decided: s. before: (3,) m, where the tip was told to be until then.
        came: s, when its command came to the arm, as far as is known.
    """

    decided: float
    before: FloatArray
    came: float


class Orders:
    """The newest ones, the last of which moves the tip's target to where it is."""

    def __init__(self, control_dt: float) -> None:
        """Of control steps of ``control_dt`` s."""
        self._dt = control_dt
        self._kept: deque[_Order] = deque(maxlen=KEPT)

    def reset(self) -> None:
        """Forgets all of them: the tip is where it was told to be for ever."""
        self._kept.clear()

    def add(self, decided: float, before: FloatArray, came: float) -> None:
        """Adds what was decided at ``decided`` (s), when the target was ``before`` (3,) m.

        ``came``: s, when it is expected at the arm; see ``sent``.
        """
        self._kept.append(_Order(decided, before, came))

    def sent(self, stamp: float) -> None:
        """The newest was sent at ``stamp`` (s)."""
        if self._kept:
            self._kept[-1].came = stamp

    def at(self, stamp: float, target: FloatArray, waits: int) -> FloatArray:
        """(3,) m, the target of the newest order whose command had come by ``stamp`` (s).

        An order's own command comes so late, ``waits`` control steps, that the one before may
        still wait. ``target``: (3,) m of the newest.
        """
        told = target
        for order in reversed(self._kept):
            if order.decided <= stamp - (waits + 0.5) * self._dt:
                break
            told = order.before
        return told

    def lately(self, stamp: float, target: FloatArray) -> FloatArray:
        """(2, 3) m, where the tip was told to be by ``stamp`` (s), and a control step before.

        A command that came late in a control step counts for the share that was left of it.
        ``target``: (3,) m of the newest order.
        """
        told = []
        for by in (stamp, stamp - self._dt):
            place = newer = target
            for order in reversed(self._kept):
                late = 1.0 - (by - order.came) / self._dt
                place = place - min(max(late, 0.0), 1.0) * (newer - order.before)
                newer = order.before
            told.append(place)
        return np.stack(told)
