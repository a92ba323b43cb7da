"""What may stand on the table: posts and walls that are fixed, things that can be pushed."""

from __future__ import annotations

import numpy as np

from ..arm import Arm
from ..config import ObstacleConfig
from ..routes import distance, is_blocked
from ..types import FloatArray
from .world import Thing

PEG_RADIUS = 0.012
"""m."""
TIP_MARGIN = 0.032
"""m, what ways of the tip keep from obstacles: the peg, what the guard keeps, and some."""
THING_MARGIN = 0.048
"""m, what ways of an object keep: half the diagonal of the cube, and some."""
TIP_ROOM = 0.045
"""m, least distance of a tip at rest from an obstacle: peg, guard and some room."""
THING_ROOM = 0.085
"""m, least distance of an object's centre from an obstacle at start and goal, for the peg."""
TRIES = 60


def sample_obstacle(
    rng: np.random.Generator, name: str, is_wall: bool, low: FloatArray, high: FloatArray
) -> ObstacleConfig:
    """A wall or a post of any yaw that stands between ``low`` and ``high`` (2,) m."""
    if not is_wall:
        side, height = rng.uniform([0.04, 0.08], [0.06, 0.14])
        size = (float(side), float(side), float(height))
    else:
        width, length, height = rng.uniform([0.02, 0.12, 0.06], [0.03, 0.18, 0.12])
        size = (float(width), float(length), float(height))
    x, y = rng.uniform(low, high)
    yaw = float(rng.uniform(-np.pi, np.pi))
    return ObstacleConfig(name, 'box', size, (float(x), float(y), size[2] / 2.0), (0.0, 0.0, yaw))


def sample_in_the_way(
    rng: np.random.Generator, name: str, is_wall: bool, start: FloatArray, goal: FloatArray
) -> ObstacleConfig:
    """A wall or a post somewhere on the straight line from ``start`` to ``goal`` (dim,) m."""
    share = rng.uniform(0.25, 0.75)
    centre = (start + share * (goal - start))[:2] + rng.normal(0.0, 0.012, 2)
    return sample_obstacle(rng, name, is_wall, centre, centre)


def sample_grey(rng: np.random.Generator) -> FloatArray:
    """(3,) RGB in [0, 1] from dark to white, almost without a hue."""
    return np.clip(rng.uniform(0.12, 0.95) + rng.uniform(-0.03, 0.03, 3), 0.0, 1.0)


def sample_thing(rng: np.random.Generator) -> Thing:
    """A box or a cylinder of any size, mass and friction."""
    shape = 'box' if rng.random() < 0.5 else 'cylinder'
    low, high = [0.04, 0.04, 0.05, 0.5], [0.06, 0.06, 0.30, 1.0]
    size, height, mass, friction = map(float, rng.uniform(low, high))
    return Thing(shape, size, height, mass, friction)


def sample_around(
    arm: Arm,
    rng: np.random.Generator,
    tip: FloatArray,
    position: FloatArray,
) -> tuple[ObstacleConfig, ...]:
    """One or two posts or walls clear of each other, of ``tip`` (3,) and object (2,) m.

    Seldom fewer, where there is no room.
    """
    found: list[ObstacleConfig] = []
    for i in range(int(rng.integers(1, 3))):
        is_wall = bool(rng.random() < 0.5)
        for _ in range(TRIES):
            low, high = arm.workspace_min[:2], arm.workspace_max[:2]
            new = sample_obstacle(rng, f'obstacle_{i}', is_wall, low, high)
            is_clear = distance(tip, [new]) > TIP_ROOM and distance(position, [new]) > 0.06
            if is_clear and not _overlap(new, found):
                found.append(new)
                break
    return tuple(found)


def hides(obstacle: ObstacleConfig, arm: Arm, position: FloatArray) -> bool:
    """Whether the camera cannot see an object's middle at ``position`` (2,) m for it."""
    camera = np.array(arm.config.camera.position)
    return is_blocked(camera, np.array([*position, 0.03]), [obstacle], 0.01)


def _overlap(new: ObstacleConfig, others: list[ObstacleConfig]) -> bool:
    """Whether an obstacle's outline comes nearer than 3 cm to others."""
    half, yaw = np.array(new.size[:2]) / 2.0, new.rpy[2]
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    grid = np.array([[i, j] for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)])
    points = (grid * half) @ turn.T + np.array(new.xyz[:2])
    return any(distance(point, others) < 0.03 for point in points)
