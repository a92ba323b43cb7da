"""Play policy: undirected behaviour that moves the object often, for collecting data."""

from __future__ import annotations

import numpy as np

from jepa_arm.core.types import FloatArray
from jepa_arm.robot.action_space import ACTION_METRES
from jepa_arm.robot.arm import Arm

from .obstacle_routes import ObstacleRoutes
from .policies import (
    CUBE_HALF,
    PUSH_HEIGHT,
    OrnsteinUhlenbeckNoise,
    ScriptedPush,
    ScriptedReach,
)
from .scene import Scene, WorldState
from .scene_sampling import sample_tip_position

MODES = {'reach': 0.05, 'push': 0.80, 'roam': 0.15}
"""Shares of the episodes in which the tip moves between goals in 3-D, pushes the object, or moves
randomly at pushing height, attracted by the object."""
PUSH_SIGMAS, ROAM_SIGMA = (0.1, 0.25, 0.5), 0.7
"""Standard deviations of the action noise."""
TIP_GOAL_SHARE = 0.2
"""Share of the goals in a push episode that are goals for the tip, not for the object."""
OVER_OBJECT_SHARE = 0.25
"""Share of the tip's goals that are on or above the object."""
REST_PROBABILITY = 0.015
"""Probability that a rest begins at a control step."""
REST_BETWEEN_GOALS_PROBABILITY = 0.3
AHEAD_SHARE = 0.85
"""Share of the pushes aimed roughly from the tip through the object: the tip need not go around it
first, so the object moves often."""
CARELESS_SHARE = 0.3
"""Share of the pushes whose goals may lie at or in an obstacle."""
STEPS_PER_GOAL = 60
GOAL_TOLERANCE, MIN_PUSH = 0.015, 0.05
"""Distance (m) within which a goal is reached, and shortest push (m)."""
PRESSING_LEAD = 0.03
"""Lead (m) of the target over the tip beyond which the tip counts as blocked."""


class PlayPolicy:
    """Policy with one random behaviour (``MODES``) and one noise level per episode.

    Between pushes the tip occasionally visits other places, also above the object. It may rest at
    any time: if the data showed rest only after success, rest would look like success. The tip
    avoids obstacles and pushes around them; occasionally it pushes the object against one.
    """

    def __init__(
        self, arm: Arm, rng: np.random.Generator, object_region: FloatArray, scene: Scene
    ) -> None:
        """Draw the behaviour of an episode.

        Args:
            arm: arm with its workspace.
            rng: source of all random numbers.
            object_region: (2, 2) m, lower and upper bounds of the object's goals.
            scene: start of the episode.
        """
        self._arm, self._rng, self._region = arm, rng, object_region
        self._scene_object = scene.scene_object
        workspace = np.array([arm.workspace_min, arm.workspace_max])
        self._routes: ObstacleRoutes | None = None
        if scene.obstacles:
            self._routes = ObstacleRoutes(scene.obstacles, workspace, object_region)
        self._mode = rng.choice([*MODES], p=[*MODES.values()])
        sigma = ROAM_SIGMA if self._mode == 'roam' else float(rng.choice([*PUSH_SIGMAS]))
        self._noise = OrnsteinUhlenbeckNoise(rng, sigma)
        self._policy: ScriptedReach | ScriptedPush | None = None
        self._rest_steps = self._steps_left = 0

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Return the next action (3,) for the state and the tip target (3,) m."""
        action = self._play(state, target)
        if self._routes is None:
            return action
        return self._routes.deflect(state.tip_position, target, action)

    def _play(self, state: WorldState, target: FloatArray) -> FloatArray:
        if self._rest_steps == 0 and self._rng.random() < REST_PROBABILITY:
            self._rest_steps = int(self._rng.integers(2, 12))
        if self._rest_steps > 0:
            self._rest_steps -= 1
            return np.zeros(3)
        if self._mode == 'roam':
            return self._roam(state, target)
        if self._policy is None or self._steps_left == 0 or self._is_over(state, target):
            if self._policy is not None and self._rng.random() < REST_BETWEEN_GOALS_PROBABILITY:
                self._rest_steps = int(self._rng.integers(2, 8))
            self._policy = self._new_policy(state)
            self._steps_left = STEPS_PER_GOAL
        self._steps_left -= 1
        return np.clip(self._policy.act(state, target) + self._noise.next(), -1.0, 1.0)

    def _roam(self, state: WorldState, target: FloatArray) -> FloatArray:
        pull = np.clip((state.object_position - target) / ACTION_METRES, -1.0, 1.0) * 0.5
        pull[2] = np.clip((PUSH_HEIGHT - target[2]) / ACTION_METRES, -1.0, 1.0)
        noise = self._noise.next() * (1.0, 1.0, 0.1)
        return np.clip(pull + noise, -1.0, 1.0)

    def _new_policy(self, state: WorldState) -> ScriptedReach | ScriptedPush:
        if self._mode == 'reach' or self._rng.random() < TIP_GOAL_SHARE:
            return ScriptedReach(self._sample_tip_goal(state), self._routes)
        goal = self._sample_push_goal(state)
        return ScriptedPush(goal, routes=self._routes, scene_object=self._scene_object)

    def _sample_tip_goal(self, state: WorldState) -> FloatArray:
        """Return a goal (3,) m of the tip, clear of obstacles if such is found in 20 tries."""
        goal = self._sample_any_tip_goal(state)
        for _ in range(20):
            if self._routes is None or self._routes.is_tip_free(goal):
                break
            goal = self._sample_any_tip_goal(state)
        return goal

    def _sample_any_tip_goal(self, state: WorldState) -> FloatArray:
        centre = state.object_position[:2]
        if self._rng.random() > OVER_OBJECT_SHARE:
            return sample_tip_position(self._arm, self._rng, centre)
        height = self._rng.uniform(0.045, 0.11)
        if self._scene_object is not None:
            height += self._scene_object.height - 2 * CUBE_HALF
        return np.array([*self._rng.normal(centre, 0.02), height])

    def _sample_push_goal(self, state: WorldState) -> FloatArray:
        """Return a goal (2,) m of the object: a suitable one, or the last of 30 tries."""
        low, high = self._region
        centre = state.object_position[:2]
        ahead = centre - state.tip_position[:2]
        ahead /= np.linalg.norm(ahead) + 1e-9
        wants_ahead = self._rng.random() < AHEAD_SHARE
        routes = self._routes
        if routes is not None and self._rng.random() < CARELESS_SHARE:
            routes = None
        for _ in range(30):
            goal = self._rng.uniform(low, high)
            way = goal - centre
            length = float(np.linalg.norm(way))
            is_free = routes is None or routes.is_object_free(goal)
            is_ahead = not wants_ahead or way @ ahead > 0.7 * length
            if length > MIN_PUSH and is_free and is_ahead:
                break
        return goal

    def _is_over(self, state: WorldState, target: FloatArray) -> bool:
        """Return whether the goal is reached, or the object is pressed against an obstacle."""
        lead = float(np.linalg.norm(target - state.tip_position))
        is_pressing = state.object_touches_obstacle and lead > PRESSING_LEAD
        assert self._policy is not None
        position = state.object_position[:2]
        if isinstance(self._policy, ScriptedReach):
            position = state.tip_position
        is_reached = np.linalg.norm(position - self._policy.goal) < GOAL_TOLERANCE
        return bool(is_reached or is_pressing)
