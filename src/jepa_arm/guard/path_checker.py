"""Path checker: workspace, table plane, self-collision and obstacles along a joint path.

Each straight joint segment is checked as a whole, not only at its ends. A segment is proven clear
if the distances at both ends exceed what any part can move in between. Otherwise it is halved,
until no point of the arm moves farther than ``collision_check_step`` between two checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jepa_arm.config import GuardConfig
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel, CollisionState

EPSILON_M = 1e-6
"""Rounding error that is tolerated when a limit is checked."""


@dataclass(frozen=True)
class PathLimits:
    """Limits of a path; a limit that its first state violates is relaxed to that state's value.

    Attributes:
        max_outside: m, largest distance of the tip outside the workspace box.
        min_height: m, smallest height of the arm's lowest point above the table plane.
        min_distances: (K,) m, distances that the K pairs of shapes must exceed.
    """

    max_outside: float
    min_height: float
    min_distances: FloatArray


class PathChecker:
    """Checker of joint paths against the workspace box, the table plane and the collision pairs.

    Attributes:
        collision_model: the arm's collision shapes and the declared obstacles.
        min_distances: (K,) m, limits of the K pairs of shapes on a path that starts clear.
    """

    def __init__(self, arm: Arm, config: GuardConfig) -> None:
        self._arm, self._config = arm, config
        self.collision_model = CollisionModel(arm, config.obstacles)
        is_obstacle = self.collision_model.is_obstacle
        self.min_distances = np.where(is_obstacle, config.obstacle_clearance, 0.0)

    def first_violation(
        self, path: Iterable[FloatArray], limits: PathLimits | None = None
    ) -> tuple[int, str] | None:
        """Return the first segment of ``path`` that must not be followed, and why.

        Args:
            path: joint vectors (J,) rad; the first is where the arm is now.
            limits: by default those from ``limits_from`` for the first joint vector.

        Returns:
            index of the segment and 'code: text'; None if the whole path is clear.
        """
        joints = iter(path)
        begin = self.collision_model.evaluate(next(joints))
        limits = limits or self.limits_from(begin)
        for i, q in enumerate(joints):
            end = self.collision_model.evaluate(q)
            violation = self._check_segment(begin, end, limits)
            if violation:
                return i, violation
            begin = end
        return None

    def limits_from(self, state: CollisionState, is_stop: bool = False) -> PathLimits:
        """Return the limits of a path that begins at ``state``.

        Args:
            state: first state of the path.
            is_stop: whether the path is a stop, which may go down to the table plane.
        """
        config = self._config
        height = 0.0 if is_stop else config.table_clearance
        return PathLimits(
            max(config.workspace_margin, self.distance_outside(state.tip)) + EPSILON_M,
            min(height, self.collision_model.ground_clearance(state)) - EPSILON_M,
            np.minimum(self.min_distances, state.distances - EPSILON_M),
        )

    def is_proven_clear(self, begin: CollisionState, path: FloatArray, limits: PathLimits) -> bool:
        """Return whether one bound on a short ``path`` (N, J) rad from ``begin`` proves it clear.

        False means unknown; ``first_violation`` must then check segment by segment.
        """
        model = self.collision_model
        points = np.array([model.points(q) for q in path])
        steps = np.diff(np.vstack([begin.q[None], path]), axis=0)
        bend = model.curvature_bound(np.abs(steps).max(axis=0))
        moved = np.linalg.norm(points - begin.points, axis=2).max(axis=0) + bend / 8.0
        approach = model.approach_bound(np.abs(path - begin.q).max(axis=0))
        closer = np.minimum(model.sum_per_pair(model.max_per_shape(moved)), approach)
        sag = float(bend.max()) / 8.0
        return (
            bool(np.all(begin.distances - closer > limits.min_distances))
            and max(self.distance_outside(p[-1]) for p in points) + sag <= limits.max_outside
            and min(model.min_ground_clearance(p) for p in points) - sag >= limits.min_height
        )

    def distance_outside(self, tip: FloatArray) -> float:
        """Return how far ``tip`` (3,) m lies outside the workspace box on any axis; 0 inside."""
        arm = self._arm
        return float(np.maximum(arm.workspace_min - tip, tip - arm.workspace_max).max(initial=0.0))

    def _check_segment(
        self, begin: CollisionState, end: CollisionState, limits: PathLimits
    ) -> str:
        """Return why the straight joint segment violates ``limits``, or ''."""
        model = self.collision_model
        bend = model.curvature_bound(end.q - begin.q)
        moved = np.linalg.norm(end.points - begin.points, axis=1) + bend / 2.0
        if self._is_segment_clear(begin, end, moved, float(bend.max()) / 8.0, limits):
            return ''
        if moved.max() <= self._config.collision_check_step:
            return self._check_state(end, limits)
        middle = model.evaluate((begin.q + end.q) / 2.0)
        return self._check_segment(begin, middle, limits) or self._check_segment(
            middle, end, limits
        )

    def _is_segment_clear(
        self,
        begin: CollisionState,
        end: CollisionState,
        moved: FloatArray,
        sag: float,
        limits: PathLimits,
    ) -> bool:
        """Return whether no state between ``begin`` and ``end`` can violate ``limits``.

        Args:
            begin, end: ends of the segment.
            moved: (E,) m, bound on the distance that each of the E points travels.
            sag: m, bound on the points' deviation from straight lines between their end points.
            limits: limits of the path.
        """
        model = self.collision_model
        approach = model.approach_bound(end.q - begin.q)
        closer = np.minimum(model.sum_per_pair(model.max_per_shape(moved)), approach)
        distances = (begin.distances + end.distances - closer) / 2.0
        outside = max(self.distance_outside(state.tip) for state in (begin, end))
        height = min(model.min_ground_clearance(state.points) for state in (begin, end))
        return (
            bool(np.all(distances > limits.min_distances))
            and outside + sag <= limits.max_outside
            and height - sag >= limits.min_height
        )

    def _check_state(self, state: CollisionState, limits: PathLimits) -> str:
        """Return why the arm must not be at ``state``, or ''."""
        outside = self.distance_outside(state.tip)
        if not outside <= limits.max_outside:
            return f'workspace: the tip is {outside:.3f} m outside'
        height = self.collision_model.ground_clearance(state)
        if not height >= limits.min_height:
            return f'table: the arm is at {height:.3f} m'
        missing = limits.min_distances - state.distances
        if not missing.size or missing.max() < 0.0:
            return ''
        pair = int(np.argmax(missing))
        code = 'obstacle' if self.collision_model.is_obstacle[pair] else 'self_collision'
        return f'{code}: {" and ".join(self.collision_model.names[pair])}'
