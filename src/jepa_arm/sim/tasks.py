"""What is asked of the virtual arm: start, goal and success. Knows no physics engine."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..angles import yaw_error
from ..arm import Arm
from ..config import ConfigError, ObstacleConfig, SimConfig, TaskConfig, load
from ..resources import config_path
from ..routes import distance, is_blocked, route
from ..types import FloatArray
from .obstacles import (
    PEG_RADIUS,
    THING_MARGIN,
    THING_ROOM,
    TIP_MARGIN,
    TIP_ROOM,
    hides,
    sample_grey,
    sample_in_the_way,
)
from .world import Scene, WorldState

EVALUATION_SEED = 1_000_000
"""Evaluation episodes use seeds from here on; data collection never does."""

ROOM = 0.04
"""m, least horizontal distance of an object's centre from the edge of the tip's workspace."""
MOST_TRIES = 100_000
TIP_CLEARANCE = 0.075
"""m, least horizontal distance between a low tip and the object at reset."""


def load_task(name: str, arm: Arm, sim: SimConfig, tolerance: float | None = None) -> Task:
    """The task ``config/tasks/<name>.yaml``, with another ``tolerance`` (m) if one is given.

    Raises:
        ConfigError: no such task, its file is not valid, or starts would be solved already.
    """
    config = load(TaskConfig, config_path(f'tasks/{name}.yaml'))
    if tolerance is not None:
        config = replace(config, tolerance=tolerance)
    return Task(config, arm, sim)


class Task:
    """Samples scenes and judges success from ground truth."""

    def __init__(self, config: TaskConfig, arm: Arm, sim: SimConfig) -> None:
        self.config = config
        self._arm = arm
        self._sim = sim
        self._region = object_region(arm, config.object_min, config.object_max)
        longest = float(np.linalg.norm(self._region[1] - self._region[0]))
        if config.kind == 'push' and longest < config.distance_min:
            raise ConfigError(
                f'{config.name}.distance_min: expected less than the {longest:.2f} m across the '
                f'region of objects of {arm.config.name}, got {config.distance_min}'
            )

    @property
    def region(self) -> FloatArray:
        """(2, 2) m, where objects lie."""
        return self._region

    @property
    def subject(self) -> str:
        """What the goal is for: 'tip' or 'object'."""
        return 'tip' if self.config.kind == 'reach' else 'object'

    def sample(self, seed: int) -> Scene:
        """A scene with a start and a goal at the configured distance; the same for a seed."""
        rng = np.random.default_rng(seed)
        if self.config.obstacles:
            return self._sample_avoiding(rng)
        scene = self._sample_free(rng)
        if self.config.yaw_tolerance_deg is None:
            return scene
        return replace(scene, goal_yaw=float(rng.uniform(-np.pi, np.pi)))

    def _sample_free(self, rng: np.random.Generator) -> Scene:
        """A scene without obstacles."""
        while True:
            position = rng.uniform(*self._region)
            tip = sample_tip(self._arm, rng, position)
            if self.config.kind == 'push':
                goal_xy = rng.uniform(*self._region)
                goal = np.array([*goal_xy, self._sim.object_size / 2.0])
                distance = float(np.linalg.norm(goal_xy - position))
                goal_tip = sample_tip(self._arm, rng, goal_xy)
            else:
                goal = goal_tip = sample_tip(self._arm, rng, position)
                distance = float(np.linalg.norm(goal - tip))
            if self.config.distance_min <= distance <= self.config.distance_max:
                break
        return Scene(
            joints=joints_at(self._arm, tip),
            object_position=position,
            object_yaw=float(rng.uniform(-np.pi, np.pi)),
            object_rgb=sample_colour(rng),
            goal=goal,
            goal_joints=joints_at(self._arm, goal_tip),
        )

    def _sample_avoiding(self, rng: np.random.Generator) -> Scene:
        """A scene with an obstacle on the straight line from start to goal, and a way round it.

        Raises:
            ConfigError: none was found.
        """
        config, arm, cube = self.config, self._arm, self._sim.object_size
        is_wall = bool(rng.random() < 0.5)
        for _ in range(MOST_TRIES):
            position = rng.uniform(*self._region)
            tip = sample_tip(arm, rng, position)
            goal_xy = rng.uniform(*self._region) if config.kind == 'push' else position
            goal_tip = sample_tip(arm, rng, goal_xy)
            start, goal, margin = tip, goal_tip, PEG_RADIUS
            if config.kind == 'push':
                start, goal, margin = position, goal_xy, cube / 2.0
            if not config.distance_min <= np.linalg.norm(goal - start) <= config.distance_max:
                continue
            obstacle = sample_in_the_way(rng, 'obstacle', is_wall, start, goal)
            if (
                is_blocked(start, goal, [obstacle], margin)
                and self._has_room(obstacle, (tip, goal_tip), (position, goal_xy))
                and self._is_possible(start, goal, obstacle)
            ):
                break
        else:
            raise ConfigError(
                f'{config.name}: no scene found with room for an obstacle in the workspace of '
                f'{arm.config.name}; change the workspace in config/arms or the distances'
            )
        return Scene(
            joints=joints_at(arm, tip),
            object_position=position,
            object_yaw=float(rng.uniform(-np.pi, np.pi)),
            object_rgb=sample_colour(rng),
            goal=np.array([*goal, cube / 2.0]) if config.kind == 'push' else goal,
            goal_joints=joints_at(arm, goal_tip),
            obstacles=(obstacle,),
            obstacle_rgb=sample_grey(rng)[None],
        )

    def _has_room(
        self,
        obstacle: ObstacleConfig,
        tips: tuple[FloatArray, FloatArray],
        places: tuple[FloatArray, FloatArray],
    ) -> bool:
        """Whether ``tips`` (3,) and ``places`` (2,) m of the object are clear of ``obstacle``.

        The object is in the camera's view there.
        """
        return (
            all(distance(tip, [obstacle]) >= TIP_ROOM for tip in tips)
            and all(distance(place, [obstacle]) >= THING_ROOM for place in places)
            and not any(hides(obstacle, self._arm, place) for place in places)
        )

    def _is_possible(self, start: FloatArray, goal: FloatArray, obstacle: ObstacleConfig) -> bool:
        """Whether a way round ``obstacle`` leads from ``start`` to ``goal`` (dim,) m."""
        if self.config.kind == 'push':
            return route(start, goal, [obstacle], THING_MARGIN, self._region) is not None
        bounds = np.array([self._arm.workspace_min, self._arm.workspace_max])
        return route(start, goal, [obstacle], TIP_MARGIN, bounds) is not None

    def distance(self, state: WorldState, scene: Scene) -> float:
        """m from the task's subject to the goal; on the table plane for the object."""
        return float(self.distances(state.tip_position, state.object_position, scene.goal))

    def distances(self, tip: FloatArray, thing: FloatArray, goal: FloatArray) -> FloatArray:
        """(...) m, as ``distance``, of places (..., 3) of the tip and the object."""
        if self.config.kind == 'push':
            return np.linalg.norm(thing[..., :2] - goal[:2], axis=-1)
        return np.linalg.norm(tip - goal, axis=-1)

    def yaw_error(self, state: WorldState, scene: Scene) -> float:
        """rad in [0, pi/4] from the object's yaw to the scene's; NaN where none is asked."""
        if scene.goal_yaw is None:
            return float('nan')
        return abs(float(yaw_error(state.object_yaw, scene.goal_yaw)))

    def is_reached(self, state: WorldState, scene: Scene) -> bool:
        """Whether the distance, and the yaw where one is asked, are within the tolerances."""
        is_there = self.distance(state, scene) <= self.config.tolerance
        most = self.config.yaw_tolerance_deg
        return is_there and (most is None or self.yaw_error(state, scene) <= np.radians(most))


def object_region(arm: Arm, low: Sequence[float], high: Sequence[float]) -> FloatArray:
    """(2, 2) m, where the tip can go round objects in the region ``low`` to ``high`` (x, y).

    Raises:
        ConfigError: nothing is left of it.
    """
    least = np.maximum(low, arm.workspace_min[:2] + ROOM)
    most = np.minimum(high, arm.workspace_max[:2] - ROOM)
    if np.any(least >= most):
        raise ConfigError(
            f'objects lie in {tuple(low)} .. {tuple(high)}, outside the workspace of '
            f'{arm.config.name}; change the workspace in config/arms or the region of the objects'
        )
    return np.array([least, most])


def sample_tip(arm: Arm, rng: np.random.Generator, object_position: FloatArray) -> FloatArray:
    """(3,) m, a tip position in the workspace, half of them low, clear of the object."""
    while True:
        tip = rng.uniform(arm.workspace_min, arm.workspace_max)
        if rng.random() < 0.5:
            tip[2] = rng.uniform(arm.workspace_min[2], arm.workspace_min[2] + 0.02)
        is_high = tip[2] > 0.10
        if is_high or np.linalg.norm(tip[:2] - object_position) > TIP_CLEARANCE:
            return tip


def sample_colour(rng: np.random.Generator) -> FloatArray:
    """(3,) RGB in [0, 1], any hue, clearly coloured."""
    hue, saturation, value = rng.uniform([0.0, 0.65, 0.45], [1.0, 1.0, 1.0])
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def joints_at(arm: Arm, tip: FloatArray) -> FloatArray:
    """(J,) rad, the arm's posture with the tip at ``tip`` (3,) m and the tool down."""
    joints, error = arm.ik(tip, arm.home, iterations=60)
    if error > 1e-3:
        raise ConfigError(
            f'{arm.config.name} cannot bring its tip to {np.round(tip, 3)} with the tool down '
            f'({error * 100:.1f} cm short); shrink the workspace in config/arms'
        )
    return joints
