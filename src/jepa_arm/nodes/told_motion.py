"""What the robot was told to do when, and whether it must be told anew. No ROS.

A robot that is told whole motions, and seldom, carries out each command ``LEAD`` ticks after the
guard gave it: so a new motion begins like the old one goes on, and is there before they part.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from ..types import Command, FloatArray

LEAD = 3
"""Ticks from a command of the guard until it is due: for as long a motion may take to arrive."""
EVERY = 5
"""Ticks after which a motion that goes on is told anew."""
AHEAD = 9
"""Commands on the way that are told beside those given: the next motion is asked for after
``EVERY`` ticks and must be there before the robot begins the stop behind these."""
OVER = 2
"""Commands that are due already and told again: clocks and timers are not exact."""
SAME_RAD = 1e-5
"""By how much a command may miss what was told of it."""
MAX_OFF = 10.0
"""Ticks by which the clock may be off the number of commands; beyond, time begins anew."""
SKIP = 0.75
"""Ticks off at which a command more or less is due; timers jitter by less."""
APPROACH_S = 0.2
"""In which a robot at rest takes a first or a new place to rest, which is where it stands."""


@dataclass(frozen=True)
class Motion:
    """What the robot is told at once; it ends at rest.

    Attributes:
        start: s, ROS time. times: (N,) s after it, strictly increasing.
        rows: (N, 2, J) rad and rad/s at these.
    """

    start: float
    times: FloatArray
    rows: FloatArray

    @property
    def end(self) -> float:
        """s, ROS time at which it is over."""
        return self.start + float(self.times[-1])


class ToldMotion:
    """Gives every command its time, and knows which of them the robot has been told."""

    def __init__(self, dt: float, velocity_limit: FloatArray) -> None:
        """Knows of no command.

        Args:
            dt: s, a tick.
            velocity_limit: (J,) rad/s; a command farther from the one before is a new beginning.
        """
        self._dt, self._largest_step = dt, 2.0 * dt * velocity_limit
        self.forget()

    def forget(self) -> None:
        """The next command is the first."""
        self._recent: deque[FloatArray] = deque(maxlen=OVER + LEAD + 1)
        self._begin, self._count = 0.0, 0
        self._told: FloatArray | None = None
        self._told_from = self._told_at = 0
        self._goes_on = False
        self.end = -np.inf

    def ticks_due(self, now: float) -> int:
        """How many commands are to be given at ROS time ``now`` (s), when the timer fires."""
        off = self._off(now)
        if not self._recent or abs(off) > MAX_OFF or abs(off) <= SKIP:
            return 1
        return max(0, 1 + round(off))

    def add(self, command: Command, now: float) -> None:
        """Takes the guard's newest command, given at ROS time ``now`` (s)."""
        row = np.array([command.position, command.velocity])
        if self._recent:
            has_jumped = np.any(np.abs(row[0] - self._recent[-1][0]) > self._largest_step)
            if has_jumped or abs(self._off(now)) > MAX_OFF:
                self.forget()
        if self._recent:
            self._count += 1
        else:
            self._begin = now
        self._recent.append(row)

    @property
    def is_as_told(self) -> bool:
        """Whether the robot has been told of the newest command as it is."""
        if self._told is None:
            return False
        told = self._told[min(self._count - self._told_from, len(self._told) - 1)]
        return bool(np.abs(told[0] - self._recent[-1][0]).max() <= SAME_RAD)

    @property
    def must_go_on(self) -> bool:
        """Whether what was told is about to end in a stop that the guard does not make."""
        return self._goes_on and self._count - self._told_at >= EVERY

    def tell(self, course: FloatArray, stop: FloatArray) -> Motion:
        """The motion to tell now; it counts as told.

        Args:
            course, stop: what comes behind the newest command, see ``Guard.ahead``.
        """
        rows = np.concatenate([np.array(self._recent), course, stop])
        rows[-1, 1] = 0.0  # what all but rests is taken for rest; controllers insist on it
        self._told, self._told_at = rows, self._count
        self._told_from = self._count - len(self._recent) + 1
        self._goes_on = len(course) > 0 and len(stop) > 0
        times = np.array([i * self._dt for i in range(len(rows))])
        start = self._begin + (self._told_from + LEAD) * self._dt
        if np.all(rows == rows[-1]):
            start = self._begin + self._count * self._dt
            rows, times = rows[-1:], np.array([APPROACH_S])
        motion = Motion(start, times, rows)
        self.end = motion.end
        return motion

    def _off(self, now: float) -> float:
        """Ticks by which ``now`` is later than the time of the next command."""
        return (now - self._begin) / self._dt - (self._count + 1)
