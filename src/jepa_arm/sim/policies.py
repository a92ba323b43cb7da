"""Policies that act on ground truth: scripted reaching and pushing, and the random baseline.

Each maps the state and the tip target to an action of ``TipMotion``. The tip target is the last
commanded tip position; the tip follows it about a control step later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jepa_arm.config import ObstacleConfig
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.action_space import ACTION_METRES

from .obstacle_routes import ObstacleRoutes
from .scene import SceneObject, WorldState

CONTACT_DISTANCE = 0.042
"""Distance (m) between the tip and the object's centre when the tip touches a face."""
STAND_OFF, NEAR_STAND_OFF = 0.075, 0.060
"""Distances (m) of the tip from the object's centre before a push: usual, and in narrow places."""
ORBIT_RADIUS, ORBIT_STEP = 0.088, 0.28
"""Radius (m), and angle (rad) per control step, of the tip's path around the object."""
SAFE_HEIGHT = 0.085
PUSH_HEIGHT = 0.018
"""Heights (m) of the tip: to pass above the object, and to push it."""
CUBE_HALF, CUBE_FOOTPRINT_RADIUS = 0.025, 0.0354
"""Half the side and half the diagonal (m) of the standard cube; the distances above fit it."""
PUSH_YAWS = (0.0, 0.4, -0.4, 0.8, -0.8, 1.2, -1.2)
"""Angles (rad) between push and route, in the order in which they are tried."""


class Policy(Protocol):
    """A policy that acts on ground truth."""

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Return an action (3,) in [-1, 1] for the state and the tip target (3,) m."""
        ...


def to_action(target: FloatArray, xy: FloatArray, z: float) -> FloatArray:
    """Return the action (3,) in [-1, 1] that moves the tip's setpoint towards a position.

    Args:
        target: (3,) m, the tip's present setpoint.
        xy: (2,) m, horizontal coordinates of the position.
        z: m, height of the position.
    """
    return np.clip((np.array([*xy, z]) - target) / ACTION_METRES, -1.0, 1.0)


@dataclass
class ScriptedReach:
    """Policy that moves the tip to a goal.

    Attributes:
        goal: (3,) m.
        routes: obstacles to avoid; None: the tip moves straight.
    """

    goal: FloatArray
    routes: ObstacleRoutes | None = None

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Return the action towards the goal."""
        place = self.routes.next_tip_position(target, self.goal) if self.routes else self.goal
        return np.clip((place - target) / ACTION_METRES, -1.0, 1.0)


@dataclass
class ScriptedPush:
    """Policy that pushes the object to a goal from behind.

    Attributes:
        goal: (2,) m.
        tolerance: m, distance from the goal within which the object is left alone.
        routes: obstacles that neither the object nor the tip may touch.
        scene_object: the object; None: a cube of 5 cm.
    """

    goal: FloatArray
    tolerance: float = 0.006
    routes: ObstacleRoutes | None = None
    scene_object: SceneObject | None = None

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Return the action of the current phase: wait, go behind the object, or push."""
        centre = state.object_position[:2]
        to_goal = self.goal[:2] - centre
        distance = float(np.linalg.norm(to_goal))
        if distance < self.tolerance:
            return np.zeros(3)
        heading = to_goal / distance
        if self.routes:
            heading, distance = self._heading_on_route(self.routes, centre)
        tip = state.tip_position[:2]
        along = float((tip - centre) @ heading)
        across = (tip - centre) - along * heading
        is_low = state.tip_position[2] < PUSH_HEIGHT + 0.012
        if is_low and along < -0.02 and np.linalg.norm(across) < 0.012:
            gap = max(0.0, -along - CONTACT_DISTANCE - self._extra_half_width)
            lead = float((target[:2] - tip) @ heading)
            advance = min(gap + distance - lead, ACTION_METRES)
            step = advance * heading - across
            action = to_action(target, target[:2] + step, PUSH_HEIGHT)
        elif self.routes:
            action = self._go_behind_on_route(self.routes, state, target, heading)
        else:
            action = self._go_behind(target, centre, heading)
        if self.routes is None:
            return action
        return self.routes.deflect(state.tip_position, target, action)

    @property
    def _extra_half_width(self) -> float:
        """Half width of the object minus that of the standard cube, m."""
        return 0.0 if self.scene_object is None else self.scene_object.size / 2.0 - CUBE_HALF

    def _go_behind(
        self, target: FloatArray, centre: FloatArray, heading: FloatArray
    ) -> FloatArray:
        """Return the action towards the place behind the object, around the object if needed."""
        stand_off = STAND_OFF + self._extra_half_width
        behind = centre - stand_off * heading
        offset = target[:2] - centre
        radius = float(np.linalg.norm(offset))
        if target[2] > SAFE_HEIGHT:
            may_descend = radius > stand_off - 0.012 and np.linalg.norm(target[:2] - behind) < 0.05
            return to_action(target, behind, PUSH_HEIGHT if may_descend else target[2])
        if radius < stand_off - 0.02:
            outward = offset / max(radius, 1e-6)
            return to_action(target, target[:2] + 0.025 * outward, target[2])
        way = behind - target[:2]
        if distance_to_segment(centre, target[:2], behind) < stand_off - 0.012:
            angle = np.arctan2(offset[1], offset[0])
            goal_angle = np.arctan2(-heading[1], -heading[0])
            rotation = (goal_angle - angle + np.pi) % (2 * np.pi) - np.pi
            angle += np.clip(rotation, -ORBIT_STEP, ORBIT_STEP)
            orbit = ORBIT_RADIUS + self._extra_half_width
            way = centre + orbit * np.array([np.cos(angle), np.sin(angle)]) - target[:2]
        return to_action(target, target[:2] + way, PUSH_HEIGHT)

    def _heading_on_route(
        self, routes: ObstacleRoutes, centre: FloatArray
    ) -> tuple[FloatArray, float]:
        """Return the direction (2,) of the next push, and the length (m) of the object's route.

        The direction deviates from the route if there is no room for the tip behind the object.
        """
        extra = 0.0
        if self.scene_object is not None:
            extra = self.scene_object.footprint_radius - CUBE_FOOTPRINT_RADIUS
        place, length = routes.next_object_position(centre, self.goal[:2], extra)
        straight = (place - centre) / max(float(np.linalg.norm(place - centre)), 1e-9)
        for yaw in PUSH_YAWS:
            heading = rotated(straight, yaw)
            if self._place_behind(routes, centre, heading) is not None:
                return heading, length
        return straight, length

    def _place_behind(
        self, routes: ObstacleRoutes, centre: FloatArray, heading: FloatArray
    ) -> FloatArray | None:
        """Return a free tip position (3,) m behind the object with a clear path to the object."""
        middle = np.array([*centre, PUSH_HEIGHT])
        for stand_off in (STAND_OFF, NEAR_STAND_OFF):
            place = np.array(
                [*centre - (stand_off + self._extra_half_width) * heading, PUSH_HEIGHT]
            )
            if routes.is_tip_free(place) and routes.is_tip_path_clear(place, middle):
                return place
        return None

    def _go_behind_on_route(
        self, routes: ObstacleRoutes, state: WorldState, target: FloatArray, heading: FloatArray
    ) -> FloatArray:
        """Return the action along the tip's shortest route, around the object, to behind it."""
        size = 2.0 * (CUBE_HALF + self._extra_half_width)
        height = size if self.scene_object is None else self.scene_object.height
        x, y = map(float, state.object_position[:2])
        itself = ObstacleConfig(
            'object', 'box', (size, size, height), (x, y, height / 2.0), (0, 0, state.object_yaw)
        )
        centre = state.object_position[:2]
        behind = self._place_behind(routes, centre, heading)
        if behind is None:
            behind = np.array([*centre - STAND_OFF * heading, PUSH_HEIGHT])
        place = routes.next_tip_position(target, behind, (itself,))
        return to_action(target, place[:2], float(place[2]))


class OrnsteinUhlenbeckNoise:
    """Correlated noise (3,) with stationary standard deviation ``sigma``."""

    def __init__(self, rng: np.random.Generator, sigma: float, decay: float = 0.8) -> None:
        self._rng, self._sigma, self._decay = rng, sigma, decay
        self._value = rng.normal(0.0, sigma, 3)

    def next(self) -> FloatArray:
        """Advance the process by one step and return its value (3,)."""
        kick = self._sigma * np.sqrt(1.0 - self._decay**2)
        self._value = self._decay * self._value + self._rng.normal(0.0, kick, 3)
        return self._value


class RandomWalk:
    """Baseline policy of every comparison: smooth random actions that ignore the goal."""

    def __init__(self, rng: np.random.Generator, sigma: float = 0.6) -> None:
        self._noise = OrnsteinUhlenbeckNoise(rng, sigma)

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Return the next random action."""
        return np.clip(self._noise.next(), -1.0, 1.0)


def distance_to_segment(point: FloatArray, start: FloatArray, end: FloatArray) -> float:
    """Return the distance (m) of ``point`` from the segment ``start`` to ``end``, all (2,) m."""
    way = end - start
    fraction = np.clip((point - start) @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
    return float(np.linalg.norm(point - start - fraction * way))


def rotated(vectors: FloatArray, angles: FloatArray | float) -> FloatArray:
    """Return ``vectors`` (..., 2) rotated by ``angles`` (...) rad."""
    cos, sin = np.cos(angles), np.sin(angles)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
