"""Joint controller of the virtual arm: converts trajectories, positions or velocities to targets.

It behaves like ros2_control's JointTrajectoryController and forward command controllers.
"""

from __future__ import annotations

import numpy as np

from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.types import FloatArray, TrajectoryCommand

MAX_JUMP_RAD = 0.2
"""Distance from the current target up to which a trajectory's first point is accepted even if the
velocity limit does not allow it; an arm's driver would refuse more."""
MAX_TARGET_LEAD_RAD = 0.1
"""Largest distance of the target from the measured joints in velocity mode, for a blocked arm."""
EPSILON_S = 1e-9


class CommandError(JepaArmError, ValueError):
    """A command that the controller refuses; the previous one stays in force."""


class JointController:
    """Turns commands into one joint target per tick.

    A new trajectory replaces the old one and starts from the current target; an empty one holds
    that target. After its end the last position is held; if no command comes for another
    ``timeout`` s, the measured position is held. A velocity is also kept for ``timeout`` s. As in
    an arm's driver, the target never moves faster than ``velocity_limit``, however late commands
    come.

    Attributes:
        is_timed_out: whether no command came in time, so that the measured position is held.
    """

    def __init__(self, velocity_limit: FloatArray, dt: float, timeout: float) -> None:
        """Create a controller at joints 0.

        Args:
            velocity_limit: (J,) rad/s.
            dt: s, period of the ticks.
            timeout: s without a command.
        """
        self._velocity_limit, self._dt, self._timeout = velocity_limit, dt, timeout
        self._goal = self._position = np.zeros_like(velocity_limit)
        self._velocity = np.zeros_like(velocity_limit)
        self._points: tuple[FloatArray, FloatArray, FloatArray | None] | None = None
        self._commanded_velocity: FloatArray | None = None
        self._idle_since: float | None = None
        self._is_engaged = self._never_times_out = False
        self.is_timed_out = False

    def reset(self, position: FloatArray) -> None:
        """Hold at ``position`` (J,) rad; the next command must begin there."""
        self._goal = self._position = np.array(position, dtype=float)
        self._velocity = np.zeros_like(self._position)
        self._points = self._commanded_velocity = self._idle_since = None
        self._is_engaged = self.is_timed_out = self._never_times_out = False

    def follow(self, trajectory: TrajectoryCommand, now: float) -> None:
        """Follow ``trajectory`` from time ``now`` (s) on.

        Raises:
            CommandError: it is not finite, its times do not increase, it has ended already, or it
                does not start at the present position.
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
        self._commanded_velocity, self._idle_since = None, None
        self._engage()

    def follow_position(self, position: FloatArray, now: float) -> None:
        """Move to ``position`` (J,) rad until the next tick."""
        self.follow(TrajectoryCommand(position[None], None, np.array([self._dt]), 0.0), now)

    def hold_position(self, position: FloatArray, now: float) -> None:
        """Move to ``position`` (J,) rad and hold there without a time-out."""
        self.follow_position(position, now)
        self._never_times_out = True

    def follow_velocity(self, velocity: FloatArray, now: float) -> None:
        """Move with ``velocity`` (J,) rad/s until the next command or the time-out.

        Raises:
            CommandError: it is not finite, or exceeds the velocity limit.
        """
        if not np.all(np.isfinite(velocity)):
            raise CommandError('expected finite numbers, got NaN or infinity')
        if np.any(np.abs(velocity) > self._velocity_limit * (1.0 + EPSILON_S)):
            raise CommandError(f'expected at most {self._velocity_limit} rad/s, got {velocity}')
        self._hold(self._position, now)
        self._commanded_velocity = np.array(velocity, dtype=float)
        self._engage()

    def next_target(self, now: float, measured: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advance one tick from ``now`` (s); return the target position and velocity at its end.

        Args:
            now: s.
            measured: (J,) rad, where the arm holds after a time-out.

        Returns:
            (J,) rad and (J,) rad/s.
        """
        at = now + self._dt
        if self._points is not None:
            self._goal, self._velocity = self._sample(at)
            if at > self._points[0][-1] + EPSILON_S:
                self._hold(self._goal, self._points[0][-1])
        if self._commanded_velocity is not None:
            ahead = self._position + self._dt * self._commanded_velocity
            lead = MAX_TARGET_LEAD_RAD
            self._goal = np.clip(ahead, measured - lead, measured + lead)
            self._velocity = self._commanded_velocity
        is_silent = self._idle_since is not None and now - self._idle_since > self._timeout
        may_time_out = self._is_engaged and not self.is_timed_out and not self._never_times_out
        if is_silent and may_time_out:
            self.is_timed_out = True
            self._hold(measured, now)
            self._goal = self._position = np.array(measured, dtype=float)
        self._limit_velocity()
        return self._position, self._velocity

    def _engage(self) -> None:
        self._is_engaged, self.is_timed_out = True, False
        self._never_times_out = False

    def _limit_velocity(self) -> None:
        """Move the target towards the goal as far as the velocity limit allows in a tick."""
        step, largest = self._goal - self._position, self._velocity_limit * self._dt
        if np.all(np.abs(step) <= largest):
            self._position = self._goal
        else:
            self._position = self._position + np.clip(step, -largest, largest)

    def _hold(self, position: FloatArray, since: float) -> None:
        self._points, self._commanded_velocity, self._idle_since = None, None, since
        self._goal, self._velocity = position, np.zeros_like(position)

    def _check(self, trajectory: TrajectoryCommand, times: FloatArray, now: float) -> None:
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
        """Return the trajectory's position and velocity (J,) at time ``at`` (s).

        The interpolation is cubic if the points have velocities, else linear.
        """
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
    """Return the index of the first of ``times`` after ``now``; the last one if none is."""
    return min(int(np.searchsorted(times, now + EPSILON_S, side='right')), len(times) - 1)
