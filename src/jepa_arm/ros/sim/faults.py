"""Fault injection of the virtual arm: which faults exist, and which are active."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jepa_arm.core.errors import JepaArmError


@dataclass(frozen=True)
class FaultValue:
    """Range and default of a fault's value.

    Attributes:
        default: used if none is given.
        maximum: largest value; the smallest is 0.
    """

    default: float = 0.0
    maximum: float = 0.0


FAULTS = {
    'camera_stop': FaultValue(),
    'camera_freeze': FaultValue(),
    'camera_black': FaultValue(),
    'camera_white': FaultValue(),
    'camera_half': FaultValue(),
    'camera_size': FaultValue(),
    'camera_encoding': FaultValue(),
    'camera_delay': FaultValue(0.3, 5.0),
    'camera_past': FaultValue(1.0, 5.0),
    'camera_future': FaultValue(1.0, 5.0),
    'joints_stop': FaultValue(),
    'joints_nan': FaultValue(),
    'joints_inf': FaultValue(),
    'joints_permuted': FaultValue(),
    'joint_missing': FaultValue(),
    'encoder_jump': FaultValue(0.3, 3.0),
    'clock_pause': FaultValue(),
    'clock_back': FaultValue(2.0, 100.0),
    'clock_ahead': FaultValue(2.0, 100.0),
    'object_move': FaultValue(0.06, 0.5),
    'arm_blocked': FaultValue(),
}
"""Value ranges by fault name: rad for encoder_jump, m for object_move, s for the others.
clock_back, clock_ahead and object_move happen at once and are not undone."""


class FaultError(JepaArmError, ValueError):
    """An unknown fault, or a value out of its range."""


class FaultInjector:
    """The active faults."""

    def __init__(self) -> None:
        self._active: dict[str, tuple[float, float]] = {}
        """Value of each fault, and the time (s) until which it is active."""

    def clear(self) -> None:
        """End all faults."""
        self._active.clear()

    def inject(self, name: str, duration: float, value: float, now: float) -> float:
        """Start a fault and return its value.

        Args:
            name: one of ``FAULTS``.
            duration: s; 0: until ``clear``.
            value: 0: the fault's default.
            now: s.

        Raises:
            FaultError: unknown fault, or a duration or value out of range.
        """
        if name not in FAULTS:
            raise FaultError(f'unknown fault {name!r}, expected one of {sorted(FAULTS)}')
        if not 0.0 <= duration < math.inf:
            raise FaultError(f'expected a finite duration >= 0, got {duration}')
        limits = FAULTS[name]
        if not 0.0 <= value <= limits.maximum:
            raise FaultError(f'{name}: expected a value in [0, {limits.maximum}], got {value}')
        value = value or limits.default
        self._active[name] = value, now + duration if duration else math.inf
        return value

    def get(self, name: str, now: float) -> float | None:
        """Return the value of the fault ``name`` at ``now`` (s); None if it is not active."""
        value, ends_at = self._active.get(name, (0.0, -math.inf))
        return value if now < ends_at else None

    def names(self, now: float) -> list[str]:
        """Return the names of the faults that are active at ``now`` (s)."""
        return sorted(name for name in self._active if self.get(name, now) is not None)
