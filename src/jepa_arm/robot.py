"""The robot as the loop sees it, and the way of proposals to its guard."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from .types import FloatArray, Observation, Proposal


class Robot(Protocol):
    """What ``control_step`` needs of the robot: the virtual arm has it."""

    time: float

    def observe(self) -> Observation:
        """Camera image and joints now."""
        ...

    def joints(self) -> tuple[FloatArray, FloatArray]:
        """Measured positions (J,) rad and velocities (J,) rad/s."""
        ...

    def command(self, position: FloatArray, velocity: FloatArray) -> None:
        """Sets the joint servo's target."""
        ...

    def step(self) -> None:
        """Lets one stream tick pass."""
        ...


class Line:
    """The way of proposals to the guard, which takes ``delay`` s."""

    def __init__(self, delay: float = 0.0) -> None:
        self._delay, self._sent = delay, deque[tuple[float, Proposal]]()

    def put(self, proposal: Proposal, now: float) -> None:
        """Sends ``proposal`` at ``now`` (s)."""
        self._sent.append((now + self._delay, proposal))

    def arrived(self, now: float) -> list[Proposal]:
        """What has come by ``now`` (s), the oldest first."""
        out = []
        while self._sent and self._sent[0][0] <= now + 1e-6:
            out.append(self._sent.popleft()[1])
        return out
