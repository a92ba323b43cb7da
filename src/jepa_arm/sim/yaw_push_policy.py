"""Yaw push policy: pushes the cube to a position and a yaw, with feedback during each push.

A push acts on one face of the cube, offset from the middle of the face and at an angle to its
normal. Its frame is that of the face, with +x into the cube. The model is quasi-static pushing
with sticking contact and an ellipsoidal limit surface (Lynch, Maekawa and Tanie, IROS 1992).
Poses are (x m, y m, yaw rad).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jepa_arm.core.geometry import QUARTER, yaw_error
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.action_space import ACTION_METRES

from .policies import CUBE_HALF, PUSH_HEIGHT, SAFE_HEIGHT, distance_to_segment, rotated
from .scene import WorldState

FRICTION_ARM = 0.027
"""Ratio (m) of frictional moment to frictional force of the cube on the table, measured."""
CONTACT_ROLL = 0.016
"""Shift (m) of the contact along the face per rad of rotation of the cube, measured."""
MAX_SIDEWAYS = 0.55
"""Largest ratio of sideways to forward motion at which the contact still sticks."""
FACE_MARGIN = 0.003
"""Distance (m) from the edge of a face within which the contact may slip off."""
CONTACT_DISTANCE, BEHIND_DISTANCE = 0.038, 0.060
"""Distances (m) from the cube's middle to the tip along the face's normal: in contact, and before
a push."""
PASSING_DISTANCE = 0.056
"""Smallest distance (m) from the cube's middle at which the tip may pass the cube."""
PUSH_STEP = 0.005
"""Length (m) of pushing between two predicted poses."""
PUSH_STEPS = 54
OFFSETS = np.linspace(-0.018, 0.018, 7)
SLANTS = np.linspace(-0.6, 0.6, 5, dtype=np.float64)
FINE_SLANTS = np.linspace(-0.6, 0.6, 9, dtype=np.float64)
FACES = QUARTER * np.arange(4)
POSITION_UNIT, YAW_UNIT = 0.01, np.radians(5.0)
"""Errors (m and rad) that each cost 1."""
POSITION_TOLERANCE, YAW_TOLERANCE = 0.012, np.radians(6.0)
"""Errors (m and rad) below which the cube is left alone."""
PUSH_COST, COST_PER_METRE = 0.7, 3.0
MAX_FIRST_PUSHES = 600
"""Number of first pushes, those ending nearest to the goal, that are tried with a second push."""
MAX_DEVIATION, MIN_GAIN = 2.5, 0.15
"""A push is aborted if the pose cost expected at its end exceeds ``MAX_DEVIATION``, or if pushing
on would save less than ``MIN_GAIN``."""
EDGE_MARGIN = 0.055
"""Smallest distance (m) from the workspace's edge at the end of a push that precedes another."""


def predict_pushes(
    offsets: FloatArray, slants: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the cube's poses during N pushes.

    Args:
        offsets: (N,) m, offset of the tip along the face from its middle.
        slants: (N,) rad, angle of the push to the face's normal.

    Returns:
        (N, PUSH_STEPS, 3) poses in the initial frame of the pushed face; (N, PUSH_STEPS) True as
        long as the contact has stuck and stayed on the face.
    """
    count = len(offsets)
    offset, yaw, position = offsets.astype(float), np.zeros(count), np.zeros((count, 2))
    cos, sin = np.cos(slants), np.sin(slants)
    poses = np.empty((count, PUSH_STEPS, 3))
    sticks = np.empty((count, PUSH_STEPS), dtype=bool)
    for i in range(PUSH_STEPS):
        resistance = FRICTION_ARM**2 + CUBE_HALF**2 + offset**2
        yaw_rate = -(CUBE_HALF * sin + offset * cos) / resistance
        ahead, aside = cos + yaw_rate * offset, sin + yaw_rate * CUBE_HALF
        middle = yaw + yaw_rate * PUSH_STEP / 2.0
        position = position + PUSH_STEP * rotated(np.stack([ahead, aside], axis=-1), middle)
        yaw = yaw + yaw_rate * PUSH_STEP
        offset = offset + CONTACT_ROLL * yaw_rate * PUSH_STEP
        poses[:, i] = np.column_stack([position, yaw])
        is_on_face = np.abs(offset) < CUBE_HALF - FACE_MARGIN
        sticks[:, i] = (np.abs(aside) < MAX_SIDEWAYS * ahead) & is_on_face
    return poses, np.logical_and.accumulate(sticks, axis=1)


def pose_in_frame(frames: FloatArray, pose: FloatArray) -> FloatArray:
    """Express ``pose`` (..., 3) in the frames given by the poses ``frames`` (..., 3)."""
    position = rotated(pose[..., :2] - frames[..., :2], -frames[..., 2])
    return np.concatenate([position, (pose[..., 2] - frames[..., 2])[..., None]], axis=-1)


def pose_cost(poses: FloatArray, goal: FloatArray) -> FloatArray:
    """Return the costs (...) of ``poses`` (..., 3): 1 per cm and per 5 degrees off ``goal``."""
    distance = np.hypot(poses[..., 0] - goal[..., 0], poses[..., 1] - goal[..., 1])
    return distance / POSITION_UNIT + np.abs(yaw_error(poses[..., 2], goal[..., 2])) / YAW_UNIT


@dataclass(frozen=True)
class YawPush:
    """A push to carry out with feedback.

    Attributes:
        face: rad, angle from the cube's x axis to the pushed face's normal, into the cube.
        offset: m, initial offset of the tip along the face from its middle.
        end: (3,) intended pose of the cube at the end.
    """

    face: float
    offset: float
    end: FloatArray


class YawPushPlanner:
    """Planner that chooses the next push from a table of predictions, looking two pushes ahead."""

    def __init__(self, workspace: FloatArray) -> None:
        """Fill the table with predicted pushes.

        Args:
            workspace: (2, 3) m, lower and upper bounds of the tip.
        """
        self._low, self._high = workspace[0, :2], workspace[1, :2]
        offsets, slants = np.meshgrid(OFFSETS, SLANTS, indexing='ij')
        self._offsets = offsets.ravel()
        self._poses, self._sticks = predict_pushes(self._offsets, slants.ravel())
        self._lengths = PUSH_STEP * np.arange(1, PUSH_STEPS + 1)
        coarse = self._poses[:, 1::2].reshape(-1, 3)
        sticks = self._sticks[:, 1::2].ravel()
        self._second_poses = coarse[sticks]
        lengths = np.broadcast_to(self._lengths[1::2], self._sticks[:, 1::2].shape).ravel()
        self._second_costs = PUSH_COST + COST_PER_METRE * lengths[sticks]

    def choose(self, pose: FloatArray, goal: FloatArray) -> YawPush:
        """Return the first push of the cheapest sequence of one or two pushes.

        The sequence leads from ``pose`` (3,) towards ``goal`` (3,).
        """
        ends, is_valid = self._predict(pose)
        index = np.nonzero(is_valid.ravel())[0]
        end_poses = ends.reshape(-1, 3)[index]
        push_costs = PUSH_COST + COST_PER_METRE * self._lengths
        costs = np.broadcast_to(push_costs, is_valid.shape).ravel()[index]
        single = pose_cost(end_poses, goal) + costs
        best, lowest = int(np.argmin(single)), float(np.min(single))
        firsts = self._first_pushes(end_poses, goal)
        if len(firsts):
            double = costs[firsts] + self._cost_of_second(end_poses[firsts], goal)
            if double.min() < lowest:
                best = int(firsts[np.argmin(double)])
                goal = end_poses[best]
        face, which, _ = np.unravel_index(index[best], is_valid.shape)
        return YawPush(float(FACES[face]), float(self._offsets[which]), goal)

    def _predict(self, pose: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return the cube's poses during each push on each face, and which of them are possible.

        Returns:
            (4, N, PUSH_STEPS, 3) poses, starting from ``pose`` (3,); (4, N, PUSH_STEPS) True
            while the contact sticks and the tip is in the workspace. If no push qualifies, the
            workspace is ignored.
        """
        faces = pose[2] + FACES
        positions = rotated(self._poses[None, ..., :2], faces[:, None, None])
        yaws = self._poses[None, ..., 2] + faces[:, None, None]
        ends = np.concatenate([positions + pose[:2], yaws[..., None]], axis=-1)
        behind = np.stack([np.full_like(self._offsets, -BEHIND_DISTANCE), self._offsets], axis=-1)
        begins = rotated(behind[None], faces[:, None]) + pose[:2]
        tips = ends[..., :2] - CONTACT_DISTANCE * rotated(np.array([1.0, 0.0]), yaws)
        is_valid = self._sticks[None] & self._is_within(begins)[..., None] & self._is_within(tips)
        if not is_valid.any():
            is_valid = np.broadcast_to(self._sticks[None], is_valid.shape)
        return ends, is_valid

    def _first_pushes(self, ends: FloatArray, goal: FloatArray) -> NDArray[np.intp]:
        """Return the indices of the pushes ending at ``ends`` (N, 3) to try with a second push."""
        has_room = self._is_within(ends[:, :2], EDGE_MARGIN)
        even = np.nonzero(has_room)[0][::2]
        nearest = np.argsort(np.linalg.norm(ends[even, :2] - goal[:2], axis=1))
        return even[nearest[:MAX_FIRST_PUSHES]]

    def _cost_of_second(self, poses: FloatArray, goal: FloatArray) -> FloatArray:
        """Return the lowest cost (N,) of a second push from ``poses`` (N, 3) towards ``goal``."""
        lowest = np.full(len(poses), np.inf)
        for face in FACES:
            wanted = pose_in_frame(poses + (0.0, 0.0, face), goal)
            costs = pose_cost(self._second_poses[None], wanted[:, None]) + self._second_costs
            lowest = np.minimum(lowest, costs.min(axis=1))
        return lowest

    def _is_within(self, positions: FloatArray, margin: float = 0.0) -> NDArray[np.bool_]:
        """Return whether ``positions`` (..., 2) m are in the workspace shrunk by ``margin`` m."""
        low, high = self._low + margin, self._high - margin
        return np.all((positions >= low) & (positions <= high), axis=-1)


@dataclass
class ScriptedYawPush:
    """Policy that pushes the cube to a goal position and yaw; quarter turns count as equal.

    Attributes:
        goal: (2,) or (3,) m.
        goal_yaw: rad.
        workspace: (2, 3) m, lower and upper bounds of the tip.
    """

    goal: FloatArray
    goal_yaw: float
    workspace: FloatArray
    _push: YawPush | None = field(default=None, init=False)
    _is_pushing: bool = field(default=False, init=False)
    _is_going_over: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._planner = YawPushPlanner(self.workspace)
        self._goal_pose = np.array([*self.goal[:2], self.goal_yaw])

    def act(self, state: WorldState, target: FloatArray) -> FloatArray:
        """Return the action of the current phase: rest, go behind the cube, or push."""
        pose = np.array([*state.object_position[:2], state.object_yaw])
        distance = float(np.linalg.norm(pose[:2] - self._goal_pose[:2]))
        error = abs(yaw_error(pose[2], self._goal_pose[2]))
        if distance < POSITION_TOLERANCE and error < YAW_TOLERANCE:
            self._push, self._is_pushing = None, False
            return np.zeros(3)
        if self._is_pushing and self._push is not None:
            action = self._continue_push(self._push, pose, state, target)
            if action is not None:
                return action
            self._push, self._is_pushing = None, False
        if self._push is None:
            self._push = self._planner.choose(pose, self._goal_pose)
            self._is_going_over = False
        place = self._start_of(self._push, pose)
        is_low = state.tip_position[2] < PUSH_HEIGHT + 0.008
        if is_low and np.linalg.norm(state.tip_position[:2] - place) < 0.006:
            self._is_pushing = True
            return np.zeros(3)
        return self._go_to(place, pose, state.tip_position, target)

    def _continue_push(
        self, push: YawPush, pose: FloatArray, state: WorldState, target: FloatArray
    ) -> FloatArray | None:
        """Return the action to bring the cube closest to ``push.end``, or None to end the push."""
        face = pose + (0.0, 0.0, push.face)
        tip = rotated(state.tip_position[:2] - face[:2], -face[2])
        lead = rotated(target[:2] - state.tip_position[:2], -face[2])
        gap = -tip[0] - CONTACT_DISTANCE
        if gap > 0.004:
            way = np.array([gap + 0.002, push.offset - tip[1]]) - lead
            return _move_by(target, rotated(np.clip(way, -0.012, 0.012), face[2]), PUSH_HEIGHT)
        poses, sticks = predict_pushes(np.full(len(FINE_SLANTS), tip[1]), FINE_SLANTS)
        costs = np.where(sticks, pose_cost(poses, pose_in_frame(face, push.end)), np.inf)
        costs += COST_PER_METRE * PUSH_STEP * np.arange(PUSH_STEPS)
        present = float(pose_cost(face, push.end))
        which, steps = np.unravel_index(np.argmin(costs), costs.shape)
        length = PUSH_STEP * (float(steps) + 1.0)
        is_lost = costs.min() > MAX_DEVIATION + COST_PER_METRE * length
        if costs.min() > present - MIN_GAIN or is_lost:
            return None
        ahead = length - float(np.linalg.norm(lead))
        pace = 0.015 if length > 0.04 else 0.008
        slant = FINE_SLANTS[which]
        way = np.clip(ahead, 0.0, pace) * np.array([np.cos(slant), np.sin(slant)])
        return _move_by(target, rotated(way, face[2]), PUSH_HEIGHT)

    def _start_of(self, push: YawPush, pose: FloatArray) -> FloatArray:
        """Return the position (2,) m at which the tip begins ``push``."""
        behind = np.array([-BEHIND_DISTANCE, push.offset])
        place = pose[:2] + rotated(behind, pose[2] + push.face)
        return np.clip(place, self.workspace[0, :2], self.workspace[1, :2])

    def _go_to(
        self, place: FloatArray, pose: FloatArray, tip: FloatArray, target: FloatArray
    ) -> FloatArray:
        """Return the action towards ``place`` (2,) m, over the cube if it is in the way.

        Once started over the cube, the tip does not turn back, because it lags its target.
        """
        centre, way = pose[:2], place - target[:2]
        distances = [distance_to_segment(centre, begin[:2], place) for begin in (tip, target)]
        is_near = bool(np.linalg.norm(way) < 0.008)
        is_clear = is_near or min(distances) > PASSING_DISTANCE
        self._is_going_over = self._is_going_over or not is_clear
        if is_near or not self._is_going_over:
            return _move_by(target, way, PUSH_HEIGHT)
        if target[2] > SAFE_HEIGHT - 0.002:
            return _move_by(target, way, float(target[2]))
        outward = target[:2] - centre
        radius = float(np.linalg.norm(outward))
        away = outward / max(radius, 1e-6) * (0.015 if radius < PASSING_DISTANCE else 0.0)
        may_rise = radius > PASSING_DISTANCE - 0.002 or target[2] > 0.06
        return _move_by(target, away, SAFE_HEIGHT if may_rise else float(target[2]))


def _move_by(target: FloatArray, offset: FloatArray, height: float) -> FloatArray:
    """Return the action (3,) that moves the tip target by ``offset`` (2,) m, to ``height`` m."""
    return np.clip(np.array([*offset, height - target[2]]) / ACTION_METRES, -1.0, 1.0)
