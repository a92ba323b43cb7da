"""Scene: start and goal of an episode, and the world's ground truth, for physics and tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jepa_arm.config import ConfigError, ObstacleConfig
from jepa_arm.core.types import FloatArray

DEFAULT_OBSTACLE_RGB = (0.45, 0.45, 0.47)


@dataclass(frozen=True)
class SceneObject:
    """The object on the table, upright.

    Attributes:
        shape: 'box' with a square footprint, or 'cylinder'.
        size: m, side of the footprint or diameter.
        height: m.
        mass: kg.
        friction: friction coefficient; PyBullet multiplies the coefficients of touching bodies.
    """

    shape: str
    size: float
    height: float
    mass: float
    friction: float

    def __post_init__(self) -> None:
        if self.shape not in ('box', 'cylinder'):
            raise ConfigError(f'object shape: expected box or cylinder, got {self.shape!r}')
        values = (self.size, self.height, self.mass, self.friction)
        if not all(0.0 < value < float('inf') for value in values):
            raise ConfigError(f'object: expected positive finite numbers, got {self}')

    @property
    def footprint_radius(self) -> float:
        """Distance (m) from the axis to the farthest point of the footprint."""
        return self.size / 2.0 * (np.sqrt(2.0) if self.shape == 'box' else 1.0)


@dataclass(frozen=True)
class Scene:
    """The start and the goal of an episode.

    Attributes:
        joints: (J,) rad, the arm at the start, at rest.
        object_position: (2,) m, centre of the object on the table, base frame.
        object_yaw: rad.
        object_rgb: (3,) in [0, 1].
        goal: (3,) m, goal position of the tip or of the object.
        goal_joints: (J,) rad, the arm in the goal image.
        scene_object: the object; None: the cube of ``config/sim.yaml``.
        obstacles: N fixed obstacles.
        obstacle_rgb: (N, 3) in [0, 1]; None: grey.
        goal_yaw: rad, yaw of the object at its goal; None: any yaw will do.
    """

    joints: FloatArray
    object_position: FloatArray
    object_yaw: float
    object_rgb: FloatArray
    goal: FloatArray
    goal_joints: FloatArray
    scene_object: SceneObject | None = None
    obstacles: tuple[ObstacleConfig, ...] = ()
    obstacle_rgb: FloatArray | None = None
    goal_yaw: float | None = None


def with_obstacles(scene: Scene, declared: tuple[ObstacleConfig, ...]) -> Scene:
    """Return ``scene`` with the ``declared`` obstacles, in grey, ahead of its own obstacles."""
    if not declared:
        return scene
    rgb = np.zeros((0, 3)) if scene.obstacle_rgb is None else scene.obstacle_rgb
    grey = np.tile(DEFAULT_OBSTACLE_RGB, (len(declared) + len(scene.obstacles) - len(rgb), 1))
    obstacles = declared + scene.obstacles
    return replace(scene, obstacles=obstacles, obstacle_rgb=np.vstack([grey, rgb]))


@dataclass(frozen=True)
class WorldState:
    """Ground truth for scripted policies, labels and evaluation, but never for the planner.

    Attributes:
        joints: (J,) rad.
        joint_velocity: (J,) rad/s.
        tip_position: (3,) m.
        object_position: (3,) m.
        object_quaternion: (4,) xyzw.
        contact: True if the arm touches the object.
        time: s since the reset.
        object_touches_obstacle: True if the object touches an obstacle.
    """

    joints: FloatArray
    joint_velocity: FloatArray
    tip_position: FloatArray
    object_position: FloatArray
    object_quaternion: FloatArray
    contact: bool
    time: float
    object_touches_obstacle: bool = False

    @property
    def object_yaw(self) -> float:
        """Rotation of the object about base z (rad)."""
        x, y, z, w = self.object_quaternion
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
