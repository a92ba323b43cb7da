"""Policies that see ground truth: the scripted ceiling, the random floor, and play for data.

Each maps (state, tip target) to an action of ``motion.TipMotion``. The tip target is where the
arm was last told to go; the tip itself follows about a control step behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..arm import Arm
from ..config import ObstacleConfig
from ..motion import ACTION_METRES
from ..types import FloatArray
from .surroundings import Surroundings
from .tasks import sample_tip
from .world import Scene, Thing, WorldState

CONTACT = 0.042
"""m between tip and object centres when the tip touches a face of the object."""
STAND_OFF, NEAR_STAND_OFF = 0.075, 0.060
ORBIT = 0.088
SAFE_HEIGHT = 0.085
PUSH_HEIGHT = 0.018
STANDARD_HALF, STANDARD_REACH = 0.025, 0.0354
"""m, half the side and half the diagonal of the cube that the above are for."""
PRESSING = 0.03
"""m, by which the tip lags behind its target where it does not come on."""
TURNS = (0.0, 0.4, -0.4, 0.8, -0.8, 1.2, -1.2)
"""rad, by which a push may deviate from its way."""


class Policy(Protocol):
    """Anything that acts on ground truth."""

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Action (3,) in [-1, 1] from the state and the tip target (3,) m."""
        ...


@dataclass
class ScriptedReach:
    """Moves the tip to ``goal`` (3,) m, straight or round what is ``around``."""

    goal: FloatArray
    around: Surroundings | None = None

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Action towards the goal."""
        place = self.around.tip_towards(target, self.goal) if self.around else self.goal
        return np.clip((place - target) / ACTION_METRES, -1.0, 1.0)


@dataclass
class ScriptedPush:
    """Goes round the object, behind it as seen from ``goal`` (2,) m, and pushes it there.

    Attributes:
        goal: (2,) m. done_within: m.
        around: what neither the object nor the tip may strike.
        thing: the object; None: a cube of 5 cm.
    """

    goal: FloatArray
    done_within: float = 0.006
    around: Surroundings | None = None
    thing: Thing | None = None

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Action of the current phase: wait, go round, or push."""
        centre = state.object_position[:2]
        to_goal = self.goal[:2] - centre
        distance = float(np.linalg.norm(to_goal))
        if distance < self.done_within:
            return np.zeros(3)
        heading = to_goal / distance
        if self.around:
            heading, distance = self._heading_round(self.around, centre)
        tip = state.tip_position[:2]
        along = float((tip - centre) @ heading)
        across = (tip - centre) - along * heading
        is_low = state.tip_position[2] < PUSH_HEIGHT + 0.012
        if is_low and along < -0.02 and np.linalg.norm(across) < 0.012:
            action = self._push(state, target, heading, distance, along, across)
            if self.around is None:
                return action
            return self.around.kept_out(state.tip_position, target, action)
        if self.around:
            action = self._go_behind_round(self.around, state, target, heading)
            return self.around.kept_out(state.tip_position, target, action)
        return self._go_behind(state, target, centre, heading)

    @property
    def _extra(self) -> float:
        """m, by which half the object is wider than half the standard cube."""
        return 0.0 if self.thing is None else self.thing.size / 2.0 - STANDARD_HALF

    def _push(
        self,
        state: WorldState,
        target: FloatArray,
        heading: FloatArray,
        distance: float,
        along: float,
        across: FloatArray,
    ) -> FloatArray:
        gap = max(0.0, -along - CONTACT - self._extra)
        lead = float((target[:2] - state.tip_position[:2]) @ heading)
        advance = min(gap + distance - lead, ACTION_METRES)
        step = advance * heading - across
        return self._to_action(target, target[:2] + step, PUSH_HEIGHT)

    def _go_behind(
        self, state: WorldState, target: FloatArray, centre: FloatArray, heading: FloatArray
    ) -> FloatArray:
        stand_off = STAND_OFF + self._extra
        behind = centre - stand_off * heading
        offset = target[:2] - centre
        radius = float(np.linalg.norm(offset))
        if target[2] > SAFE_HEIGHT:
            low = radius > stand_off - 0.012 and np.linalg.norm(target[:2] - behind) < 0.05
            return self._to_action(target, behind, PUSH_HEIGHT if low else target[2])
        if radius < stand_off - 0.02:
            outward = offset / max(radius, 1e-6)
            return self._to_action(target, target[:2] + 0.025 * outward, target[2])
        way = behind - target[:2]
        if distance_to_segment(centre, target[:2], behind) < stand_off - 0.012:
            angle = np.arctan2(offset[1], offset[0])
            goal_angle = np.arctan2(-heading[1], -heading[0])
            turn = (goal_angle - angle + np.pi) % (2 * np.pi) - np.pi
            angle += np.clip(turn, -0.28, 0.28)
            orbit = ORBIT + self._extra
            way = centre + orbit * np.array([np.cos(angle), np.sin(angle)]) - target[:2]
        return self._to_action(target, target[:2] + way, PUSH_HEIGHT)

    def _heading_round(self, around: Surroundings, centre: FloatArray) -> tuple[FloatArray, float]:
        """Unit vector (2,) along which the object is pushed now, and m that are left to push it.

        Turned where there is no room for the tip near behind the object.
        """
        reach = 0.0 if self.thing is None else self.thing.reach - STANDARD_REACH
        there, length = around.object_towards(centre, self.goal[:2], reach)
        straight = (there - centre) / max(float(np.linalg.norm(there - centre)), 1e-9)
        for turn in TURNS:
            heading = _turned(straight, turn)
            if self._behind(around, centre, heading) is not None:
                return heading, length
        return straight, length

    def _behind(
        self, around: Surroundings, centre: FloatArray, heading: FloatArray
    ) -> FloatArray | None:
        """(3,) m, a free place for the tip behind the object, with a clear way to it."""
        middle = np.array([*centre, PUSH_HEIGHT])
        for stand_off in (STAND_OFF, NEAR_STAND_OFF):
            place = np.array([*centre - (stand_off + self._extra) * heading, PUSH_HEIGHT])
            if around.is_free(place) and around.is_clear(place, middle):
                return place
        return None

    def _go_behind_round(
        self,
        around: Surroundings,
        state: WorldState,
        target: FloatArray,
        heading: FloatArray,
    ) -> FloatArray:
        """The shortest way behind the object, which is then an obstacle too."""
        size = 2.0 * (STANDARD_HALF + self._extra)
        height = size if self.thing is None else self.thing.height
        x, y = map(float, state.object_position[:2])
        itself = ObstacleConfig(
            'object', 'box', (size, size, height), (x, y, height / 2.0), (0, 0, state.object_yaw)
        )
        centre = state.object_position[:2]
        behind = self._behind(around, centre, heading)
        if behind is None:
            behind = np.array([*centre - STAND_OFF * heading, PUSH_HEIGHT])
        place = around.tip_towards(target, behind, (itself,))
        return self._to_action(target, place[:2], float(place[2]))

    @staticmethod
    def _to_action(target: FloatArray, xy: FloatArray, z: float) -> FloatArray:
        return np.clip((np.array([*xy, z]) - target) / ACTION_METRES, -1.0, 1.0)


class RandomWalk:
    """The floor: smooth random actions (Ornstein-Uhlenbeck), blind to the goal."""

    def __init__(self, rng: np.random.Generator, sigma: float = 0.6) -> None:
        self._noise = OrnsteinUhlenbeck(rng, sigma)

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """The next random action."""
        return np.clip(self._noise.next(), -1.0, 1.0)


class OrnsteinUhlenbeck:
    """Correlated noise (3,) with stationary standard deviation ``sigma``."""

    def __init__(self, rng: np.random.Generator, sigma: float, decay: float = 0.8) -> None:
        self._rng, self._sigma, self._decay = rng, sigma, decay
        self._value = rng.normal(0.0, sigma, 3)

    def next(self) -> FloatArray:
        """The next value."""
        kick = self._sigma * np.sqrt(1.0 - self._decay**2)
        self._value = self._decay * self._value + self._rng.normal(0.0, kick, 3)
        return self._value


class Play:
    """Play data: one of three behaviours per episode, with noise of a random strength.

    5 % reaching through 3-D space, 80 % pushing the object about, 15 % random planar motion
    drawn to the object. Between pushes the tip now and then goes elsewhere first, over the
    object too, and in all of them it rests at any time: what is seen only after a success looks
    like success. Most pushes go on roughly as the tip already stands, so that the object
    moves often. The tip keeps off obstacles and goes and pushes round them; now and then an object
    is pushed against one.
    """

    ELSEWHERE = 0.2
    """Share of a pusher's goals that are places for the tip."""
    OVER = 0.25
    """Share of the tip's places that are on or over the object."""
    REST = 0.015
    """Chance of a rest to begin at a control step."""
    CARELESS = 0.3
    """Share of the pushes whose goals may lie at or in an obstacle."""

    def __init__(
        self, arm: Arm, rng: np.random.Generator, object_region: FloatArray, scene: Scene
    ) -> None:
        self._arm, self._rng, self._region = arm, rng, object_region
        self._thing = scene.thing
        workspace = np.array([arm.workspace_min, arm.workspace_max])
        has_any = bool(scene.obstacles)
        self._around = Surroundings(scene.obstacles, workspace, object_region) if has_any else None
        self._mode = rng.choice(['reach', 'push', 'roam'], p=[0.05, 0.80, 0.15])
        sigma = 0.7 if self._mode == 'roam' else float(rng.choice([0.1, 0.25, 0.5]))
        self._noise = OrnsteinUhlenbeck(rng, sigma)
        self._inner: ScriptedReach | ScriptedPush | None = None
        self._rest = 0
        self._steps_left = 0

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """The next action of play."""
        action = self._wanted(state, target)
        if self._around is None:
            return action
        return self._around.kept_out(state.tip_position, target, action)

    def _wanted(self, state: WorldState, target: FloatArray) -> FloatArray:
        if self._rest == 0 and self._rng.random() < self.REST:
            self._rest = int(self._rng.integers(2, 12))
        if self._rest > 0:
            self._rest -= 1
            return np.zeros(3)
        if self._mode == 'roam':
            return self._roam(state, target)
        if self._inner is None or self._steps_left == 0 or self._is_over(state, target):
            if self._inner is not None and self._rng.random() < 0.3:
                self._rest = int(self._rng.integers(2, 8))
            self._inner = self._new_goal(state)
            self._steps_left = 60
        self._steps_left -= 1
        return np.clip(self._inner.act(state, target) + self._noise.next(), -1.0, 1.0)

    def _roam(self, state: WorldState, target: FloatArray) -> FloatArray:
        pull = np.clip((state.object_position - target) / ACTION_METRES, -1.0, 1.0) * 0.5
        pull[2] = np.clip((PUSH_HEIGHT - target[2]) / ACTION_METRES, -1.0, 1.0)
        noise = self._noise.next() * (1.0, 1.0, 0.1)
        return np.clip(pull + noise, -1.0, 1.0)

    def _new_goal(self, state: WorldState) -> ScriptedReach | ScriptedPush:
        if self._mode == 'reach' or self._rng.random() < self.ELSEWHERE:
            return ScriptedReach(self._place(state), self._around)
        return ScriptedPush(self._push_goal(state), around=self._around, thing=self._thing)

    def _place(self, state: WorldState) -> FloatArray:
        """(3,) m for the tip, clear of the object or over it."""
        place = self._any_place(state)
        for _ in range(20):
            if self._around is None or self._around.is_free(place):
                break
            place = self._any_place(state)
        return place

    def _any_place(self, state: WorldState) -> FloatArray:
        centre = state.object_position[:2]
        if self._rng.random() > self.OVER:
            return sample_tip(self._arm, self._rng, centre)
        height = self._rng.uniform(0.045, 0.11)
        height += 0.0 if self._thing is None else self._thing.height - 2 * STANDARD_HALF
        return np.array([*self._rng.normal(centre, 0.02), height])

    def _push_goal(self, state: WorldState) -> FloatArray:
        """(2,) m, at least 5 cm from the object; most of them ahead of the tip, if any are."""
        low, high = self._region
        centre = state.object_position[:2]
        ahead = centre - state.tip_position[:2]
        ahead /= np.linalg.norm(ahead) + 1e-9
        wants_ahead = self._rng.random() < 0.85
        around = self._around
        if around is not None and self._rng.random() < self.CARELESS:
            around = None
        for _ in range(30):
            goal = self._rng.uniform(low, high)
            way = goal - centre
            length = float(np.linalg.norm(way))
            has_room = around is None or around.has_room(goal)
            is_ahead = not wants_ahead or way @ ahead > 0.7 * length
            if length > 0.05 and has_room and is_ahead:
                break
        return goal

    def _is_over(self, state: WorldState, target: FloatArray) -> bool:
        """Whether the goal is reached, or pushing on would only press against an obstacle."""
        lead = float(np.linalg.norm(target - state.tip_position))
        return self._is_reached(state) or (state.object_touches_obstacle and lead > PRESSING)

    def _is_reached(self, state: WorldState) -> bool:
        if isinstance(self._inner, ScriptedReach):
            return bool(np.linalg.norm(state.tip_position - self._inner.goal) < 0.015)
        assert self._inner is not None
        return bool(np.linalg.norm(state.object_position[:2] - self._inner.goal) < 0.015)


def _turned(way: FloatArray, angle: float) -> FloatArray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * way[0] - sin * way[1], sin * way[0] + cos * way[1]])


def distance_to_segment(point: FloatArray, start: FloatArray, end: FloatArray) -> float:
    """m from ``point`` to the line from ``start`` to ``end``, (2,) m each."""
    way = end - start
    share = np.clip((point - start) @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
    return float(np.linalg.norm(point - start - share * way))
