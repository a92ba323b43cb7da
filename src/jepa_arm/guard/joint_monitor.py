"""Joint monitor: validity and age of the measured joints, and their distance to the commands."""

from __future__ import annotations

import numpy as np

from jepa_arm.config import GuardConfig
from jepa_arm.core.types import FloatArray, JointSample
from jepa_arm.robot.arm import Arm

from .clock_monitor import EPSILON_S

OUTSIDE_LIMITS_RAD = 0.2
"""Distance outside its limits beyond which a measured joint position is implausible."""


class JointMonitor:
    """The newest measured joints, and the commands of the tracking window to compare with.

    Attributes:
        position: (J,) rad, the last valid measurement.
    """

    def __init__(self, arm: Arm, dt: float, config: GuardConfig) -> None:
        """Create a monitor that assumes the arm to be at home until ``reset``.

        Args:
            arm: limits of the joints.
            dt: s, period of the command stream.
            config: largest age of a joint state, and tracking window.
        """
        self._config = config
        self._lowest = arm.lower - OUTSIDE_LIMITS_RAD
        self._highest = arm.upper + OUTSIDE_LIMITS_RAD
        self._window = max(1, round(config.tracking_window / dt))
        self.position, self._received_at, self._invalid = arm.home, 0.0, ''
        self._recent_commands, self._oldest = np.tile(arm.home, (self._window, 1)), 0

    def reset(self, joints: FloatArray, now: float) -> None:
        """Restart at ``now`` (s) with the arm measured and commanded at ``joints`` (J,) rad."""
        self.position, self._received_at, self._invalid = joints, now, ''
        self._recent_commands, self._oldest = np.tile(joints, (self._window, 1)), 0

    def align_commands(self) -> None:
        """Treat the measured position as the only recent command."""
        self._recent_commands = np.tile(self.position, (self._window, 1))

    def is_plausible(self, joints: FloatArray) -> bool:
        """Return whether ``joints`` can be a measurement of this arm: shape, type and range."""
        if joints.dtype.kind not in 'fiu' or joints.shape != self._lowest.shape:
            return False
        return bool(((joints >= self._lowest) & (joints <= self._highest)).all())

    def observe(self, sample: JointSample, now: float) -> None:
        """Store a sample received at ``now`` (s), or a fault if the sample is implausible."""
        position = np.asarray(sample.position)
        if not self.is_plausible(position):
            self.reject(f'measured joints are {str(position)[:200]}')
            return
        self.position, self._received_at, self._invalid = position.astype(float), now, ''

    def reject(self, reason: str) -> None:
        """Let ``check`` report ``joints_invalid`` until a valid sample arrives."""
        self._invalid = f'joints_invalid: {reason}'

    def check(self, now: float) -> str:
        """Return why the measured joints are unusable at ``now`` (s), as 'code: text', or ''."""
        if self._invalid:
            return self._invalid
        age, limit = now - self._received_at, self._config.max_joint_age
        if age > limit + EPSILON_S:
            return f'joints_stale: no joint state for {age:.2f} s, expected <= {limit} s'
        if not age >= -limit - EPSILON_S:  # negated, so that NaN is a fault too
            return f'clock: a joint state came at {self._received_at} s, and now is {now} s'
        return ''

    def record(self, command: FloatArray) -> None:
        """Store the newest commanded position (J,) rad."""
        self._recent_commands[self._oldest] = command
        self._oldest = (self._oldest + 1) % self._window

    def tracking_error(self, alternative: FloatArray | None = None) -> float:
        """Return the distance (rad) from the measured joints to the nearest recent command.

        The distance between two joint vectors is the largest difference of any joint.

        Args:
            alternative: (J,) rad, a position that also counts as a recent command.
        """
        expected = self._recent_commands
        if alternative is not None:
            expected = np.vstack([expected, alternative])
        return float(np.abs(expected - self.position).max(axis=1).min())
