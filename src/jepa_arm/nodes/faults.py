"""What can be broken on the virtual arm on purpose, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

FAULTS = {
    'camera_stop': 0.0,
    'camera_freeze': 0.0,
    'camera_black': 0.0,
    'camera_white': 0.0,
    'camera_half': 0.0,
    'camera_size': 0.0,
    'camera_encoding': 0.0,
    'camera_delay': 0.3,
    'camera_past': 1.0,
    'camera_future': 1.0,
    'joints_stop': 0.0,
    'joints_nan': 0.0,
    'joints_inf': 0.0,
    'joints_permuted': 0.0,
    'joint_missing': 0.0,
    'encoder_jump': 0.3,
    'clock_pause': 0.0,
    'clock_back': 2.0,
    'clock_ahead': 2.0,
    'object_move': 0.06,
    'arm_blocked': 0.0,
}
"""Name of each fault and its default value: rad for encoder_jump, m for object_move, s for the
others. clock_back, clock_ahead and object_move happen at once and are not undone."""
LARGEST = {name: (5.0 if default else 0.0) for name, default in FAULTS.items()} | {
    'object_move': 0.5,
    'encoder_jump': 3.0,
    'clock_back': 100.0,
    'clock_ahead': 100.0,
}
"""The largest value of each."""


class FaultError(ValueError):
    """An unknown fault, or a value it cannot have."""


@dataclass(frozen=True)
class Fault:
    """A fault in force until ``ends_at`` s with its ``value``."""

    value: float
    ends_at: float


class Faults:
    """Which faults are in force."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Ends all faults."""
        self._active: dict[str, Fault] = {}

    def inject(self, name: str, duration: float, value: float, now: float) -> Fault:
        """Puts a fault in force.

        Args:
            name: one of ``FAULTS``.
            duration: s; 0 until ``clear``.
            value: 0 means the fault's default.
            now: s.

        Raises:
            FaultError: unknown, or not a number it can have.
        """
        if name not in FAULTS:
            raise FaultError(f'unknown fault {name!r}, expected one of {sorted(FAULTS)}')
        if not (math.isfinite(duration) and duration >= 0.0 and math.isfinite(value)):
            raise FaultError(
                f'expected duration >= 0 and a finite value, got {duration} and {value}'
            )
        if not 0.0 <= value <= LARGEST[name]:
            raise FaultError(f'{name}: expected a value in [0, {LARGEST[name]}], got {value}')
        fault = Fault(value or FAULTS[name], now + duration if duration else math.inf)
        self._active[name] = fault
        return fault

    def get(self, name: str, now: float) -> Fault | None:
        """The fault if it is in force at ``now``."""
        fault = self._active.get(name)
        return fault if fault is not None and now < fault.ends_at else None

    def names(self, now: float) -> list[str]:
        """Those in force at ``now``."""
        return sorted(name for name in self._active if self.get(name, now))
