"""Whether the arm may move along a path: workspace, table plane, self-collision, obstacles.

The whole of each straight joint segment is judged, not its ends alone. Where the distances at
both ends exceed what any part can move in between, the segment is proven clear; otherwise it is
halved, until no point of the arm moves more than ``sweep_step`` between two checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .arm import Arm
from .collision import Pose, Scene
from .config import GuardConfig
from .types import FloatArray

ROUNDING = 1e-6
"""m by which a limit may be missed through rounding."""


@dataclass(frozen=True)
class Allowance:
    """What a path that begins at some pose must keep; where that fails already, no worse.

    Attributes:
        outside: m, the tip outside the workspace box, at most.
        height: m, of the arm's lowest point, at least.
        distances: (K,) m, of each pair of shapes, more than.
    """

    outside: float
    height: float
    distances: FloatArray


class Sweep:
    """Checks motions against the workspace box, the table plane and the scene's pairs."""

    def __init__(self, arm: Arm, config: GuardConfig) -> None:
        self._arm, self._config = arm, config
        self.scene = Scene(arm, config.obstacles)
        self.needed = np.where(self.scene.is_obstacle, config.obstacle_clearance, 0.0)

    def first_fault(
        self, path: Iterable[FloatArray], allowance: Allowance | None = None
    ) -> tuple[int, str] | None:
        """The first segment of ``path`` that may not be followed, and why; None: all may.

        Args:
            path: joint vectors (J,) rad; the arm stands at the first.
            allowance: of the first; computed if left out.

        Returns:
            number of the segment, and 'code: text'.
        """
        poses = iter(path)
        begin = self.scene.at(next(poses))
        allowance = allowance or self.allowance(begin)
        for i, q in enumerate(poses):
            end = self.scene.at(q)
            fault = self._segment(begin, end, allowance)
            if fault:
                return i, fault
            begin = end
        return None

    def allowance(self, pose: Pose, is_stop: bool = False) -> Allowance:
        """What a path that begins at ``pose`` must keep; a stop may use up ``min_clearance``."""
        config = self._config
        height = 0.0 if is_stop else config.min_clearance
        return Allowance(
            max(config.workspace_margin, self.outside(pose.tip)) + ROUNDING,
            min(height, self.scene.clearance_below(pose)) - ROUNDING,
            np.minimum(self.needed, pose.distances - ROUNDING),
        )

    def is_clear(self, begin: Pose, path: FloatArray, allowance: Allowance) -> bool:
        """Whether the short ``path`` (N, J) from ``begin`` is proven clear at once; or unknown."""
        scene = self.scene
        points = np.array([scene.points(q) for q in path])
        steps = np.diff(np.vstack([begin.q[None], path]), axis=0)
        bend = scene.curvature(np.abs(steps).max(axis=0))
        moved = np.linalg.norm(points - begin.points, axis=2).max(axis=0) + bend / 8.0
        farthest = np.abs(path - begin.q).max(axis=0)
        closer = np.minimum(scene.of_pairs(scene.of_shapes(moved)), scene.closing(farthest))
        apart = begin.distances - closer
        sag = float(bend.max()) / 8.0
        return (
            bool(np.all(apart > allowance.distances))
            and max(self.outside(p[-1]) for p in points) + sag <= allowance.outside
            and min(scene.lowest(p) for p in points) - sag >= allowance.height
        )

    def outside(self, tip: FloatArray) -> float:
        """m, how far ``tip`` (3,) lies outside the workspace box on any axis; 0 inside."""
        arm = self._arm
        return float(np.maximum(arm.workspace_min - tip, tip - arm.workspace_max).max(initial=0.0))

    def _segment(self, begin: Pose, end: Pose, allowance: Allowance) -> str:
        scene = self.scene
        bend = scene.curvature(end.q - begin.q)
        moved = np.linalg.norm(end.points - begin.points, axis=1) + bend / 2.0
        if self._is_proven(begin, end, moved, float(bend.max()) / 8.0, allowance):
            return ''
        if moved.max() <= self._config.sweep_step:
            return self._fault(end, allowance)
        middle = scene.at((begin.q + end.q) / 2.0)
        return self._segment(begin, middle, allowance) or self._segment(middle, end, allowance)

    def _is_proven(
        self, begin: Pose, end: Pose, moved: FloatArray, sag: float, allowance: Allowance
    ) -> bool:
        """Whether no pose between the two can break the ``allowance``.

        Args:
            moved: (E,) m, the farthest each point goes; sag: m, from the straight line.
        """
        scene = self.scene
        way = scene.closing(end.q - begin.q)
        closer = np.minimum(scene.of_pairs(scene.of_shapes(moved)), way)
        apart = (begin.distances + end.distances - closer) / 2.0
        return (
            bool(np.all(apart > allowance.distances))
            and max(self.outside(p.tip) for p in (begin, end)) + sag <= allowance.outside
            and min(scene.lowest(p.points) for p in (begin, end)) - sag >= allowance.height
        )

    def _fault(self, pose: Pose, allowance: Allowance) -> str:
        outside = self.outside(pose.tip)
        if outside > allowance.outside:
            return f'workspace: the tip is {outside:.3f} m outside'
        height = self.scene.clearance_below(pose)
        if height < allowance.height:
            return f'table: the arm is at {height:.3f} m'
        missing = allowance.distances - pose.distances
        if not missing.size or missing.max() < 0.0:
            return ''
        pair = int(np.argmax(missing))
        code = 'obstacle' if self.scene.is_obstacle[pair] else 'self_collision'
        return f'{code}: {" and ".join(self.scene.names[pair])}'
