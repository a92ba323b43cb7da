"""Sent trajectory: timing of commands for a robot that executes whole trajectories. No ROS.

Trajectories are sent rarely. The robot executes each command ``DELAY_TICKS`` after the guard made
it. A new trajectory thus begins with the commands that the robot is executing from the previous
one, and arrives before the two diverge.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from jepa_arm.core.types import Command, FloatArray

DELAY_TICKS = 3
"""Ticks from the guard's command to its execution; a trajectory must arrive within them."""
RESEND_TICKS = 5
"""Ticks after which the trajectory of a continuing motion is extended and sent again."""
PREDICTED_TICKS = 9
"""Predicted commands that are sent after the actual ones: the next trajectory is composed after
``RESEND_TICKS`` and must arrive before the robot begins the stop that follows them."""
OVERLAP_TICKS = 2
"""Commands that are sent again although already due, since clocks and timers are inexact."""
EPSILON_RAD = 1e-5
"""Largest difference between a command and its counterpart in the trajectory sent."""
MAX_CLOCK_OFFSET_TICKS = 10.0
"""Largest offset between clock and number of commands; beyond it the timing restarts."""
EXTRA_TICK_THRESHOLD = 0.75
"""Offset, in ticks, beyond which one command more or one fewer is due. Timers jitter by less."""
APPROACH_S = 0.2
"""Duration of the trajectory that makes a robot at rest hold its position."""


@dataclass(frozen=True)
class TimedTrajectory:
    """A trajectory that ends at rest.

    Attributes:
        start: s, ROS time.
        times: (N,) s after ``start``, strictly increasing.
        points: (N, 2, J) positions, rad, and velocities, rad/s, of the J joints.
    """

    start: float
    times: FloatArray
    points: FloatArray

    @property
    def end(self) -> float:
        """Time (s, ROS) at which the trajectory is over."""
        return self.start + float(self.times[-1])


class SentTrajectory:
    """Assigns a time to every command and keeps track of which commands the robot has received.

    Attributes:
        end: s, ROS time at which the last trajectory sent is over; -inf before the first.
    """

    def __init__(self, dt: float, velocity_limit: FloatArray) -> None:
        """Create a record without commands.

        Args:
            dt: s, period of the commands.
            velocity_limit: (J,) rad/s; a command that moves a joint more than twice as fast
                restarts the record.
        """
        self._dt, self._max_step = dt, 2.0 * dt * velocity_limit
        self._recent: deque[FloatArray] = deque(maxlen=OVERLAP_TICKS + DELAY_TICKS + 1)
        self._begin, self._count = 0.0, 0
        self._points: FloatArray | None = None
        self._first_sent = self._sent_at = 0
        self._is_continuing = False
        self.end = -np.inf

    def reset(self) -> None:
        """Forget all commands and restart the timing at the next one."""
        self._recent.clear()
        self._begin, self._count = 0.0, 0
        self._points = None
        self._first_sent = self._sent_at = 0
        self._is_continuing = False
        self.end = -np.inf

    def ticks_due(self, now: float) -> int:
        """Return how many commands are due when the timer fires at ``now`` (s, ROS time)."""
        offset = self._clock_offset(now)
        is_lost = abs(offset) > MAX_CLOCK_OFFSET_TICKS
        if not self._recent or is_lost or abs(offset) <= EXTRA_TICK_THRESHOLD:
            return 1
        return max(0, 1 + round(offset))

    def record(self, command: Command, now: float) -> None:
        """Record the guard's newest command, made at ``now`` (s, ROS time)."""
        point = np.array([command.position, command.velocity])
        if self._recent:
            has_jumped = np.any(np.abs(point[0] - self._recent[-1][0]) > self._max_step)
            if has_jumped or abs(self._clock_offset(now)) > MAX_CLOCK_OFFSET_TICKS:
                self.reset()
        if self._recent:
            self._count += 1
        else:
            self._begin = now
        self._recent.append(point)

    @property
    def is_up_to_date(self) -> bool:
        """True if the last trajectory sent contains the newest command unchanged."""
        if self._points is None:
            return False
        sent = self._points[min(self._count - self._first_sent, len(self._points) - 1)]
        return bool(np.abs(sent[0] - self._recent[-1][0]).max() <= EPSILON_RAD)

    @property
    def must_extend(self) -> bool:
        """True if the last trajectory sent must be extended and sent again.

        The motion continues, but the robot would soon begin the stop at the trajectory's end.
        """
        return self._is_continuing and self._count - self._sent_at >= RESEND_TICKS

    def compose(self, predicted: FloatArray, stop: FloatArray) -> TimedTrajectory:
        """Return the trajectory to send now and record it as sent.

        Args:
            predicted: (N, 2, J) rad and rad/s, the commands after the newest one.
            stop: (M, 2, J) rad and rad/s, the stop after them; see ``Guard.predict``.
        """
        points = np.concatenate([np.array(self._recent), predicted, stop])
        points[-1, 1] = 0.0  # controllers insist on exact rest at the end
        self._points, self._sent_at = points, self._count
        self._first_sent = self._count - len(self._recent) + 1
        self._is_continuing = len(predicted) > 0 and len(stop) > 0
        times = np.array([i * self._dt for i in range(len(points))])
        start = self._begin + (self._first_sent + DELAY_TICKS) * self._dt
        if np.all(points == points[-1]):
            start = self._begin + self._count * self._dt
            points, times = points[-1:], np.array([APPROACH_S])
        trajectory = TimedTrajectory(start, times, points)
        self.end = trajectory.end
        return trajectory

    def _clock_offset(self, now: float) -> float:
        """Return by how many ticks ``now`` (s) is later than the time of the next command."""
        return (now - self._begin) / self._dt - (self._count + 1)
