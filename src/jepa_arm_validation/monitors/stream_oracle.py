"""Stream oracle: judges commands by the arm's limits, without any code of the guard.

Limits are checked by finite differences of successive commands. A jerk-limited motion keeps every
limit in these differences too, so an excess is a violation, whatever the guard computes.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from jepa_arm.core.types import Command, FloatArray
from jepa_arm.robot.arm import Arm

RELATIVE_TOLERANCE = 1e-6
"""Share of a limit by which rounding may exceed it."""
TOLERANCE = {'position': 1e-6, 'velocity': 1e-6, 'acceleration': 1e-3, 'jerk': 0.05}
"""Absolute tolerance (rad, rad/s, rad/s^2, rad/s^3): differences amplify rounding by 1/dt^n."""


class StreamOracle:
    """Judge of a stream of commands with one command per tick."""

    def __init__(self, arm: Arm, dt: float) -> None:
        """Expect a new stream.

        Args:
            arm: arm whose limits apply. dt: s between commands.
        """
        self._arm, self._dt = arm, dt
        self._positions: deque[FloatArray] = deque(maxlen=4)
        self._last: Command | None = None
        self._lower, self._upper = arm.lower, arm.upper

    def restart(self) -> None:
        """Expect a new stream: the next command may be anywhere."""
        self._positions.clear()
        self._last = None

    def judge(self, command: Command) -> list[str]:
        """Return the violations of the next command, each as 'kind: details'."""
        p, v, a = command.position, command.velocity, command.acceleration
        if not (np.all(np.isfinite(p)) and np.all(np.isfinite(v)) and np.all(np.isfinite(a))):
            return ['the command is not finite']
        arm, dt, last, violations = self._arm, self._dt, self._last, []
        if last is None:  # a stream may begin outside the limits and return
            self._lower = np.minimum(arm.lower, p) - TOLERANCE['position']
            self._upper = np.maximum(arm.upper, p) + TOLERANCE['position']
        excess = np.maximum(self._lower - p, p - self._upper)
        if excess.max() > 0.0:
            joint = int(excess.argmax())
            violations.append(f'position: joint {joint} {excess.max():.3g} rad outside')
        violations += _exceeding('velocity', v, arm.velocity_limit)
        violations += _exceeding('acceleration', a, arm.braking_limit)
        if last is not None:
            violations += _exceeding('acceleration', (v - last.velocity) / dt, arm.braking_limit)
            violations += _exceeding('jerk', (a - last.acceleration) / dt, arm.jerk_limit)
        self._positions.append(p)
        self._last = command
        return violations + self._judge_positions()

    def _judge_positions(self) -> list[str]:
        """Return the violations found in the positions alone, as a robot may use nothing else."""
        positions, arm, violations = np.array(self._positions), self._arm, []
        limits = arm.velocity_limit, arm.braking_limit, arm.jerk_limit
        for order, kind in enumerate(('velocity', 'acceleration', 'jerk'), start=1):
            if len(positions) > order:
                change = np.diff(positions[-order - 1 :], n=order, axis=0)[0] / self._dt**order
                violations += _exceeding(kind, change, limits[order - 1])
        return violations


def _exceeding(kind: str, values: FloatArray, limit: FloatArray) -> list[str]:
    size = np.abs(values)
    excess = size - limit * (1.0 + RELATIVE_TOLERANCE)
    if excess.max() <= TOLERANCE[kind]:
        return []
    joint = int(excess.argmax())
    return [f'{kind}: joint {joint} at {size[joint]:.6g}, limit {limit[joint]:.6g}']
