"""Scene sampling: random tip positions, objects, obstacles and colours.

The order of the random draws is part of the interface: a seed must keep giving the same scene.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from jepa_arm.config import ConfigError, ObstacleConfig
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.routes import is_blocked, obstacle_distance

from .scene import SceneObject

PEG_RADIUS = 0.012
"""m, radius of the peg."""
TIP_MARGIN = 0.032
"""m, distance of the tip's paths from obstacles: peg radius, guard clearance and a reserve."""
OBJECT_MARGIN = 0.048
"""m, distance of an object's paths from obstacles: half the cube's diagonal and a reserve."""
TIP_REST_CLEARANCE = 0.045
"""m, smallest distance of a tip at rest from an obstacle: ``TIP_MARGIN`` and a reserve."""
OBJECT_CLEARANCE = 0.085
"""m, smallest distance of an object's centre from an obstacle at start and goal, so that the peg
fits between them."""
TIP_CLEARANCE = 0.075
"""m, smallest horizontal distance at reset between the object and a tip that is not high."""
LOW_TIP_RANGE, HIGH_TIP = 0.02, 0.10
"""m, range of a low tip above the workspace's bottom, and z above which a tip is high."""
WORKSPACE_MARGIN = 0.04
"""m, smallest distance of an object's centre from the edge of the tip's workspace."""
OBSTACLE_OBJECT_CLEARANCE, OBSTACLE_SPACING = 0.06, 0.03
"""m, smallest distances of a random obstacle from the object and from another obstacle."""
OBSTACLE_TRIES = 60
OBJECT_VIEW_HEIGHT, VIEW_MARGIN = 0.03, 0.01
"""m, height of an object's point that must be visible, and obstacle distance of its sight line."""


def reachable_object_region(arm: Arm, low: Sequence[float], high: Sequence[float]) -> FloatArray:
    """Return the part of a region in which the tip can move all around an object.

    Args:
        arm: arm with its workspace.
        low, high: (x, y) m, corners of the region.

    Returns:
        (2, 2) m, the corners with the lowest and the highest coordinates.

    Raises:
        ConfigError: the region lies outside the workspace.
    """
    lowest = np.maximum(low, arm.workspace_min[:2] + WORKSPACE_MARGIN)
    highest = np.minimum(high, arm.workspace_max[:2] - WORKSPACE_MARGIN)
    if np.any(lowest >= highest):
        raise ConfigError(
            f'objects lie in {tuple(low)} .. {tuple(high)}, outside the workspace of '
            f'{arm.config.name}; change the workspace in config/arms or the region of the objects'
        )
    return np.array([lowest, highest])


def sample_tip_position(
    arm: Arm, rng: np.random.Generator, object_position: FloatArray
) -> FloatArray:
    """Return a tip position (3,) m in the workspace, clear of the object; half of them are low."""
    while True:
        tip = rng.uniform(arm.workspace_min, arm.workspace_max)
        if rng.random() < 0.5:
            tip[2] = rng.uniform(arm.workspace_min[2], arm.workspace_min[2] + LOW_TIP_RANGE)
        is_high = tip[2] > HIGH_TIP
        if is_high or np.linalg.norm(tip[:2] - object_position) > TIP_CLEARANCE:
            return tip


def joints_for_tip(arm: Arm, tip: FloatArray) -> FloatArray:
    """Return joints (J,) rad with the tip at ``tip`` (3,) m and the tool pointing down.

    Raises:
        ConfigError: the arm does not reach ``tip``.
    """
    joints, error = arm.ik(tip, arm.home, iterations=60)
    if error > 1e-3:
        raise ConfigError(
            f'{arm.config.name} cannot bring its tip to {np.round(tip, 3)} with the tool down '
            f'({error * 100:.1f} cm short); shrink the workspace in config/arms'
        )
    return joints


def sample_object(rng: np.random.Generator) -> SceneObject:
    """Return a box or a cylinder of random size, mass and friction."""
    shape = 'box' if rng.random() < 0.5 else 'cylinder'
    low, high = [0.04, 0.04, 0.05, 0.5], [0.06, 0.06, 0.30, 1.0]
    size, height, mass, friction = map(float, rng.uniform(low, high))
    return SceneObject(shape, size, height, mass, friction)


def sample_object_colour(rng: np.random.Generator) -> FloatArray:
    """Return a saturated colour of any hue, (3,) RGB in [0, 1]."""
    hue, saturation, value = rng.uniform([0.0, 0.65, 0.45], [1.0, 1.0, 1.0])
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def sample_obstacle_colour(rng: np.random.Generator) -> FloatArray:
    """Return an almost grey colour between dark and white, (3,) RGB in [0, 1]."""
    return np.clip(rng.uniform(0.12, 0.95) + rng.uniform(-0.03, 0.03, 3), 0.0, 1.0)


def sample_obstacle(
    rng: np.random.Generator, name: str, is_wall: bool, low: FloatArray, high: FloatArray
) -> ObstacleConfig:
    """Return a wall or post of any yaw with its centre between ``low`` and ``high`` (2,) m."""
    if not is_wall:
        side, height = rng.uniform([0.04, 0.08], [0.06, 0.14])
        size = (float(side), float(side), float(height))
    else:
        width, length, height = rng.uniform([0.02, 0.12, 0.06], [0.03, 0.18, 0.12])
        size = (float(width), float(length), float(height))
    x, y = rng.uniform(low, high)
    yaw = float(rng.uniform(-np.pi, np.pi))
    return ObstacleConfig(name, 'box', size, (float(x), float(y), size[2] / 2.0), (0.0, 0.0, yaw))


def sample_blocking_obstacle(
    rng: np.random.Generator, name: str, is_wall: bool, start: FloatArray, goal: FloatArray
) -> ObstacleConfig:
    """Return a wall or a post near the straight line from ``start`` to ``goal`` (dim,) m."""
    fraction = rng.uniform(0.25, 0.75)
    centre = (start + fraction * (goal - start))[:2] + rng.normal(0.0, 0.012, 2)
    return sample_obstacle(rng, name, is_wall, centre, centre)


def sample_obstacles(
    arm: Arm, rng: np.random.Generator, tip: FloatArray, position: FloatArray
) -> tuple[ObstacleConfig, ...]:
    """Return one or two posts or walls that are clear of each other, tip and object.

    Fewer are returned if no free place is found.

    Args:
        arm: arm with its workspace.
        rng: source of random numbers.
        tip: (3,) m, position of the tip.
        position: (2,) m, position of the object.
    """
    found: list[ObstacleConfig] = []
    for i in range(int(rng.integers(1, 3))):
        is_wall = bool(rng.random() < 0.5)
        for _ in range(OBSTACLE_TRIES):
            low, high = arm.workspace_min[:2], arm.workspace_max[:2]
            new = sample_obstacle(rng, f'obstacle_{i}', is_wall, low, high)
            is_clear_of_tip = obstacle_distance(tip, [new]) > TIP_REST_CLEARANCE
            if (
                is_clear_of_tip
                and obstacle_distance(position, [new]) > OBSTACLE_OBJECT_CLEARANCE
                and not _is_crowded(new, found)
            ):
                found.append(new)
                break
    return tuple(found)


def occludes(obstacle: ObstacleConfig, arm: Arm, position: FloatArray) -> bool:
    """Return whether ``obstacle`` hides the centre of an object at ``position`` (2,) m."""
    camera = np.array(arm.config.camera.position)
    centre = np.array([*position, OBJECT_VIEW_HEIGHT])
    return is_blocked(camera, centre, [obstacle], VIEW_MARGIN)


def _is_crowded(new: ObstacleConfig, others: list[ObstacleConfig]) -> bool:
    """Return whether ``new`` is closer to another obstacle than ``OBSTACLE_SPACING``."""
    half, yaw = np.array(new.size[:2]) / 2.0, new.rpy[2]
    rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    grid = np.array([[i, j] for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)])
    points = (grid * half) @ rotation.T + np.array(new.xyz[:2])
    return any(obstacle_distance(point, others) < OBSTACLE_SPACING for point in points)
