"""Whether a goal comes nearer: what an arm that dithers is told from one on its way by."""

from __future__ import annotations

import numpy as np

PROGRESS_M, PROGRESS_COST = 0.005, 0.5
"""What counts as nearer: so much less distance, or half a model step less to go by the plan.

A way round the object brings it no nearer, but the plan's end, by the value of what it reaches.
"""
ANOTHER_M, ANOTHER_COST = 0.05, 2.0
"""A rise by so much begins another way, of the tip round an obstacle or to another place ahead."""
MOST_ROUND_M, MOST_COST = 3.0, 16.0
"""Of all such ways in a row that count, while the goal's subject comes no nearer."""
BEHIND_M, MOST_BEHIND_M = 0.015, 0.06
"""A rise of the tip's way by so much begins another try behind the object that it lies beside, and
of all such tries what counts, while the object comes no nearer."""
FARTHER_M, MOST_AGAIN_M = 0.03, 0.5
"""By which the subject is farther where it once was read too near, or was pushed away, and of all
that it comes nearer again, not nearer than ever, what counts."""
WAIT_SHARE = 2.0 / 3.0
"""Of the patience, after which the arm waits for the rest of it instead of going to and fro."""
LONGEST_STEP_S = 0.5
"""Between two plans, that counts as time without progress: what is longer was blindness."""


class Descent:
    """A number that is to fall, by steps that count."""

    def __init__(self, step: float, another: float = np.inf, most: float = np.inf) -> None:
        """Starts at the first value.

        Args:
            step: the least fall that counts.
            another: a rise by more begins anew, from there.
            most: of falls in all that count, until ``forgive``.
        """
        self._step, self._another, self._most = step, another, most
        self._least, self._fallen = np.inf, 0.0

    def forgive(self) -> None:
        """Counts falls anew."""
        self._fallen = 0.0

    def falls(self, value: float) -> bool:
        """Whether ``value`` is a step lower, or the first one; NaN never is."""
        if value > self._least + self._another:
            self._least = value
        if not value < self._least - self._step:
            return False
        if np.isfinite(self._least):
            self._fallen += self._least - value
        self._least = value
        return self._fallen <= self._most


class Progress:
    """Seconds without any.

    Attributes:
        stuck: s without coming nearer, as at full speed. nearest: m, of all distances so far.
    """

    def __init__(self, patience: float, turns: bool = False) -> None:
        """Waits for plans.

        Args:
            patience: s, of moving at full speed without coming nearer.
            turns: whether the object is to be turned, too: the tip goes round it to push it at
                another face, again and again, and each such way begins at a higher cost.
        """
        self._patience = patience
        self._way, self._cost = Descent(PROGRESS_M), Descent(PROGRESS_COST)
        if turns:
            self._cost = Descent(PROGRESS_COST, ANOTHER_COST, MOST_COST)
        self._again = Descent(PROGRESS_M, FARTHER_M, MOST_AGAIN_M)
        self._leg = Descent(PROGRESS_COST, ANOTHER_COST, MOST_COST)
        self._round = Descent(PROGRESS_M, ANOTHER_M, MOST_ROUND_M)
        self._behind = Descent(PROGRESS_M, BEHIND_M, MOST_BEHIND_M)
        self._seen_at: float | None = None
        self.stuck, self.nearest = 0.0, np.inf

    def restart_clock(self) -> None:
        """Counts time from the next plan on."""
        self._seen_at, self.stuck = None, 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether the arm had better stand still: it moved, and came no nearer."""
        return self.stuck >= WAIT_SHARE * self._patience

    @property
    def is_over(self) -> bool:
        """Whether the patience is at its end."""
        return self.stuck >= self._patience

    def see(
        self,
        stamp: float,
        distance: float,
        cost: float,
        speed: float = 1.0,
        left: float = np.nan,
        round_left: float = np.nan,
    ) -> None:
        """Counts one plan. NaN counts as no progress.

        Among obstacles a plan goes to a place ahead, and its cost rises with each new one.

        Args:
            stamp: s, of what was planned from.
            distance: m to the goal. cost: of the plan.
            speed: share of full speed at which the arm could move since the plan before; 0: it
                was held, which is no fault of the goal.
            left, round_left: m, see ``Decision``.
        """
        passed = 0.0 if self._seen_at is None else stamp - self._seen_at
        self._seen_at = stamp
        self.stuck += min(passed, LONGEST_STEP_S) * speed
        self.nearest = float(np.fmin(self.nearest, distance))
        is_free = np.isnan(left)
        way = distance if is_free else left
        if self._way.falls(way):
            for other in (self._again, self._leg, self._round, self._behind, self._cost):
                other.forgive()
            self.stuck = 0.0
        if self._again.falls(way):
            self.stuck = 0.0
        if np.isnan(round_left):
            has_come = (self._cost if is_free else self._leg).falls(cost)
        else:
            has_come = any([way.falls(round_left) for way in (self._round, self._behind)])
        if has_come:
            self.stuck = 0.0
