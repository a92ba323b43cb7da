"""When a lock-step tick may be made, decided from stamps alone. No ROS."""

from __future__ import annotations

from ..config import TimeConfig

EPSILON_S = 1e-6
NEVER = float('-inf')


class LockStep:
    """Collects what has come for which time.

    Attributes:
        now: s, time of the newest joints.
    """

    def __init__(self, time: TimeConfig) -> None:
        self._time = time
        self.now = self._asked = self._answered = self._promised = self._proposed = NEVER

    def joints_came(self, stamp: float) -> None:
        """Joints of time ``stamp`` are here."""
        self.now = max(self.now, stamp)

    def command_asked(self, stamp: float) -> None:
        """The virtual arm waits for the command of time ``stamp``."""
        self._asked = stamp

    def planner_answered(self, stamp: float, is_planning: bool) -> None:
        """The planner has dealt with the observation of ``stamp``; planning: by a proposal."""
        self._answered = max(self._answered, stamp)
        if is_planning:
            self._promised = max(self._promised, stamp)

    def proposal_came(self, stamp: float) -> None:
        """The proposal for the observation of ``stamp`` is here, accepted or not."""
        self._proposed = max(self._proposed, stamp)

    def due(self, has_planner: bool) -> float | None:
        """Time of the tick that may be made now, or None while something is missing."""
        wanted = self._asked - EPSILON_S
        if self._asked == NEVER or self.now < wanted:
            return None
        if has_planner and self._is_control_step(self._asked):
            is_promised = self._promised >= wanted
            if self._answered < wanted or (is_promised and self._proposed < wanted):
                return None
        return self._asked

    def _is_control_step(self, stamp: float) -> bool:
        return round(stamp / self._time.stream_dt) % self._time.ticks == 0
