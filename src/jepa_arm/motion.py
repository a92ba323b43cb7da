"""From actions to smooth joint motion: tip displacements, joint targets, the 100 Hz stream.

The same ``JointStreamer`` runs in data collection, in the in-process loop and in the guard
node: stepped targets strike objects, and a model learned from one kind of motion plans badly
for another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from ruckig import (
    ControlInterface,
    InputParameter,
    OutputParameter,
    Ruckig,
    RuckigError,
    Synchronization,
    Trajectory,
)

from .arm import Arm
from .config import ArmConfig, Contract, TimeConfig
from .types import Command, FloatArray

ACTION_METRES = 0.025
"""m of tip displacement per control step at an action of 1."""
OUTSIDE = 0.005
"""m beyond the workspace at which a tip is out of it."""
TINY = 1e-9
"""rad, rad/s or rad/s^2: next to nothing."""


def make_contract(arm: ArmConfig, time: TimeConfig) -> Contract:
    """What data, a model and a live robot must agree on to be used together."""
    return Contract(
        arm=arm.name,
        joints=arm.joints,
        camera=arm.camera,
        action_space=TipMotion.name,
        action_width=TipMotion.width,
        action_scale=ACTION_METRES,
        time=time,
    )


Floats = TypeVar('Floats', bound=NDArray[np.floating])


def proprioception(
    joints: Floats, tip_position: Floats, tip_target: Floats, velocity: Floats | None = None
) -> Floats:
    """(..., P) what the arm feels of itself: joints, tip, and the target's lead over the tip.

    Args:
        joints: (..., J) rad. tip_position, tip_target: (..., 3) m. The target is where the arm
            was last told to go; the tip follows about a control step behind, and what it will
            do next depends on the lead. velocity: (..., J) rad/s, for models that see it.
    """
    parts = [joints, tip_position, tip_target - tip_position]
    parts += [] if velocity is None else [velocity]
    return cast(Floats, np.concatenate(parts, axis=-1))


class TipMotion:
    """The action space ``tip_delta_xyz``: actions (A=3,) in [-1, 1] move the tip target.

    A full action displaces the target by ``ACTION_METRES`` in one control step along base x, y
    or z. The target stays inside the arm's workspace; joints follow by differential IK.
    """

    name = 'tip_delta_xyz'
    width = 3

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self.reset(arm.home)

    def reset(self, q: FloatArray) -> None:
        """Starts from joints ``q`` (J,) rad at rest."""
        self.joints = np.array(q, dtype=float)
        self.target = self._arm.clip_to_workspace(self._arm.tip_position(q))

    def apply(self, action: FloatArray) -> FloatArray:
        """Moves the target by one action (3,); returns the joint target (J,) rad."""
        step = np.clip(action, -1.0, 1.0) * ACTION_METRES
        self.target = self._arm.clip_to_workspace(self.target + step)
        self.joints, _ = self._arm.ik(self.target, self.joints)
        return self.joints.copy()

    @property
    def is_outside(self) -> bool:
        """Whether the tip was told to be outside the workspace; any action brings it back."""
        tip = self._arm.tip_position(self.joints)
        return bool(np.abs(self._arm.clip_to_workspace(tip) - tip).max() > OUTSIDE)

    def room(self) -> FloatArray:
        """(2, A) lowest and highest sum of actions that keeps the target in the workspace."""
        low, high = self._arm.workspace_min, self._arm.workspace_max
        return np.stack([low - self.target, high - self.target]) / ACTION_METRES

    def preview(self, actions: FloatArray) -> FloatArray:
        """Joint targets (N, J) rad that ``actions`` (N, 3) would give; changes nothing."""
        target, joints = self.target, self.joints
        waypoints = []
        for action in np.clip(actions, -1.0, 1.0):
            target = self._arm.clip_to_workspace(target + action * ACTION_METRES)
            joints, _ = self._arm.ik(target, joints)
            waypoints.append(joints)
        return np.array(waypoints).reshape(len(actions), len(joints))


class StreamError(RuntimeError):
    """No jerk-limited motion to the target was found."""


class JointStreamer:
    """Jerk-limited motion towards a joint target, one command a tick (ruckig).

    Every command keeps to the arm's velocity, acceleration and jerk limits, whatever the
    targets; ``stop`` brings the arm to rest along a jerk-limited path, with all of the arm's
    acceleration, and brakes without a limit of jerk where ruckig finds no such path. Position
    limits are kept by the targets' choice: see ``step``.
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
        """Starts at rest at joints ``q`` (J,) rad."""
        rest = np.zeros(len(q))
        self.go_on_from(Command(np.array(q, dtype=float), rest, rest))

    def go_on_from(self, command: Command) -> None:
        """Takes ``command`` for the last one given: takes later ones back."""
        self._input.current_position = command.position.tolist()
        self._input.current_velocity = command.velocity.tolist()
        self._input.current_acceleration = command.acceleration.tolist()
        self._command = command

    @property
    def command(self) -> Command:
        """The last command given."""
        return self._command

    @property
    def is_at_rest(self) -> bool:
        """Whether the last command has neither velocity nor acceleration."""
        c = self._command
        return bool(np.max(np.abs(c.velocity)) < 1e-6 and np.max(np.abs(c.acceleration)) < 1e-4)

    def step(self, target: FloatArray, speed_scale: float = 1.0) -> Command:
        """Advances one tick towards joint ``target`` (J,) rad, at rest there.

        Between limits and a target within them the way may lead past the limits: where the
        arm is too fast to stop at the target, it comes back to it.

        Args:
            target: within the arm's position limits.
            speed_scale: share of the velocity limit, in (0, 1]; a faster arm slows down to it
                within the limits of acceleration and jerk.

        Raises:
            StreamError: ruckig finds no motion; the arm's state is as before.
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
        """Advances one tick of the fastest jerk-limited stop; all joints come to rest at once.

        So the arm leaves its path least: joints that stop one after the other dip the tip. Where
        ruckig finds no such stop, the tick brakes without a limit of jerk.
        """
        self._ask_for_stop()
        try:
            return self._advance()
        except StreamError:
            return self._brake()

    def stopping_path(self) -> FloatArray:
        """(N, J) rad, where ``stop`` would lead, tick by tick, to rest; changes nothing.

        Raises:
            StreamError: ruckig finds no stop.
        """
        self._ask_for_stop()
        return self._found(self._calculated_stop)[:, 0]

    def stopping_motion(self) -> FloatArray:
        """(N, 2, J) rad and rad/s of the same, also where ruckig finds no stop; N is 0 at rest."""
        if self.is_at_rest:
            return np.empty((0, 2, len(self._zeros)))
        self._ask_for_stop()
        try:
            motion = self._found(self._calculated_stop)
        except StreamError:
            motion = self._braking_motion()
        motion[-1:, 1] = 0.0  # without rounding
        return motion

    def _braking_motion(self) -> FloatArray:
        before, rows = self._command, []
        while np.any(self._command.velocity):
            command = self._brake()
            rows.append((command.position, command.velocity))
        self.go_on_from(before)
        return np.array(rows or [(before.position, before.velocity)])

    def _calculated_stop(self) -> FloatArray:
        """(N, 2, J)."""
        self._otg.calculate(self._input, self._trajectory)
        duration = self._trajectory.duration
        if not np.isfinite(duration):
            return np.array([duration])
        ticks = int(np.ceil(duration / self._dt))
        path = [self._trajectory.at_time(i * self._dt)[:2] for i in range(1, ticks + 1)]
        return np.array(path).reshape(-1, 2, len(self._zeros))

    def _ask_for_stop(self) -> None:
        self._input.control_interface = ControlInterface.Velocity
        self._input.max_acceleration = self._arm.braking_limit.tolist()
        self._input.target_velocity = self._zeros
        self._input.target_acceleration = self._zeros

    def _advance(self) -> Command:
        new = Command(*self._found(self._updated))
        self._output.pass_to_input(self._input)
        self._command = new
        return new

    def _updated(self) -> FloatArray:
        self._otg.update(self._input, self._output)
        out = self._output
        return np.array([out.new_position, out.new_velocity, out.new_acceleration])

    def _found(self, compute: Callable[[], FloatArray]) -> FloatArray:
        """What ``compute`` makes of the input, all of it finite.

        At the last try the input itself is rounded by less than ``TINY``.

        Rarely ruckig has no time-synchronised solution, and where an arm all but rests at its
        target, numbers of 1e-13 have given it an acceleration of NaN.

        Raises:
            StreamError: nothing was found in any way.
        """
        problem = ''
        for is_together, is_rounded in ((True, False), (False, False), (False, True)):
            synchronization = Synchronization.Time if is_together else Synchronization.No
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
        self.go_on_from(self._command)
        raise StreamError(problem)

    def _round(self) -> None:
        """Takes what is next to nothing out of the input."""
        velocity, acceleration = self._command.velocity, self._command.acceleration
        self._input.current_velocity = np.where(abs(velocity) < TINY, 0.0, velocity).tolist()
        self._input.current_acceleration = np.where(
            abs(acceleration) < TINY, 0.0, acceleration
        ).tolist()
        position, target = self._command.position, np.array(self._input.target_position)
        is_there = abs(target - position) < TINY
        self._input.target_position = np.where(is_there, position, target).tolist()

    def _brake(self) -> Command:
        """One tick with all of the arm's deceleration at once."""
        position, velocity = self._command.position, self._command.velocity
        change = np.minimum(np.abs(velocity), self._arm.braking_limit * self._dt)
        slower = velocity - np.sign(velocity) * change
        way = (velocity + slower) / 2.0 * self._dt
        self.go_on_from(Command(position + way, slower, (slower - velocity) / self._dt))
        return self._command
