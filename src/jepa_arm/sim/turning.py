"""The scripted ceiling of pushes to a place and a yaw: chosen pushes, each carried out by sight.

A push is at one face of the cube, beside its middle and aslant, in the frame of that face: +x is
into the cube. The contact sticks, and the cube slides as its friction on the table lets it:
quasi-static pushing with an ellipsoidal limit surface (Lynch, Maekawa and Tanie, IROS 1992).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..angles import QUARTER, yaw_error
from ..motion import ACTION_METRES
from ..types import FloatArray
from .policies import PUSH_HEIGHT, SAFE_HEIGHT, STANDARD_HALF, distance_to_segment
from .world import WorldState

TURN_ARM = 0.027
"""m, friction of turning over that of sliding, measured of the cube on the table."""
ROLL = 0.016
"""m by which the contact wanders along the face for each rad that the cube turns; measured."""
MOST_SLANT = 0.55
"""Most sideways motion of a cube that sticks to the tip, as a share of that ahead."""
TOUCH, BEHIND = 0.038, 0.060
"""m from the cube's middle to the tip, along the face's normal: in contact, and before it."""
CLEAR = 0.056
"""m from the cube's middle at which the tip goes past it."""
STEP = 0.005
"""m of pushing between two predicted poses."""
STEPS = 54
OFFSETS = np.linspace(-0.018, 0.018, 7)
SLANTS = np.linspace(-0.6, 0.6, 5, dtype=np.float64)
FINE_SLANTS = np.linspace(-0.6, 0.6, 9, dtype=np.float64)
FACES = QUARTER * np.arange(4)
CM, DEGREES = 0.01, np.radians(5.0)
"""m and rad that count the same."""
DONE = (0.012, np.radians(6.0))
"""m and rad within which the cube is left alone."""
PER_PUSH, PER_METRE = 0.7, 3.0
"""Cost of a push, and of its length."""
FIRSTS = 600
"""First pushes, those that end nearest the goal, that are thought on to a second one."""
LOST = 2.5
"""Cost by which a push that is carried out may miss what was chosen before it is given up."""
EDGE = 0.055
"""m from the edge of the workspace within which the cube is not left between two pushes."""


def slide(offsets: FloatArray, slants: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """(N, STEPS, 3) poses (m, m, rad) of the cube in its face's first frame; which are sure.

    Those of a contact that sticks and stays on the face are.

    Args:
        offsets: (N,) m, of the tip along the face. slants: (N,) rad, from the face's normal.
    """
    offset, yaw, place = offsets.astype(float), np.zeros(len(offsets)), np.zeros((len(offsets), 2))
    cos, sin = np.cos(slants), np.sin(slants)
    poses, sticks = np.empty((len(offsets), STEPS, 3)), np.empty((len(offsets), STEPS), dtype=bool)
    for i in range(STEPS):
        hardness = TURN_ARM**2 + STANDARD_HALF**2 + offset**2
        turn = -(STANDARD_HALF * sin + offset * cos) / hardness
        ahead, aside = cos + turn * offset, sin + turn * STANDARD_HALF
        middle = yaw + turn * STEP / 2.0
        place = place + STEP * rotated(np.stack([ahead, aside], axis=-1), middle)
        yaw, offset = yaw + turn * STEP, offset + ROLL * turn * STEP
        poses[:, i] = np.column_stack([place, yaw])
        is_on_face = np.abs(offset) < STANDARD_HALF - 0.003
        sticks[:, i] = (np.abs(aside) < MOST_SLANT * ahead) & is_on_face
    return poses, np.logical_and.accumulate(sticks, axis=1)


def rotated(ways: FloatArray, angles: FloatArray | float) -> FloatArray:
    """(..., 2) ``ways`` turned by ``angles`` (...) rad."""
    cos, sin = np.cos(angles), np.sin(angles)
    x, y = ways[..., 0], ways[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def seen_from(poses: FloatArray, pose: FloatArray) -> FloatArray:
    """(..., 3) ``pose`` in the frames ``poses`` (..., 3)."""
    away = rotated(pose[..., :2] - poses[..., :2], -poses[..., 2])
    return np.concatenate([away, (pose[..., 2] - poses[..., 2])[..., None]], axis=-1)


def cost(poses: FloatArray, goal: FloatArray) -> FloatArray:
    """(...) how far ``poses`` (..., 3) are from ``goal`` (3,), in cm and in 5 degrees."""
    away = np.hypot(poses[..., 0] - goal[..., 0], poses[..., 1] - goal[..., 1])
    return away / CM + np.abs(yaw_error(poses[..., 2], goal[..., 2])) / DEGREES


@dataclass(frozen=True)
class Push:
    """One push, carried out by sight.

    Attributes:
        face: rad, from the cube's x axis to the way into the cube.
        offset: m along the face, where the tip begins.
        end: (3,) m, m, rad, the pose of the cube that is wanted of it.
    """

    face: float
    offset: float
    end: FloatArray


class PushBook:
    """Where each of many pushes would take the cube; chooses among them, two pushes ahead."""

    def __init__(self, workspace: FloatArray) -> None:
        self._low, self._high = workspace[0, :2], workspace[1, :2]
        offsets, slants = np.meshgrid(OFFSETS, SLANTS, indexing='ij')
        self._offsets = offsets.ravel()
        self._slants = slants.ravel()
        self._poses, self._sticks = slide(self._offsets, self._slants)
        self._lengths = STEP * np.arange(1, STEPS + 1)
        coarse = self._poses[:, 1::2].reshape(-1, 3)
        sticks = self._sticks[:, 1::2].ravel()
        self._seconds = coarse[sticks]
        lengths = np.broadcast_to(self._lengths[1::2], self._sticks[:, 1::2].shape).ravel()
        self._second_costs = PER_PUSH + PER_METRE * lengths[sticks]

    def choose(self, pose: FloatArray, goal: FloatArray) -> Push:
        """The first push of the best one or two from ``pose`` (3,) to ``goal`` (3,)."""
        ends, fits = self._foreseen(pose)
        index = np.nonzero(fits.ravel())[0]
        last = ends.reshape(-1, 3)[index]
        spent = np.broadcast_to(PER_PUSH + PER_METRE * self._lengths, fits.shape).ravel()[index]
        one = cost(last, goal) + spent
        best, least = int(np.argmin(one)), float(np.min(one))
        firsts = self._firsts(last, goal)
        if len(firsts):
            two = spent[firsts] + self._to_go(last[firsts], goal)
            if two.min() < least:
                best = int(firsts[np.argmin(two)])
                goal = last[best]
        face, which, _ = np.unravel_index(index[best], fits.shape)
        return Push(float(FACES[face]), float(self._offsets[which]), goal)

    def _foreseen(self, pose: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """(4, N, STEPS, 3) where each push at each face leads from ``pose``, and which may be.

        The tip is in the workspace before and after those, if there are any such.
        """
        faces = pose[2] + FACES
        away = rotated(self._poses[None, ..., :2], faces[:, None, None])
        turned = self._poses[None, ..., 2] + faces[:, None, None]
        ends = np.concatenate([away + pose[:2], turned[..., None]], axis=-1)
        behind = np.stack([np.full_like(self._offsets, -BEHIND), self._offsets], axis=-1)
        begins = rotated(behind[None], faces[:, None]) + pose[:2]
        tips = ends[..., :2] - TOUCH * rotated(np.array([1.0, 0.0]), turned)
        fits = self._sticks[None] & self._is_within(begins)[..., None] & self._is_within(tips)
        return ends, fits if fits.any() else np.broadcast_to(self._sticks[None], fits.shape)

    def _firsts(self, ends: FloatArray, goal: FloatArray) -> NDArray[np.intp]:
        """Indices of the pushes that a second one may well follow."""
        has_room = self._is_within(ends[:, :2], EDGE)
        even = np.nonzero(has_room)[0][::2]
        return even[np.argsort(np.linalg.norm(ends[even, :2] - goal[:2], axis=1))[:FIRSTS]]

    def _to_go(self, poses: FloatArray, goal: FloatArray) -> FloatArray:
        """(N,) least cost of one more push from ``poses`` (N, 3)."""
        least = np.full(len(poses), np.inf)
        for face in FACES:
            wanted = seen_from(poses + (0.0, 0.0, face), goal)
            after = cost(self._seconds[None], wanted[:, None]) + self._second_costs
            least = np.minimum(least, after.min(axis=1))
        return least

    def _is_within(self, places: FloatArray, edge: float = 0.0) -> NDArray[np.bool_]:
        """(...) whether ``places`` (..., 2) are in the workspace, ``edge`` m from its sides."""
        return np.all((places >= self._low + edge) & (places <= self._high - edge), axis=-1)


@dataclass
class ScriptedTurn:
    """Pushes the cube to ``goal`` (2,) m and to ``goal_yaw`` rad, up to quarter turns.

    Attributes:
        workspace: (2, 3) m, where the tip can go.
    """

    goal: FloatArray
    goal_yaw: float
    workspace: FloatArray
    _push: Push | None = field(default=None, init=False)
    _is_pushing: bool = field(default=False, init=False)
    _goes_over: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._book = PushBook(self.workspace)
        self._wanted = np.array([*self.goal[:2], self.goal_yaw])

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Action of the current phase: rest, choose, go behind, or push."""
        pose = np.array([*state.object_position[:2], state.object_yaw])
        away = float(np.linalg.norm(pose[:2] - self._wanted[:2]))
        if away < DONE[0] and abs(yaw_error(pose[2], self._wanted[2])) < DONE[1]:
            self._push, self._is_pushing = None, False
            return np.zeros(3)
        if self._is_pushing:
            action = self._go_on(pose, state, target)
            if action is not None:
                return action
            self._push, self._is_pushing = None, False
        if self._push is None:
            self._push = self._book.choose(pose, self._wanted)
            self._goes_over = False
        place = self._place(pose, self._push)
        is_low = state.tip_position[2] < PUSH_HEIGHT + 0.008
        if is_low and np.linalg.norm(state.tip_position[:2] - place) < 0.006:
            self._is_pushing = True
            return np.zeros(3)
        return self._go_to(place, pose, state.tip_position, target)

    def _go_on(self, pose: FloatArray, state: WorldState, target: FloatArray) -> FloatArray | None:
        """Action of the push; None when it is over."""
        assert self._push is not None
        face = pose + (0.0, 0.0, self._push.face)
        tip = rotated(state.tip_position[:2] - face[:2], -face[2])
        lead = rotated(target[:2] - state.tip_position[:2], -face[2])
        gap = -tip[0] - TOUCH
        if gap > 0.004:
            way = np.array([gap + 0.002, self._push.offset - tip[1]]) - lead
            return self._action(target, rotated(np.clip(way, -0.012, 0.012), face[2]), PUSH_HEIGHT)
        poses, sticks = slide(np.full(len(FINE_SLANTS), tip[1]), FINE_SLANTS)
        off = np.where(sticks, cost(poses, seen_from(face, self._push.end)), np.inf)
        off += PER_METRE * STEP * np.arange(STEPS)
        here = float(cost(face, self._push.end))
        which, steps = np.unravel_index(np.argmin(off), off.shape)
        length = STEP * (float(steps) + 1.0)
        if off.min() > here - 0.15 or off.min() > LOST + PER_METRE * length:
            return None
        ahead = length - float(np.linalg.norm(lead))
        pace = 0.015 if length > 0.04 else 0.008
        slant = FINE_SLANTS[which]
        way = np.clip(ahead, 0.0, pace) * np.array([np.cos(slant), np.sin(slant)])
        return self._action(target, rotated(way, face[2]), PUSH_HEIGHT)

    def _place(self, pose: FloatArray, push: Push) -> FloatArray:
        """(2,) m, where the tip begins ``push``."""
        place = pose[:2] + rotated(np.array([-BEHIND, push.offset]), pose[2] + push.face)
        return np.clip(place, self.workspace[0, :2], self.workspace[1, :2])

    def _go_to(
        self, place: FloatArray, pose: FloatArray, tip: FloatArray, target: FloatArray
    ) -> FloatArray:
        """Action towards ``place`` (2,) m at the table, over the cube where it is in the way.

        Once it goes over the cube it does not turn back: the tip lags behind its target.
        """
        centre, way = pose[:2], place - target[:2]
        ways = [distance_to_segment(centre, begin[:2], place) for begin in (tip, target)]
        is_near = bool(np.linalg.norm(way) < 0.008)
        self._goes_over = self._goes_over or not (is_near or min(ways) > CLEAR)
        if is_near or not self._goes_over:
            return self._action(target, way, PUSH_HEIGHT)
        if target[2] > SAFE_HEIGHT - 0.002:
            return self._action(target, way, float(target[2]))
        outward = target[:2] - centre
        radius = float(np.linalg.norm(outward))
        away = outward / max(radius, 1e-6) * (0.015 if radius < CLEAR else 0.0)
        is_off = radius > CLEAR - 0.002 or target[2] > 0.06
        return self._action(target, away, SAFE_HEIGHT if is_off else float(target[2]))

    @staticmethod
    def _action(target: FloatArray, way: FloatArray, height: float) -> FloatArray:
        """Action (3,) along ``way`` (2,) m, and to ``height`` m."""
        step = np.array([*way, height - target[2]]) / ACTION_METRES
        return np.clip(step, -1.0, 1.0)
