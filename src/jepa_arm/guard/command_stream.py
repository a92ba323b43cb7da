"""Guarded command stream: after every command, a collision-free stop is still possible."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jepa_arm.config import GuardConfig
from jepa_arm.core.types import Command, FloatArray
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionState
from jepa_arm.robot.trajectory import JointStreamer, StreamError

from .path_checker import PathChecker

EPSILON_RAD = 1e-6
"""Rounding error that is tolerated when a limit is checked."""
LOOK_AHEAD_S = 0.005
"""Time of motion over which closing speeds are measured."""
MIN_CLOSING_SPEED = 1e-3
"""m/s or rad/s; slower motion does not count as an approach."""


class GuardedCommandStream:
    """A ``JointStreamer`` that can always stop in time.

    Before a command is sent, the whole path of the stop that could follow it is checked: joint
    limits, workspace, table plane, self-collision and declared obstacles. If that path is not
    clear, the stop begins instead, along the path that was found clear one tick before. The arm
    slows down as it approaches joint limits, self-collisions and obstacles.

    Attributes:
        speed_scale: largest fraction of the velocity limits, in (0, 1]. A stop ignores it.
        proximity_scale: fraction of the velocity limits to which nearby joint limits, links and
            obstacles slowed the last step; 1 during a stop.
    """

    def __init__(
        self,
        arm: Arm,
        streamer: JointStreamer,
        path_checker: PathChecker,
        config: GuardConfig,
    ) -> None:
        """Create a stream at rest at the arm's home.

        Args:
            arm: kinematics and limits.
            streamer: computes commands and stops.
            path_checker: checks the paths of the stops.
            config: settings of the slow-down.
        """
        self._arm, self._streamer = arm, streamer
        self._path_checker, self._config = path_checker, config
        self._state: CollisionState | None = None
        self.speed_scale = self.proximity_scale = 1.0
        self.reset(arm.home)

    def reset(self, q: FloatArray) -> None:
        """Start at rest at joints ``q`` (J,) rad."""
        self._streamer.reset(q)
        self._state, self.proximity_scale = None, 1.0

    @property
    def command(self) -> Command:
        """The last command."""
        return self._streamer.command

    @property
    def is_at_rest(self) -> bool:
        """True if the last command has neither velocity nor acceleration."""
        return self._streamer.is_at_rest

    def stopping_trajectory(self) -> FloatArray:
        """Return the stop after the last command: (N, 2, J) rad and rad/s for N ticks."""
        return self._streamer.stopping_motion()

    def predict(self, targets: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Return the commands that ``step`` would give for ``targets``, and the stop after them.

        The state of the stream is unchanged.

        Args:
            targets: joint targets (J,) rad, one per tick.

        Returns:
            (N, 2, J) positions (rad) and velocities (rad/s) of the commands, up to the first that
            begins a stop; and the same, (M, 2, J), of the stop after them.
        """
        before = self.command, self._state, self.proximity_scale
        commands = []
        for target in targets:
            command, violation = self.step(target)
            commands.append((command.position, command.velocity))
            if violation:
                break
        stop = self.stopping_trajectory()
        command, self._state, self.proximity_scale = before
        self._streamer.go_on_from(command)
        return np.array(commands).reshape(-1, *stop.shape[1:]), stop

    def step(self, target: FloatArray) -> tuple[Command, str]:
        """Advance one tick towards joint ``target`` (J,) rad; see ``JointStreamer.step``.

        Returns:
            the command; and if it begins a stop, the reason as 'code: text', otherwise ''.
        """
        before = self.command
        begin = self._state or self._path_checker.collision_model.evaluate(before.position)
        self.proximity_scale = self._proximity_scale(begin, target)
        try:
            self._streamer.step(target, min(self.proximity_scale, self.speed_scale))
        except StreamError as error:
            return self.stop(), f'stream: {error}'
        violation = self._check_stop(begin)
        if violation:
            self._streamer.go_on_from(before)
            return self.stop(), f'{violation} on the way'
        self._state = self._path_checker.collision_model.evaluate(self.command.position)
        return self.command, ''

    def stop(self) -> Command:
        """Advance one tick of the fastest stop; at rest, repeat exactly the same command."""
        self._state, self.proximity_scale = None, 1.0
        if not self.is_at_rest:
            self._streamer.stop()
        command = self.command
        if self.is_at_rest and (np.any(command.velocity) or np.any(command.acceleration)):
            rest = np.zeros_like(command.position)
            self._streamer.go_on_from(Command(command.position, rest, rest))
        return self.command

    def _check_stop(self, begin: CollisionState) -> str:
        """Return why the last command or the stop after it must not be sent, or ''."""
        try:
            stop = self._streamer.stopping_path()
        except StreamError as error:
            return f'stream: no stop was found: {error}'
        path, arm = np.vstack([self.command.position, stop]), self._arm
        # A joint that began outside its limits may not move farther out.
        outside = np.maximum(
            np.minimum(arm.lower, begin.q) - path, path - np.maximum(arm.upper, begin.q)
        )
        if not outside.max() <= EPSILON_RAD:
            return f'position_limit: {arm.joint_names[int(np.argmax(outside.max(axis=0)))]}'
        limits = self._path_checker.limits_from(begin, is_stop=True)
        if self._path_checker.is_proven_clear(begin, path, limits):
            return ''
        violation = self._path_checker.first_violation([begin.q, *path], limits)
        return violation[1] if violation else ''

    def _proximity_scale(self, begin: CollisionState, target: FloatArray) -> float:
        """Return the fraction of the velocity limits to use, lower near limits and contacts.

        The time to the nearest joint limit, self-collision or obstacle is estimated for a straight
        joint motion to ``target`` (J,) rad whose fastest joint moves at its velocity limit. If it
        is less than ``slowdown_time``, the fraction is their ratio, but not less than
        ``min_proximity_scale``.
        """
        motion = target - begin.q
        size = np.abs(motion / self._arm.velocity_limit).max()
        if size < EPSILON_RAD:
            return 1.0
        velocity = motion / size
        to_limit = np.where(motion > 0.0, self._arm.upper - begin.q, begin.q - self._arm.lower)
        ahead = self._path_checker.collision_model.evaluate(begin.q + LOOK_AHEAD_S * velocity)
        closing_speed = (begin.distances - ahead.distances) / LOOK_AHEAD_S
        min_time = np.append(
            _time_to_contact(to_limit, np.abs(velocity)),
            _time_to_contact(begin.distances - self._path_checker.min_distances, closing_speed),
        ).min()
        scale = min_time / self._config.slowdown_time
        return float(np.clip(scale, self._config.min_proximity_scale, 1.0))


def _time_to_contact(distance: FloatArray, speed: FloatArray) -> FloatArray:
    """Return the time (s) to cover ``distance`` at closing ``speed``; inf if not closing."""
    is_closing = speed > MIN_CLOSING_SPEED
    return np.where(is_closing, distance / np.where(is_closing, speed, 1.0), np.inf)
