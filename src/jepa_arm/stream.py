"""The stream of commands, none of which leads to where a stop would come too late."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .arm import Arm
from .collision import Pose
from .config import GuardConfig
from .motion import JointStreamer, StreamError
from .sweep import Sweep
from .types import Command, FloatArray

ROUNDING = 1e-6
"""rad by which a limit may be missed through rounding."""
GLANCE_S = 0.005
"""s of motion over which closing speeds are measured."""
SLOW_M_S = 1e-3
"""m/s or rad/s, closing speeds below this are no approach."""


class GuardedStream:
    """A ``JointStreamer`` that can always stop in time.

    Before a command is given, the whole path of the stop that could follow it is checked: joint
    limits, workspace, table plane, self-collision, declared obstacles. Where that fails, the
    stop begins instead, along the path that was found clear a tick before. The nearer a joint
    limit, a self-collision or an obstacle ahead, the slower the approach.

    Attributes:
        speed_scale: share of the velocity limits in force at the last step.
        most_speed: the same at most, in (0, 1]; a stop needs no leave.
    """

    def __init__(self, arm: Arm, dt: float, sweep: Sweep, config: GuardConfig) -> None:
        self._arm, self._sweep, self._config = arm, sweep, config
        self._streamer = JointStreamer(arm, dt)
        self.most_speed = 1.0
        self.reset(arm.home)

    def reset(self, q: FloatArray) -> None:
        """Starts at rest at joints ``q`` (J,) rad."""
        self._streamer.reset(q)
        self._pose: Pose | None = None
        self.speed_scale = 1.0

    @property
    def command(self) -> Command:
        """The last command given."""
        return self._streamer.command

    @property
    def is_at_rest(self) -> bool:
        """Whether the last command has neither velocity nor acceleration."""
        return self._streamer.is_at_rest

    def stop_ahead(self) -> FloatArray:
        """(N, 2, J) rad and rad/s: the stop behind the last command, tick by tick."""
        return self._streamer.stopping_motion()

    def ahead(self, targets: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """What steps towards ``targets``, each (J,) rad, would give; changes nothing.

        Returns:
            (N, 2, J) rad and rad/s, the commands, ending early where one is the first of a
            stop; (M, 2, J), the stop behind them.
        """
        before = self.command, self._pose, self.speed_scale
        course = []
        for target in targets:
            command, fault = self.step(target)
            course.append((command.position, command.velocity))
            if fault:
                break
        stop = self.stop_ahead()
        command, self._pose, self.speed_scale = before
        self._streamer.go_on_from(command)
        return np.array(course).reshape(-1, *stop.shape[1:]), stop

    def step(self, target: FloatArray) -> tuple[Command, str]:
        """One tick towards joint ``target`` (J,) rad; see ``JointStreamer.step``.

        Returns:
            the command, and '', or 'code: text': why it is the first of a stop.
        """
        before = self.command
        begin = self._pose or self._sweep.scene.at(before.position)
        self.speed_scale = min(self._scale(begin, target), self.most_speed)
        try:
            self._streamer.step(target, self.speed_scale)
        except StreamError as error:
            return self.stop(), f'stream: {error}'
        fault = self._fault_ahead(begin)
        if fault:
            self._streamer.go_on_from(before)
            return self.stop(), f'{fault} on the way'
        self._pose = self._sweep.scene.at(self.command.position)
        return self.command, ''

    def stop(self) -> Command:
        """One tick of the fastest stop; exactly at rest once there, without rounding.

        At rest it is the same command again and again.
        """
        self._pose, self.speed_scale = None, 1.0
        if not self.is_at_rest:
            self._streamer.stop()
        command = self.command
        if self.is_at_rest and (np.any(command.velocity) or np.any(command.acceleration)):
            rest = np.zeros_like(command.position)
            self._streamer.go_on_from(Command(command.position, rest, rest))
        return self.command

    def _fault_ahead(self, begin: Pose) -> str:
        """Why the last command, with the stop after it, may not be given; '' if it may."""
        try:
            stop = self._streamer.stopping_path()
        except StreamError as error:
            return f'stream: no stop was found: {error}'
        path = np.vstack([self.command.position, stop])
        arm = self._arm
        beyond = np.maximum(
            np.minimum(arm.lower, begin.q) - path, path - np.maximum(arm.upper, begin.q)
        )
        if beyond.max() > ROUNDING:
            joint = int(np.argmax(beyond.max(axis=0)))
            return f'position_limit: {arm.joint_names[joint]}'
        allowance = self._sweep.allowance(begin, is_stop=True)
        if self._sweep.is_clear(begin, path, allowance):
            return ''
        fault = self._sweep.first_fault([begin.q, *path], allowance)
        return fault[1] if fault else ''

    def _scale(self, begin: Pose, target: FloatArray) -> float:
        """Share of the velocity limits at which nothing ahead is nearer than the approach time.

        Judged for a straight joint motion to ``target``, whose fastest joint is at its limit.
        """
        way = target - begin.q
        size = np.abs(way / self._arm.velocity_limit).max()
        if size < ROUNDING:
            return 1.0
        velocity = way / size
        room = np.where(way > 0.0, self._arm.upper - begin.q, begin.q - self._arm.lower)
        ahead = self._sweep.scene.at(begin.q + GLANCE_S * velocity)
        closing = (begin.distances - ahead.distances) / GLANCE_S
        least_time = np.append(
            _time_left(room, np.abs(velocity)),
            _time_left(begin.distances - self._sweep.needed, closing),
        ).min()
        share = least_time / self._config.approach_time
        return float(np.clip(share, self._config.least_speed, 1.0))


def _time_left(room: FloatArray, speed: FloatArray) -> FloatArray:
    """s until ``room`` (m or rad) is used up at ``speed``; inf where nothing comes closer."""
    is_closing = speed > SLOW_M_S
    return np.where(is_closing, room / np.where(is_closing, speed, 1.0), np.inf)
