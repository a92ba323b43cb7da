"""Tasks: scene sampling and judging of success from ground truth, without a physics engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jepa_arm.config import ConfigError, ObstacleConfig, SimConfig, TaskConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.geometry import yaw_error
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.routes import is_blocked, obstacle_distance, shortest_route

from .scene import Scene, WorldState
from .scene_sampling import (
    OBJECT_CLEARANCE,
    OBJECT_MARGIN,
    PEG_RADIUS,
    TIP_MARGIN,
    TIP_REST_CLEARANCE,
    joints_for_tip,
    occludes,
    reachable_object_region,
    sample_blocking_obstacle,
    sample_object_colour,
    sample_obstacle_colour,
    sample_tip_position,
)

EVALUATION_SEED = 1_000_000
"""First seed of evaluation episodes; data collection never uses seeds from here on."""
MAX_TRIES = 100_000


def load_task(name: str, arm: Arm, sim: SimConfig, tolerance: float | None = None) -> Task:
    """Return the task ``config/tasks/<name>.yaml``, optionally with another ``tolerance`` (m).

    Raises:
        ConfigError: there is no such task, its file is not valid, or an episode could start
            already solved.
    """
    config = load(TaskConfig, config_path(f'tasks/{name}.yaml'))
    if tolerance is not None:
        config = replace(config, tolerance=tolerance)
    return Task(config, arm, sim)


class Task:
    """Task that samples scenes and judges success from ground truth.

    Attributes:
        config: kind, distances and tolerances.
        object_region: (2, 2) m, lower and upper bounds of the object's starts and goals.
    """

    def __init__(self, config: TaskConfig, arm: Arm, sim: SimConfig) -> None:
        """Create the task for an arm.

        Raises:
            ConfigError: the arm's workspace is too small for the task.
        """
        self.config = config
        self._arm, self._sim = arm, sim
        self.object_region = reachable_object_region(arm, config.object_min, config.object_max)
        longest = float(np.linalg.norm(self.object_region[1] - self.object_region[0]))
        if config.kind == 'push' and longest < config.distance_min:
            raise ConfigError(
                f'{config.name}.distance_min: expected less than the {longest:.2f} m across the '
                f'region of objects of {arm.config.name}, got {config.distance_min}'
            )

    @property
    def subject(self) -> str:
        """Subject of the goal: 'tip' or 'object'."""
        return 'tip' if self.config.kind == 'reach' else 'object'

    def sample(self, seed: int) -> Scene:
        """Return the scene of ``seed``: a start, and a goal at the configured distance from it."""
        rng = np.random.default_rng(seed)
        scene = self._sample(rng)
        if self.config.yaw_tolerance_deg is None:
            return scene
        return replace(scene, goal_yaw=float(rng.uniform(-np.pi, np.pi)))

    def distance(self, state: WorldState, scene: Scene) -> float:
        """Return the distance (m) from the subject to the goal; horizontal for the object."""
        return float(self.distances(state.tip_position, state.object_position, scene.goal))

    def distances(
        self, tip_positions: FloatArray, object_positions: FloatArray, goal: FloatArray
    ) -> FloatArray:
        """Return the distances (...) m to ``goal`` for positions (..., 3) m of tip and object."""
        if self.config.kind == 'push':
            return np.linalg.norm(object_positions[..., :2] - goal[:2], axis=-1)
        return np.linalg.norm(tip_positions - goal, axis=-1)

    def yaw_error(self, state: WorldState, scene: Scene) -> float:
        """Return the object's yaw error (rad) in [0, pi/4]; NaN if the scene has no goal yaw."""
        if scene.goal_yaw is None:
            return float('nan')
        return abs(float(yaw_error(state.object_yaw, scene.goal_yaw)))

    def is_reached(self, state: WorldState, scene: Scene) -> bool:
        """Return whether the distance, and the yaw error if limited, are within tolerance."""
        is_near = self.distance(state, scene) <= self.config.tolerance
        limit = self.config.yaw_tolerance_deg
        return is_near and (limit is None or self.yaw_error(state, scene) <= np.radians(limit))

    def _sample(self, rng: np.random.Generator) -> Scene:
        """Return a scene; an obstacle blocks the straight line to the goal but leaves a detour.

        Raises:
            ConfigError: no suitable scene was found.
        """
        config, arm, cube = self.config, self._arm, self._sim.object_size
        is_push = config.kind == 'push'
        is_wall = bool(config.obstacles and rng.random() < 0.5)
        obstacles: tuple[ObstacleConfig, ...] = ()
        for _ in range(MAX_TRIES):
            position = rng.uniform(*self.object_region)
            tip = sample_tip_position(arm, rng, position)
            goal_xy = rng.uniform(*self.object_region) if is_push else position
            goal_tip = sample_tip_position(arm, rng, goal_xy)
            start, goal = (position, goal_xy) if is_push else (tip, goal_tip)
            if not config.distance_min <= np.linalg.norm(goal - start) <= config.distance_max:
                continue
            if not config.obstacles:
                break
            obstacle = sample_blocking_obstacle(rng, 'obstacle', is_wall, start, goal)
            if (
                is_blocked(start, goal, [obstacle], cube / 2.0 if is_push else PEG_RADIUS)
                and self._is_clear(obstacle, (tip, goal_tip), (position, goal_xy))
                and self._has_route(start, goal, obstacle)
            ):
                obstacles = (obstacle,)
                break
        else:
            raise ConfigError(
                f'{config.name}: no scene found with room for its distances and obstacles in the '
                f'workspace of {arm.config.name}; change the workspace in config/arms or the '
                'distances'
            )
        return Scene(
            joints=joints_for_tip(arm, tip),
            object_position=position,
            object_yaw=float(rng.uniform(-np.pi, np.pi)),
            object_rgb=sample_object_colour(rng),
            goal=np.array([*goal, cube / 2.0]) if is_push else goal,
            goal_joints=joints_for_tip(arm, goal_tip),
            obstacles=obstacles,
            obstacle_rgb=sample_obstacle_colour(rng)[None] if obstacles else None,
        )

    def _is_clear(
        self,
        obstacle: ObstacleConfig,
        tips: tuple[FloatArray, FloatArray],
        positions: tuple[FloatArray, FloatArray],
    ) -> bool:
        """Return whether ``obstacle`` is clear of start and goal and does not hide the object.

        Args:
            obstacle: obstacle to check.
            tips: (3,) m, tip at the start and in the goal image.
            positions: (2,) m, object at the start and at the goal.
        """
        distances = [obstacle_distance(tip, [obstacle]) for tip in tips]
        return min(distances) >= TIP_REST_CLEARANCE and all(
            obstacle_distance(position, [obstacle]) >= OBJECT_CLEARANCE
            and not occludes(obstacle, self._arm, position)
            for position in positions
        )

    def _has_route(self, start: FloatArray, goal: FloatArray, obstacle: ObstacleConfig) -> bool:
        """Return whether a route around ``obstacle`` leads from ``start`` to ``goal`` (dim,) m."""
        margin, bounds = OBJECT_MARGIN, self.object_region
        if self.config.kind == 'reach':
            margin = TIP_MARGIN
            bounds = np.array([self._arm.workspace_min, self._arm.workspace_max])
        return shortest_route(start, goal, [obstacle], margin, bounds) is not None
