"""Joint trajectories: jerk-limited motion to joint targets, streamed one command per tick.

The same ``JointStreamer`` runs in data collection, in the in-process loop and in the guard node:
a tip that jumps from target to target strikes objects, and a model trained on one kind of motion
plans badly for another.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ruckig import (
    ControlInterface,
    InputParameter,
    OutputParameter,
    Ruckig,
    RuckigError,
    Synchronization,
    Trajectory,
)

from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.types import Command, FloatArray

from .arm import Arm

NEGLIGIBLE = 1e-9
"""rad, rad/s or rad/s^2; smaller values are rounded away."""


class StreamError(JepaArmError, RuntimeError):
    """Ruckig found no jerk-limited motion."""


class JointStreamer:
    """Jerk-limited motion towards a joint target, one command per tick (ruckig).

    Every command respects the arm's velocity, acceleration and jerk limits, whatever the targets.
    ``stop`` brings the arm to rest along a jerk-limited path with the whole acceleration limit,
    and brakes without a jerk limit if ruckig finds no such path. Position limits are not
    enforced: see ``step``.

    Attributes:
        command: the last command.
    """

    def __init__(self, arm: Arm, dt: float) -> None:
        n = len(arm.joint_names)
        self._arm, self._dt = arm, dt
        self._otg = Ruckig(n, dt)
        self._input = InputParameter(n)
        self._output = OutputParameter(n)
        self._trajectory = Trajectory(n)
        self._input.max_jerk = arm.jerk_limit.tolist()
        self._zeros = [0.0] * n
        self.reset(arm.home)

    def reset(self, q: FloatArray) -> None:
        """Start at rest at joints ``q`` (J,) rad."""
        rest = np.zeros(len(q))
        self.go_on_from(Command(np.array(q, dtype=float), rest, rest))

    def go_on_from(self, command: Command) -> None:
        """Continue from ``command``, as if it had been the last one."""
        self._input.current_position = command.position.tolist()
        self._input.current_velocity = command.velocity.tolist()
        self._input.current_acceleration = command.acceleration.tolist()
        self.command = command

    @property
    def is_at_rest(self) -> bool:
        """True if the last command has neither velocity nor acceleration."""
        c = self.command
        return bool(np.max(np.abs(c.velocity)) < 1e-6 and np.max(np.abs(c.acceleration)) < 1e-4)

    def step(self, target: FloatArray, speed_scale: float = 1.0) -> Command:
        """Advance one tick of the motion that comes to rest at joint ``target`` (J,) rad.

        An arm that is too fast to stop at the target overshoots and comes back, possibly beyond
        the position limits.

        Args:
            target: within the arm's position limits.
            speed_scale: share of the velocity limit, in (0, 1]; an arm that moves faster slows
                down to it within the limits of acceleration and jerk.

        Raises:
            StreamError: ruckig finds no motion; the state is unchanged.
        """
        self._input.control_interface = ControlInterface.Position
        self._input.max_velocity = (speed_scale * self._arm.velocity_limit).tolist()
        self._input.max_acceleration = self._arm.acceleration_limit.tolist()
        self._input.target_position = target.tolist()
        self._input.target_velocity = self._zeros
        self._input.target_acceleration = self._zeros
        try:
            return self._advance()
        except StreamError as error:
            raise StreamError(f'no jerk-limited motion to {target.tolist()}: {error}') from error

    def stop(self) -> Command:
        """Advance one tick of the fastest jerk-limited stop; all joints come to rest together.

        Stopping together keeps the tip nearest to its path: joints that stop one after another
        make it dip. If ruckig finds no such stop, the tick brakes without a jerk limit.
        """
        self._request_stop()
        try:
            return self._advance()
        except StreamError:
            return self._brake()

    def stopping_path(self) -> FloatArray:
        """Return the path (N, J) rad that ``stop`` would take, tick by tick until rest.

        Raises:
            StreamError: ruckig finds no stop.
        """
        self._request_stop()
        return self._solve(self._calculate_stop)[:, 0]

    def stopping_motion(self) -> FloatArray:
        """Return positions and velocities (N, 2, J) of a stop, tick by tick; N is 0 at rest.

        If ruckig finds no stop, they are those of braking without a jerk limit.
        """
        if self.is_at_rest:
            return np.empty((0, 2, len(self._zeros)))
        self._request_stop()
        try:
            motion = self._solve(self._calculate_stop)
        except StreamError:
            motion = self._braking_motion()
        motion[-1:, 1] = 0.0  # without rounding errors
        return motion

    def _braking_motion(self) -> FloatArray:
        before, rows = self.command, []
        while np.any(self.command.velocity):
            command = self._brake()
            rows.append((command.position, command.velocity))
        self.go_on_from(before)
        return np.array(rows or [(before.position, before.velocity)])

    def _calculate_stop(self) -> FloatArray:
        """Return the jerk-limited stop (N, 2, J), or a non-finite value if there is none."""
        self._otg.calculate(self._input, self._trajectory)
        duration = self._trajectory.duration
        if not np.isfinite(duration):
            return np.array([duration])
        ticks = int(np.ceil(duration / self._dt))
        path = [self._trajectory.at_time(i * self._dt)[:2] for i in range(1, ticks + 1)]
        return np.array(path).reshape(-1, 2, len(self._zeros))

    def _request_stop(self) -> None:
        self._input.control_interface = ControlInterface.Velocity
        self._input.max_acceleration = self._arm.braking_limit.tolist()
        self._input.target_velocity = self._zeros
        self._input.target_acceleration = self._zeros

    def _advance(self) -> Command:
        new = Command(*self._solve(self._update))
        self._output.pass_to_input(self._input)
        self.command = new
        return new

    def _update(self) -> FloatArray:
        self._otg.update(self._input, self._output)
        out = self._output
        return np.array([out.new_position, out.new_velocity, out.new_acceleration])

    def _solve(self, compute: Callable[[], FloatArray]) -> FloatArray:
        """Call ``compute``, which uses ruckig, up to three times until its result is finite.

        In rare cases ruckig has no time-synchronised solution, and for an arm almost at rest at
        its target, inputs of 1e-13 led to an acceleration of NaN. The second attempt therefore
        drops the synchronisation, and the third also rounds ``NEGLIGIBLE`` values away.

        Raises:
            StreamError: all attempts failed.
        """
        problem = ''
        for is_synchronised, is_rounded in ((True, False), (False, False), (False, True)):
            synchronization = Synchronization.Time if is_synchronised else Synchronization.No
            self._input.synchronization = synchronization
            if is_rounded:
                self._round()
            try:
                found = compute()
            except RuckigError as error:
                problem = str(error)
                continue
            if np.all(np.isfinite(found)):
                return found
            problem = f'not finite: {found.tolist()}'
        self.go_on_from(self.command)
        raise StreamError(problem)

    def _round(self) -> None:
        """Zero ``NEGLIGIBLE`` velocities, accelerations and distances to the target."""
        velocity, acceleration = self.command.velocity, self.command.acceleration
        self._input.current_velocity = np.where(abs(velocity) < NEGLIGIBLE, 0.0, velocity).tolist()
        self._input.current_acceleration = np.where(
            abs(acceleration) < NEGLIGIBLE, 0.0, acceleration
        ).tolist()
        position, target = self.command.position, np.array(self._input.target_position)
        is_at_target = abs(target - position) < NEGLIGIBLE
        self._input.target_position = np.where(is_at_target, position, target).tolist()

    def _brake(self) -> Command:
        """Advance one tick of braking at the full ``braking_limit``, without a jerk limit."""
        position, velocity = self.command.position, self.command.velocity
        change = np.minimum(np.abs(velocity), self._arm.braking_limit * self._dt)
        slower = velocity - np.sign(velocity) * change
        distance = (velocity + slower) / 2.0 * self._dt
        self.go_on_from(Command(position + distance, slower, (slower - velocity) / self._dt))
        return self.command
