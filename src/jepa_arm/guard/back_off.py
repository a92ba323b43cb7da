"""Back-off: the retreat of the commands from whatever blocks the arm, and its limits."""

from __future__ import annotations

from jepa_arm.config import GuardConfig
from jepa_arm.core.types import FloatArray


class BackOff:
    """State of a back-off, in which the commands retreat to where the arm was blocked.

    Attributes:
        target: (J,) rad, target of the commands; None if the guard is not backing off.
        measured: (J,) rad, joints measured when the arm was blocked; None if not backing off.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._times: list[float] = []
        self._in_a_row = 0
        self.target: FloatArray | None = None
        self.measured: FloatArray | None = None

    @property
    def is_active(self) -> bool:
        """True if the guard is backing off."""
        return self.target is not None

    def is_exhausted(self, now: float) -> bool:
        """Return whether, at ``now`` (s), there were too many back-offs to begin another.

        ``max_backoffs`` limits the back-offs within ``backoff_window``, and those in a row without
        an accepted proposal in between.
        """
        self._times = [t for t in self._times if now - t < self._config.backoff_window]
        return max(len(self._times), self._in_a_row) >= self._config.max_backoffs

    def begin(self, target: FloatArray, measured: FloatArray, now: float) -> None:
        """Start a back-off to ``target`` (J,) rad at ``now`` (s); see the attributes."""
        self._times.append(now)
        self._in_a_row += 1
        self.target, self.measured = target, measured

    def end(self) -> None:
        """End the back-off in progress."""
        self.target = self.measured = None

    def proposal_accepted(self) -> None:
        """Reset the count of consecutive back-offs."""
        self._in_a_row = 0
