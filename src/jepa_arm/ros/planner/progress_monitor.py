"""Progress monitor: distinguishes an arm that dithers from one on its way around an obstacle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_STEP_M, MIN_STEP_COST = 0.005, 0.5
"""Smallest decrease of a distance and of a plan's cost (in model steps) that counts as progress.

A detour of the tip around the object does not bring the object nearer to the goal, but lowers the
cost of the plan.
"""
NEW_PATH_M, NEW_PATH_COST = 0.05, 2.0
"""Increase that signals a new path: of the tip around an obstacle, or to a new subgoal."""
MAX_PATHS_M, MAX_PATHS_COST = 3.0, 16.0
"""Largest total decrease along such paths that counts while the subject gets no nearer."""
NEW_APPROACH_M, MAX_APPROACHES_M = 0.015, 0.06
"""Increase of the tip's path that signals a new attempt to get behind an object next to the tip,
and largest total decrease in such attempts that counts while the object gets no nearer."""
RECEDED_M, MAX_RECOVERED_M = 0.03, 0.5
"""Increase of the distance after which a decrease counts even without a new minimum (the distance
was misread, or the object pushed away), and largest total of such decreases."""
WAIT_FRACTION = 2.0 / 3.0
"""Fraction of the timeout after which the arm stands still until the end instead of dithering."""
MAX_STEP_S = 0.5
"""Longest gap between plans that counts as time without progress; the rest is blindness."""


@dataclass(frozen=True)
class PlanProgress:
    """Contribution of one plan to the progress towards a goal.

    Attributes:
        stamp: s, stamp of the observation.
        distance: m, to the goal; a yaw error may be included.
        cost: cost of the plan; NaN without a plan.
        speed_scale: fraction of full speed at which the arm could move since the previous plan; 0
            while the guard held it, which is not counted against the goal.
        remaining_path, remaining_approach: m, see ``Decision``.
        yaw_error: rad; NaN if the goal has no yaw.
    """

    stamp: float
    distance: float
    cost: float = np.nan
    speed_scale: float = 1.0
    remaining_path: float = np.nan
    remaining_approach: float = np.nan
    yaw_error: float = np.nan


class DecreaseDetector:
    """Detector of decreases of a quantity by at least a step."""

    def __init__(
        self, min_step: float, restart_rise: float = np.inf, max_total: float = np.inf
    ) -> None:
        """Start without a value.

        Args:
            min_step: smallest decrease that counts.
            restart_rise: a rise by more than this restarts the detector at the risen value.
            max_total: largest total decrease that counts until ``reset_total``.
        """
        self._min_step, self._restart_rise, self._max_total = min_step, restart_rise, max_total
        self._lowest, self._total = np.inf, 0.0

    def reset_total(self) -> None:
        """Allow the full total decrease again."""
        self._total = 0.0

    def update(self, value: float) -> bool:
        """Return whether ``value`` counts as a decrease; the first value does, NaN never does."""
        if value > self._lowest + self._restart_rise:
            self._lowest = value
        if not value < self._lowest - self._min_step:
            return False
        if np.isfinite(self._lowest):
            self._total += self._lowest - value
        self._lowest = value
        return self._total <= self._max_total


class ProgressMonitor:
    """Monitor of the time without progress towards a goal.

    Attributes:
        stuck: s without progress, scaled to full speed.
        nearest: m, smallest distance so far.
    """

    def __init__(self, timeout: float, has_yaw: bool = False) -> None:
        """Start without plans.

        Args:
            timeout: s of motion at full speed without progress.
            has_yaw: whether the object is to be turned: the tip then circles it repeatedly to
                push another face, and each circle starts at a higher cost.
        """
        self._timeout = timeout
        self._distance = DecreaseDetector(MIN_STEP_M)
        self._recovered = DecreaseDetector(MIN_STEP_M, RECEDED_M, MAX_RECOVERED_M)
        self._subgoal_cost = DecreaseDetector(MIN_STEP_COST, NEW_PATH_COST, MAX_PATHS_COST)
        self._tip_path = DecreaseDetector(MIN_STEP_M, NEW_PATH_M, MAX_PATHS_M)
        self._approach = DecreaseDetector(MIN_STEP_M, NEW_APPROACH_M, MAX_APPROACHES_M)
        self._cost = DecreaseDetector(MIN_STEP_COST)
        if has_yaw:
            self._cost = DecreaseDetector(MIN_STEP_COST, NEW_PATH_COST, MAX_PATHS_COST)
        self._last_stamp: float | None = None
        self.stuck, self.nearest = 0.0, np.inf

    def restart_clock(self) -> None:
        """Count the time without progress from the next plan on."""
        self._last_stamp, self.stuck = None, 0.0

    @property
    def is_waiting(self) -> bool:
        """Return whether the arm should stand still: it moved without progress for too long."""
        return self.stuck >= WAIT_FRACTION * self._timeout

    @property
    def is_over(self) -> bool:
        """Return whether the timeout has passed."""
        return self.stuck >= self._timeout

    def record_plan(self, plan: PlanProgress) -> None:
        """Count one plan. NaN counts as no progress.

        Around obstacles a plan leads to a subgoal, and its cost rises with each new subgoal.
        """
        passed = 0.0 if self._last_stamp is None else plan.stamp - self._last_stamp
        self._last_stamp = plan.stamp
        self.stuck += min(passed, MAX_STEP_S) * plan.speed_scale
        self.nearest = float(np.fmin(self.nearest, plan.distance))
        is_free = np.isnan(plan.remaining_path)
        distance = plan.distance if is_free else plan.remaining_path
        limited = self._recovered, self._subgoal_cost, self._tip_path, self._approach, self._cost
        if self._distance.update(distance):
            for detector in limited:
                detector.reset_total()
            self.stuck = 0.0
        if self._recovered.update(distance):
            self.stuck = 0.0
        if np.isnan(plan.remaining_approach):
            has_progress = (self._cost if is_free else self._subgoal_cost).update(plan.cost)
        else:
            detectors = self._tip_path, self._approach
            has_progress = any([each.update(plan.remaining_approach) for each in detectors])
        if has_progress:
            self.stuck = 0.0
