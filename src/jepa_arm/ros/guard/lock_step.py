"""Lock-step gate: decides from stamps alone when the guard may make a tick. No ROS."""

from __future__ import annotations

from jepa_arm.config import TimeConfig

EPSILON_S = 1e-6
NEVER = float('-inf')


class LockStepGate:
    """Newest stamps of the guard's inputs, which decide when a tick is due.

    Attributes:
        now: s, stamp of the newest joint state.
    """

    def __init__(self, time: TimeConfig) -> None:
        self._time = time
        self.now = self._requested = NEVER
        self._answered = self._promised = self._proposed = NEVER

    def joints_received(self, stamp: float) -> None:
        """Record the joint state of ``stamp`` (s)."""
        self.now = max(self.now, stamp)

    def command_requested(self, stamp: float) -> None:
        """Record that the virtual arm waits for the command of ``stamp`` (s)."""
        self._requested = stamp

    def planner_answered(self, stamp: float, is_planning: bool) -> None:
        """Record that the planner processed the observation of ``stamp`` (s).

        Args:
            stamp: s.
            is_planning: a proposal for that observation will come.
        """
        self._answered = max(self._answered, stamp)
        if is_planning:
            self._promised = max(self._promised, stamp)

    def proposal_received(self, stamp: float) -> None:
        """Record the proposal for the observation of ``stamp`` (s), accepted or not."""
        self._proposed = max(self._proposed, stamp)

    def due(self, has_planner: bool) -> float | None:
        """Return the time (s) of the tick to make now, or None while an input is missing."""
        wanted = self._requested - EPSILON_S
        if self._requested == NEVER or self.now < wanted:
            return None
        tick = round(self._requested / self._time.stream_dt)
        if has_planner and tick % self._time.ticks == 0:
            is_promised = self._promised >= wanted
            if self._answered < wanted or (is_promised and self._proposed < wanted):
                return None
        return self._requested
