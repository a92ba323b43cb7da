"""Where the arm's shapes are, and how near to each other, to the table and to obstacles.

Shapes come from the URDF and from declared obstacles (pinocchio + coal). A cylinder with a ball
at either end, as URDFs describe capsules, is made one capsule: a ninth of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import coal
import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from .arm import Arm, ArmError
from .config import ObstacleConfig
from .types import FloatArray

ON_PLANE = 1e-3
"""m, shapes lower than this at home rest on the base plane for good."""
SAME = 1e-6
"""m by which the parts of a capsule may differ."""


@dataclass(frozen=True)
class Shape:
    """One of the arm's collision shapes about its centre: a box, grown by a disc and by a ball.

    A capsule or a cylinder is a line along z, grown by the one or the other.

    Attributes:
        name: of the shape, which begins with its link's.
        half: (3,) m, half sizes of the box; it holds shapes that are none of these.
        disc, ball: m, radii; the disc lies across z.
    """

    name: str
    half: FloatArray
    disc: float
    ball: float


@dataclass(frozen=True)
class Pose:
    """The arm at one joint vector; all in the base frame.

    Attributes:
        q: (J,) rad.
        points: (E, 3) m, points whose hull, grown by a radius, holds each shape; the tip is last.
        heights: (G,) m, lowest point of each of the arm's G shapes above z = 0.
        distances: (K,) m, of each pair of shapes; negative: they overlap by so much.
    """

    q: FloatArray
    points: FloatArray
    heights: FloatArray
    distances: FloatArray

    @property
    def tip(self) -> FloatArray:
        """(3,) m."""
        return self.points[-1]


class Scene:
    """The arm's collision shapes, the pairs that must not touch, and declared obstacles.

    Pairs: all shapes of links that are no neighbours and no allowed contact, and every moving
    shape with every obstacle.

    Attributes:
        names: (K,) what each pair is: two links, or a link and an obstacle.
        is_obstacle: (K,) whether the second of a pair is an obstacle.
        shapes: the arm's G shapes.
    """

    def __init__(self, arm: Arm, obstacles: tuple[ObstacleConfig, ...] = ()) -> None:
        self._arm, self._model = arm, arm.model
        self._data = self._model.createData()
        base = self._model.frames[self._model.getFrameId(arm.config.base_link)]
        if base.parentJoint != 0:
            raise ArmError(f'base_link {arm.config.base_link}: the joints must not move it')
        self._from_world = base.placement.inverse().homogeneous
        self._geometry = pin.GeometryModel()
        for shape in _with_capsules(arm.geometry.geometryObjects):
            self._geometry.addGeometryObject(shape)
        self._count = self._geometry.ngeoms
        for obstacle in obstacles:
            placement = base.placement * _placement(obstacle)
            shape = pin.GeometryObject(obstacle.name, 0, 0, placement, _shape(obstacle))
            self._geometry.addGeometryObject(shape)
        self._add_pairs()
        self._geometry_data = self._geometry.createData()
        self._results = list(self._geometry_data.distanceResults)
        self._describe_shapes()
        self._describe_points()
        is_moving = self._joint[: self._count] > 0
        self._above_plane = is_moving & (self.at(arm.home).heights > ON_PLANE)

    def at(self, q: FloatArray) -> Pose:
        """The arm at joints ``q`` (J,) rad."""
        in_model = self._arm.to_model(q)
        pin.computeDistances(
            self._model, self._data, self._geometry, self._geometry_data, in_model
        )
        poses = self._joint_poses()
        distances = np.array([result.min_distance for result in self._results])
        return Pose(q, self._points_in(poses), self._heights_in(poses), distances)

    def points(self, q: FloatArray) -> FloatArray:
        """(E, 3) m, the ``points`` of the arm at joints ``q`` (J,), without distances."""
        pin.forwardKinematics(self._model, self._data, self._arm.to_model(q))
        return self._points_in(self._joint_poses())

    def placements(self, q: FloatArray) -> FloatArray:
        """(G, 4, 4) poses of the centres of ``shapes`` in the base frame, at joints ``q`` (J,)."""
        pin.forwardKinematics(self._model, self._data, self._arm.to_model(q))
        local = np.tile(np.eye(4), (self._count, 1, 1))
        local[:, :3, :3], local[:, :3, 3] = self._turn, self._centre
        return self._joint_poses()[self._joint[: self._count]] @ local

    def self_collision(self, q: FloatArray) -> tuple[str, str] | None:
        """The pair of links that overlap most at joints ``q`` (J,), or None."""
        distances = np.where(self.is_obstacle, np.inf, self.at(q).distances)
        if not distances.size or distances.min() > 0.0:
            return None
        return self.names[int(np.argmin(distances))]

    def obstacle_distance(self, q: FloatArray) -> float:
        """m from the arm at joints ``q`` (J,) to the nearest obstacle; negative: it overlaps."""
        distances = self.at(q).distances[self.is_obstacle]
        return float(distances.min()) if distances.size else np.inf

    def clearance_below(self, pose: Pose) -> float:
        """m, height of the arm's lowest point above the base plane (z = 0).

        Exact for balls, capsules, cylinders and boxes; other shapes count with their bounding
        box. The base link, and shapes that touch the plane or reach below it already at home,
        are left out.
        """
        heights = pose.heights[self._above_plane]
        return float(heights.min()) if heights.size else np.inf

    def lowest(self, points: FloatArray) -> float:
        """m, a lower bound of ``clearance_below`` for every pose between two ``points``."""
        low = np.minimum.reduceat(points[:-1, 2], self._starts)[: self._count] - self._round
        low = low[self._above_plane]
        return float(low.min()) if low.size else np.inf

    def curvature(self, motion: FloatArray) -> FloatArray:
        """(E,) m, bound of the second derivative of the points along a straight joint motion.

        For q(s) = q0 + s motion, s in [0, 1]: d2p/dqi dqj is no longer than the reach from the
        later of the two joints to the point, whatever q (the joints' axes are unit vectors).
        """
        amount = np.abs(self._arm.to_model(motion))
        before = np.cumsum(amount) - amount
        return self._reach @ (amount * (amount + 2.0 * before))

    def of_shapes(self, values: FloatArray) -> FloatArray:
        """(G + obstacles,) the largest of each shape's ``values`` (E,) at its points."""
        return np.maximum.reduceat(values[:-1], self._starts)

    def of_pairs(self, values: FloatArray) -> FloatArray:
        """(K,) the sum of two shapes' ``values`` (G + obstacles,)."""
        return values[self._first] + values[self._second]

    def closing(self, motion: FloatArray) -> FloatArray:
        """(K,) m by which each pair can come closer along straight joint motions of ``motion``.

        Joints that move both shapes alike do not count.
        """
        return self._relative_reach @ np.abs(self._arm.to_model(motion))

    def _joint_poses(self) -> FloatArray:
        """(joints + 1, 4, 4) in the base frame, after forward kinematics."""
        return self._from_world @ np.array([pose.homogeneous for pose in self._data.oMi])

    def _points_in(self, poses: FloatArray) -> FloatArray:
        at = poses[self._point_joint]
        return np.einsum('eij,ej->ei', at[:, :3, :3], self._local) + at[:, :3, 3]

    def _heights_in(self, poses: FloatArray) -> FloatArray:
        at = poses[self._joint[: self._count]][:, 2]
        centre = np.einsum('gj,gj->g', at[:, :3], self._centre) + at[:, 3]
        up = np.einsum('gj,gji->gi', at[:, :3], self._turn)
        lean = np.sqrt(np.maximum(0.0, 1.0 - up[:, 2] ** 2))
        reach = np.einsum('gi,gi->g', np.abs(up), self._half) + self._disc * lean + self._round
        return centre - reach

    def _add_pairs(self) -> None:
        allowed = {frozenset(pair) for pair in self._arm.config.allowed_contacts}
        shapes, names, pairs = self._geometry.geometryObjects, [], []
        for i, first in enumerate(shapes):
            for j in range(i + 1, len(shapes)):
                is_obstacle = j >= self._count
                if self._are_neighbours(first.parentJoint, shapes[j].parentJoint):
                    continue  # so are two obstacles, both of the world
                pair = (_link(first), shapes[j].name if is_obstacle else _link(shapes[j]))
                if not is_obstacle and frozenset(pair) in allowed:
                    continue
                self._geometry.addCollisionPair(pin.CollisionPair(i, j))
                names.append(pair)
                pairs.append((i, j))
        both = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        self._first, self._second = both[:, 0], both[:, 1]
        self.names: list[tuple[str, str]] = names
        self.is_obstacle: NDArray[np.bool_] = self._second >= self._count

    def _are_neighbours(self, a: int, b: int) -> bool:
        parents = self._model.parents
        return a == b or parents[a] == b or parents[b] == a

    def _describe_shapes(self) -> None:
        """How far each shape reaches: half a box, a disc across z, a ball around."""
        shapes = self._geometry.geometryObjects
        self._joint = np.array([s.parentJoint for s in shapes], dtype=np.intp)
        arm_shapes = list(shapes)[: self._count]
        centres, turns, sizes = [], [], []
        for shape in arm_shapes:
            centre, half, disc, round_ = _extent(shape.geometry)
            centres.append(shape.placement.act(centre))
            turns.append(shape.placement.rotation)
            sizes.append((*half, disc, round_))
        self._centre = np.array(centres).reshape(-1, 3)
        self._turn = np.array(turns).reshape(-1, 3, 3)
        size = np.array(sizes).reshape(-1, 5)
        self._half, self._disc, self._round = size[:, :3], size[:, 3], size[:, 4]
        self.shapes = tuple(
            Shape(shape.name, row[:3], float(row[3]), float(row[4]))
            for shape, row in zip(arm_shapes, size, strict=True)
        )

    def _describe_points(self) -> None:
        local, joints, starts = [], [], []
        for shape in self._geometry.geometryObjects:
            starts.append(len(local))
            for corner in _corners(shape.geometry):
                local.append(shape.placement.act(corner))
                joints.append(shape.parentJoint)
        tip = self._model.frames[self._model.getFrameId(self._arm.config.tip_link)]
        local.append(tip.placement.translation)
        joints.append(tip.parentJoint)
        self._local, self._starts = np.array(local), np.array(starts, dtype=np.intp)
        self._point_joint = np.array(joints, dtype=np.intp)
        self._reach = np.array([self._reaches(p, j) for p, j in zip(local, joints, strict=True)])
        of_shape = np.maximum.reduceat(self._reach[:-1], self._starts, axis=0)
        first, second = of_shape[self._first], of_shape[self._second]
        moves_both = (first > 0.0) & (second > 0.0)
        self._relative_reach = np.where(moves_both, 0.0, first + second)

    def _reaches(self, point: FloatArray, joint: int) -> FloatArray:
        """(J,) m, in the model's order, from each joint to the point, at most; 0: unmoved.

        A sliding joint moves every point by its own way (1 m/m) and lengthens the arm by it.
        """
        reach, length = np.zeros(self._model.nv), float(np.linalg.norm(point))
        while joint > 0:
            i = self._model.joints[joint].idx_v
            if self._model.joints[joint].shortname().startswith('JointModelP'):
                reach[i] = 1.0
                limits = self._model.lowerPositionLimit[i], self._model.upperPositionLimit[i]
                length += float(np.max(np.abs(limits)))
            else:
                reach[i] = length
            length += float(np.linalg.norm(self._model.jointPlacements[joint].translation))
            joint = self._model.parents[joint]
        return reach


def _link(shape: pin.GeometryObject) -> str:
    return shape.name.rsplit('_', 1)[0]


def _kind(geometry: coal.CollisionGeometry) -> str:
    return type(geometry).__name__


def _with_capsules(shapes: Iterator[pin.GeometryObject]) -> Iterator[pin.GeometryObject]:
    """The shapes, each cylinder with its two balls made one capsule."""
    rest = list(shapes)
    for shape in [s for s in rest if _kind(s.geometry) == 'Cylinder']:
        half, radius = shape.geometry.halfLength, shape.geometry.radius
        ends = [shape.placement.act(np.array([0.0, 0.0, z])) for z in (-half, half)]
        balls = [
            next((s for s in rest if _is_ball(s, shape.parentJoint, radius, end)), None)
            for end in ends
        ]
        if all(ball is not None for ball in balls):
            drop = {shape.name, *(ball.name for ball in balls if ball is not None)}
            rest = [s for s in rest if s.name not in drop]
            capsule = coal.Capsule(radius, 2.0 * half)
            yield pin.GeometryObject(
                shape.name, shape.parentJoint, shape.parentFrame, shape.placement, capsule
            )
    yield from rest


def _is_ball(shape: pin.GeometryObject, joint: int, radius: float, centre: FloatArray) -> bool:
    return (
        _kind(shape.geometry) == 'Sphere'
        and shape.parentJoint == joint
        and abs(shape.geometry.radius - radius) < SAME
        and bool(np.linalg.norm(shape.placement.translation - centre) < SAME)
    )


def _extent(
    geometry: coal.CollisionGeometry,
) -> tuple[FloatArray, tuple[float, float, float], float, float]:
    """Centre (3,), half sizes, radius across z and radius around, of a shape in its own frame."""
    kind, zero = _kind(geometry), np.zeros(3)
    if kind == 'Sphere':
        return zero, (0.0, 0.0, 0.0), 0.0, float(geometry.radius)
    if kind == 'Capsule':
        return zero, (0.0, 0.0, float(geometry.halfLength)), 0.0, float(geometry.radius)
    if kind == 'Cylinder':
        return zero, (0.0, 0.0, float(geometry.halfLength)), float(geometry.radius), 0.0
    geometry.computeLocalAABB()
    low, high = geometry.aabb_local.min_, geometry.aabb_local.max_
    half = (high - low) / 2.0
    return (low + high) / 2.0, (float(half[0]), float(half[1]), float(half[2])), 0.0, 0.0


def _corners(geometry: coal.CollisionGeometry) -> Iterator[FloatArray]:
    """Points of a shape whose hull, grown by its radius around, holds the shape."""
    centre, half, disc, _ = _extent(geometry)
    size = np.array(half) + np.array([disc, disc, 0.0])
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    yield from centre + np.unique(signs * size, axis=0)


def _shape(obstacle: ObstacleConfig) -> coal.CollisionGeometry:
    make = {'box': coal.Box, 'sphere': coal.Sphere, 'capsule': coal.Capsule}
    return make[obstacle.shape](*obstacle.size)


def _placement(obstacle: ObstacleConfig) -> pin.SE3:
    return pin.SE3(pin.rpy.rpyToMatrix(*obstacle.rpy), np.array(obstacle.xyz))
