"""What the planning thread has seen by now, and for how long it has seen nothing."""

from __future__ import annotations

from collections import deque
from time import monotonic

import numpy as np

from ..config import TimeConfig
from ..types import Observation


class Seen:
    """The newest observations.

    Attributes:
        recent: about one model step of them, oldest first.
        late: s, stamps of images that came after their time was planned for; whoever tells of
            them empties it.
        is_doubted: whether what came last cannot be believed, so that nothing is planned on.
    """

    def __init__(self, time: TimeConfig) -> None:
        """Has seen nothing."""
        self._span = time.model_dt + time.control_dt / 2.0
        self.recent = deque[Observation](maxlen=time.frame_skip + 1)
        self.late: list[float] = []
        self.is_doubted = False
        self._recalled_at = -np.inf
        self._blind_since: float | None = None

    @property
    def newest(self) -> float:
        """s, stamp of the newest observation; NaN before the first."""
        return self.recent[-1].stamp if self.recent else np.nan

    @property
    def at(self) -> float:
        """s, stamp of the last image of what is believed; -inf before the first."""
        return self.recent[-1].stamp if self.recent else self._recalled_at

    def keep(self, observation: Observation) -> None:
        """Sees, and is blind no more."""
        self.recent.append(observation)
        while self.recent[0].stamp < observation.stamp - self._span:
            self.recent.popleft()
        self.is_doubted = False
        self.go_on()

    def recall(self, stamp: float) -> None:
        """Takes the last image of what is believed to be of ``stamp`` (s), long before."""
        self._recalled_at, self.is_doubted = stamp, False

    def doubt(self) -> None:
        """Believes nothing of what comes until an image is kept."""
        self.is_doubted = True

    def blind_for(self) -> float:
        """s for which there has been nothing to plan from, counted from the first call."""
        if self._blind_since is None:
            self._blind_since = monotonic()
        return monotonic() - self._blind_since

    def go_on(self) -> None:
        """There was something to plan from."""
        self._blind_since = None
