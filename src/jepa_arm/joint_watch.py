"""The measured joints: whether they can be, how old they are, how far from the commands."""

from __future__ import annotations

import numpy as np

from .arm import Arm
from .config import GuardConfig
from .types import FloatArray, JointSample

EPSILON = 1e-6
"""s by which an age may be missed through rounding."""
BEYOND_LIMITS_RAD = 0.2
"""How far outside its limits a joint may be measured; beyond that the measurement is wrong."""


class JointWatch:
    """Keeps the newest measured joints and the recent commands.

    Attributes:
        position: (J,) rad, measured; of the last sample that can be.
    """

    def __init__(self, arm: Arm, dt: float, config: GuardConfig) -> None:
        self._arm, self._config = arm, config
        self._window = max(1, round(config.tracking_window / dt))
        self._lowest = arm.lower - BEYOND_LIMITS_RAD
        self._highest = arm.upper + BEYOND_LIMITS_RAD
        self.reset(arm.home, 0.0)

    def reset(self, joints: FloatArray, now: float) -> None:
        """The robot stands at ``joints`` (J,), as commanded; measured at ``now``."""
        self.position, self._at, self._fault = joints, now, ''
        self._recent, self._oldest = np.tile(joints, (self._window, 1)), 0

    def anchor(self) -> None:
        """The robot is told to be where it is measured."""
        self._recent = np.tile(self.position, (self._window, 1))

    def can_be(self, joints: FloatArray) -> bool:
        """Whether ``joints`` may be a measurement of this arm."""
        if joints.dtype.kind not in 'fiu' or joints.shape != self._lowest.shape:
            return False
        return bool(((joints >= self._lowest) & (joints <= self._highest)).all())

    def observe(self, sample: JointSample, now: float) -> None:
        """Takes a sample that arrived at ``now``; one that cannot be is a fault."""
        position = np.asarray(sample.position)
        if not self.can_be(position):
            self.lose(f'measured joints are {str(position)[:200]}')
            return
        self.position, self._at, self._fault = position.astype(float), now, ''

    def lose(self, reason: str) -> None:
        """What came cannot be used; a fault until good joints come."""
        self._fault = f'joints_invalid: {reason}'

    def fault(self, now: float) -> str:
        """Why the joints are not known at ``now``: 'code: text', or ''."""
        if self._fault:
            return self._fault
        age, limit = now - self._at, self._config.max_joint_age
        if age > limit + EPSILON:
            return f'joints_stale: no joint state for {age:.2f} s, expected <= {limit} s'
        if not age >= -limit - EPSILON:  # also where a clock is not a number
            return f'clock: a joint state came at {self._at} s, and now is {now} s'
        return ''

    def record(self, command: FloatArray) -> None:
        """Takes the newest commanded position (J,) rad."""
        self._recent[self._oldest] = command
        self._oldest = (self._oldest + 1) % self._window

    def error(self, also: FloatArray | None = None) -> float:
        """rad, from the measured joints to the nearest command of the tracking window.

        Args:
            also: (J,) rad, where they may be as well.
        """
        expected = self._recent if also is None else np.vstack([self._recent, also])
        return float(np.abs(expected - self.position).max(axis=1).min())
