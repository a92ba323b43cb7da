"""The virtual arm's controllers: ros2_control's JointTrajectoryController, and plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import FloatArray

MAX_JUMP_RAD = 0.2
"""Distance of a first point from the present target, beyond what the arm's velocity limit
allows, at which a driver would refuse it."""
MAX_LEAD_RAD = 0.1
"""How far from the measured joints a velocity may lead the target, as where the arm is blocked."""
EPSILON_S = 1e-9


@dataclass(frozen=True)
class Trajectory:
    """Points to pass through, in the arm's joint order.

    Attributes:
        positions: (N, J) rad.
        velocities: (N, J) rad/s, or None: straight segments.
        times: (N,) s from the start.
        start: s on the ROS clock; 0 means now.
    """

    positions: FloatArray
    velocities: FloatArray | None
    times: FloatArray
    start: float


class CommandError(ValueError):
    """A command the controller refuses; what was in force stays in force."""


class Controller:
    """Turns trajectories into one joint target a tick.

    A new trajectory replaces the old one and starts from the present target; an empty one holds.
    At its end the last position is held, at rest. When nothing has come for ``timeout`` s after
    the end, the arm holds where it is; a velocity is kept for so long. As in an arm's driver the
    target never moves faster than ``velocity_limit``, however late commands come.
    """

    def __init__(self, velocity_limit: FloatArray, dt: float, timeout: float) -> None:
        self._velocity_limit, self._dt, self._timeout = velocity_limit, dt, timeout
        self.reset(np.zeros_like(velocity_limit))

    def reset(self, position: FloatArray) -> None:
        """Holds at ``position`` (J,) rad; the next command must begin there."""
        self._goal = self._position = np.array(position, dtype=float)
        self._velocity = np.zeros_like(self._position)
        self._points: tuple[FloatArray, FloatArray, FloatArray | None] | None = None
        self._driven: FloatArray | None = None
        self._idle_since: float | None = None
        self._is_engaged = self.is_timed_out = self._may_be_silent = False

    def follow(self, trajectory: Trajectory, now: float) -> None:
        """Takes a trajectory at time ``now``.

        Raises:
            CommandError: not finite, unordered, in the past, or it does not begin here.
        """
        if len(trajectory.times) == 0:
            self._hold(self._position, now)
            return
        times = (trajectory.start or now) + trajectory.times
        self._check(trajectory, times, now)
        first = _first_after(times, now)
        velocities = trajectory.velocities
        self._points = (
            np.concatenate([[now], times[first:]]),
            np.vstack([self._position, trajectory.positions[first:]]),
            None if velocities is None else np.vstack([self._velocity, velocities[first:]]),
        )
        self._driven, self._idle_since = None, None
        self._is_engaged, self.is_timed_out = True, False
        self._may_be_silent = False

    def go_to(self, position: FloatArray, now: float) -> None:
        """Takes a position target (J,) rad that is to be reached at the next tick."""
        self.follow(Trajectory(position[None], None, np.array([self._dt]), 0.0), now)

    def stay_at(self, position: FloatArray, now: float) -> None:
        """As ``go_to``, and holds there however long nothing else comes."""
        self.go_to(position, now)
        self._may_be_silent = True

    def drive(self, velocity: FloatArray, now: float) -> None:
        """Takes a velocity (J,) rad/s that is kept until the next command or the time-out.

        Raises:
            CommandError: not finite, or faster than the arm may be.
        """
        if not np.all(np.isfinite(velocity)):
            raise CommandError('expected finite numbers, got NaN or infinity')
        if np.any(np.abs(velocity) > self._velocity_limit * (1.0 + EPSILON_S)):
            raise CommandError(f'expected at most {self._velocity_limit} rad/s, got {velocity}')
        self._hold(self._position, now)
        self._driven = np.array(velocity, dtype=float)
        self._is_engaged, self.is_timed_out = True, False
        self._may_be_silent = False

    def target(self, now: float, measured: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Joint target at the end of the tick that begins at ``now``: (J,) rad and rad/s.

        Args:
            now: s.
            measured: (J,) rad, where the arm holds when commands stay out.
        """
        at = now + self._dt
        if self._points is not None:
            self._goal, self._velocity = self._sample(at)
            if at > self._points[0][-1] + EPSILON_S:
                self._hold(self._goal, self._points[0][-1])
        if self._driven is not None:
            ahead = self._position + self._dt * self._driven
            self._goal = np.clip(ahead, measured - MAX_LEAD_RAD, measured + MAX_LEAD_RAD)
            self._velocity = self._driven
        is_silent = self._idle_since is not None and now - self._idle_since > self._timeout
        is_over = self.is_timed_out or self._may_be_silent
        if is_silent and self._is_engaged and not is_over:
            self.is_timed_out = True
            self._hold(measured, now)
            self._goal = self._position = np.array(measured, dtype=float)
        self._approach()
        return self._position, self._velocity

    def _approach(self) -> None:
        """Moves the target to the goal as far as the velocity limit allows in a tick."""
        step, largest = self._goal - self._position, self._velocity_limit * self._dt
        if np.all(np.abs(step) <= largest):
            self._position = self._goal
        else:
            self._position = self._position + np.clip(step, -largest, largest)

    def _hold(self, position: FloatArray, since: float) -> None:
        self._points, self._driven, self._idle_since = None, None, since
        self._goal, self._velocity = position, np.zeros_like(position)

    def _check(self, trajectory: Trajectory, times: FloatArray, now: float) -> None:
        values = [trajectory.positions, times]
        if trajectory.velocities is not None:
            values.append(trajectory.velocities)
        if not all(np.all(np.isfinite(v)) for v in values):
            raise CommandError('expected finite numbers, got NaN or infinity')
        if np.any(np.diff(times) <= 0.0) or trajectory.times[0] < 0.0:
            raise CommandError('expected strictly increasing times')
        if times[-1] < now - EPSILON_S:
            raise CommandError(f'the trajectory ended {now - times[-1]:.3f} s ago')
        first = _first_after(times, now)
        jump = np.abs(trajectory.positions[first] - self._position)
        slack = MAX_JUMP_RAD if self._is_engaged else 0.0
        allowed = np.maximum(slack, self._velocity_limit * (times[first] - now) + EPSILON_S)
        if np.any(jump > allowed):
            worst = int(np.argmax(jump - allowed))
            raise CommandError(
                f'joint {worst} jumps by {jump[worst]:.3f} rad, expected <= '
                f'{allowed[worst]:.3f}; begin where the arm stands'
            )

    def _sample(self, at: float) -> tuple[FloatArray, FloatArray]:
        """Position and velocity at time ``at``: cubic with velocities, linear without."""
        assert self._points is not None
        times, positions, velocities = self._points
        if at >= times[-1] - EPSILON_S:
            is_over = at > times[-1] + EPSILON_S or velocities is None
            rest = np.zeros_like(positions[-1])
            return positions[-1], rest if is_over or velocities is None else velocities[-1]
        i = int(np.searchsorted(times, at, side='right'))
        span = times[i] - times[i - 1]
        u = (at - times[i - 1]) / span
        p0, p1 = positions[i - 1], positions[i]
        if velocities is None:
            return p0 + u * (p1 - p0), (p1 - p0) / span
        m0, m1 = velocities[i - 1] * span, velocities[i] * span
        position = (
            (2 * u**3 - 3 * u**2 + 1) * p0
            + (u**3 - 2 * u**2 + u) * m0
            + (3 * u**2 - 2 * u**3) * p1
            + (u**3 - u**2) * m1
        )
        slope = (6 * u**2 - 6 * u) * (p0 - p1) + (3 * u**2 - 4 * u + 1) * m0
        return position, (slope + (3 * u**2 - 2 * u) * m1) / span


def _first_after(times: FloatArray, now: float) -> int:
    """Index of the first of ``times`` after ``now``; the last one if none is."""
    return min(int(np.searchsorted(times, now + EPSILON_S, side='right')), len(times) - 1)
