"""Setpoint history: commanded tip positions, and when their commands reached the arm."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from jepa_arm.core.types import FloatArray

LENGTH = 8
"""Number of newest setpoint changes that are kept."""


@dataclass(frozen=True)
class SetpointChange:
    """One decision to move the commanded tip.

    Attributes:
        decided: s, stamp of the decision.
        before: (3,) m, commanded tip position until then.
        applied: s, when the command reached the arm; a forecast until ``mark_applied``.
    """

    decided: float
    before: FloatArray
    applied: float


class SetpointHistory:
    """The last ``LENGTH`` changes of the commanded tip position.

    Methods take ``target`` (3,) m, the commanded tip position after the newest change.
    """

    def __init__(self, control_dt: float) -> None:
        self._dt = control_dt
        self._changes: deque[SetpointChange] = deque(maxlen=LENGTH)

    def reset(self) -> None:
        """Forget all changes, as if the commanded tip had never moved."""
        self._changes.clear()

    def add(self, decided: float, before: FloatArray, applied: float) -> None:
        """Add the newest change; ``applied`` is a forecast, see ``SetpointChange``."""
        self._changes.append(SetpointChange(decided, before, applied))

    def mark_applied(self, stamp: float) -> None:
        """Record that the newest change reached the arm at ``stamp`` (s)."""
        if self._changes:
            self._changes[-1] = replace(self._changes[-1], applied=stamp)

    def at(self, stamp: float, target: FloatArray, delay_steps: int) -> FloatArray:
        """Return the commanded tip position (3,) m in effect at ``stamp`` (s).

        A change takes effect ``delay_steps`` control steps after its decision. Changes that have
        not taken effect by ``stamp`` are undone from ``target``.
        """
        setpoint = target
        for change in reversed(self._changes):
            if change.decided <= stamp - (delay_steps + 0.5) * self._dt:
                break
            setpoint = change.before
        return setpoint

    def recent(self, stamp: float, target: FloatArray) -> FloatArray:
        """Return the commanded tip positions (2, 3) m at ``stamp`` (s) and a control step earlier.

        A change that reached the arm during the preceding control step is blended in, in
        proportion to the time since then.
        """
        setpoints = []
        for time in (stamp, stamp - self._dt):
            setpoint = newer = target
            for change in reversed(self._changes):
                pending = 1.0 - (time - change.applied) / self._dt
                setpoint = setpoint - min(max(pending, 0.0), 1.0) * (newer - change.before)
                newer = change.before
            setpoints.append(setpoint)
        return np.stack(setpoints)
