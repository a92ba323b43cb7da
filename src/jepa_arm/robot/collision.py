"""Collision model: distances among the arm's shapes and to the table and declared obstacles.

Shapes come from the URDF and from the configuration (pinocchio and coal). A cylinder with a
sphere at either end, as URDFs describe capsules, becomes one capsule, which reduces the number of
pairs ninefold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import coal
import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from jepa_arm.config import ObstacleConfig
from jepa_arm.core.types import FloatArray

from .arm import Arm, ArmError

ON_PLANE_M = 1e-3
"""Shapes lower than this at home rest on the base plane and are not checked against it."""
CAPSULE_TOLERANCE_M = 1e-6
"""Tolerance within which two spheres must fit a cylinder's radius and ends to form a capsule."""


@dataclass(frozen=True)
class CollisionShape:
    """Collision shape in its own frame: the Minkowski sum of a box, a disc and a ball.

    A cylinder is a segment along z plus a disc, a capsule a segment plus a ball. A mesh is
    represented by its bounding box.

    Attributes:
        name: starts with the link's name.
        centre: (3,) m, centre of the box.
        half: (3,) m, half sizes of the box.
        disc, ball: m, radii; the disc is perpendicular to z.
    """

    name: str
    centre: FloatArray
    half: FloatArray
    disc: float
    ball: float


@dataclass(frozen=True)
class CollisionState:
    """Shapes and distances of the arm at one joint vector, in the base frame.

    Attributes:
        q: (J,) rad.
        points: (E, 3) m, hull points of all shapes, obstacles included, then the tip. The convex
            hull of a shape's points, inflated by its ball radius, contains the shape.
        heights: (G,) m, lowest point of each of the arm's G shapes above z = 0.
        distances: (K,) m, between the two shapes of each pair; negative if they overlap.
    """

    q: FloatArray
    points: FloatArray
    heights: FloatArray
    distances: FloatArray

    @property
    def tip(self) -> FloatArray:
        """Tip position (3,) m."""
        return self.points[-1]


class CollisionModel:
    """Collision shapes of arm and obstacles, and the pairs that must not touch.

    Two shapes of the arm form a pair if their links are neither neighbours nor allowed contacts.
    Each obstacle forms a pair with each shape of the arm beyond the first moving link.

    Attributes:
        names: names of the K pairs: two links, or a link and an obstacle.
        is_obstacle: (K,) True if the second shape of the pair is an obstacle.
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
            rotation = pin.rpy.rpyToMatrix(*obstacle.rpy)
            placement = base.placement * pin.SE3(rotation, np.array(obstacle.xyz))
            shape = pin.GeometryObject(obstacle.name, 0, 0, placement, _shape(obstacle))
            self._geometry.addGeometryObject(shape)
        self.names, pairs = self._collision_pairs()
        for first, second in pairs:
            self._geometry.addCollisionPair(pin.CollisionPair(int(first), int(second)))
        self._first, self._second = pairs[:, 0], pairs[:, 1]
        self.is_obstacle: NDArray[np.bool_] = self._second >= self._count
        self._geometry_data = self._geometry.createData()
        self._results = list(self._geometry_data.distanceResults)

        shapes = list(self._geometry.geometryObjects)
        self._joint = np.array([shape.parentJoint for shape in shapes], dtype=np.intp)
        arm_shapes = shapes[: self._count]
        self.shapes = tuple(map(_collision_shape, arm_shapes))
        placed = zip(arm_shapes, self.shapes, strict=True)
        centres = [geometry.placement.act(shape.centre) for geometry, shape in placed]
        self._centre = np.array(centres).reshape(-1, 3)
        self._rotation = np.array([s.placement.rotation for s in arm_shapes]).reshape(-1, 3, 3)
        self._half = np.array([shape.half for shape in self.shapes]).reshape(-1, 3)
        self._disc = np.array([shape.disc for shape in self.shapes])
        self._ball = np.array([shape.ball for shape in self.shapes])

        corners = [[s.placement.act(c) for c in _corners(s)] for s in shapes]
        counts = [len(points) for points in corners]
        tip = self._model.frames[self._model.getFrameId(arm.config.tip_link)]
        self._local = np.array(
            [*(p for points in corners for p in points), tip.placement.translation]
        )
        self._starts = np.cumsum([0, *counts[:-1]]).astype(np.intp)
        self._point_joint = np.append(np.repeat(self._joint, counts), tip.parentJoint)
        self._reach = np.array(
            [self._reaches(p, int(j)) for p, j in zip(self._local, self._point_joint, strict=True)]
        )
        shape_reach = np.maximum.reduceat(self._reach[:-1], self._starts, axis=0)
        first, second = shape_reach[self._first], shape_reach[self._second]
        moves_both = (first > 0.0) & (second > 0.0)
        self._relative_reach = np.where(moves_both, 0.0, first + second)
        is_moving = self._joint[: self._count] > 0
        self._above_plane = is_moving & (self.evaluate(arm.home).heights > ON_PLANE_M)

    def evaluate(self, q: FloatArray) -> CollisionState:
        """Return shapes and distances at joints ``q`` (J,) rad."""
        in_model = self._arm.to_model(q)
        pin.computeDistances(
            self._model, self._data, self._geometry, self._geometry_data, in_model
        )
        poses = self._joint_poses()
        distances = np.array([result.min_distance for result in self._results])
        return CollisionState(q, self._points_in(poses), self._heights_in(poses), distances)

    def points(self, q: FloatArray) -> FloatArray:
        """Return the hull points (E, 3) m at joints ``q`` (J,), without distances."""
        pin.forwardKinematics(self._model, self._data, self._arm.to_model(q))
        return self._points_in(self._joint_poses())

    def shape_poses(self, q: FloatArray) -> FloatArray:
        """Return the poses (G, 4, 4) of ``shapes`` in the base frame at joints ``q`` (J,)."""
        pin.forwardKinematics(self._model, self._data, self._arm.to_model(q))
        local = np.tile(np.eye(4), (self._count, 1, 1))
        local[:, :3, :3], local[:, :3, 3] = self._rotation, self._centre
        return self._joint_poses()[self._joint[: self._count]] @ local

    def self_collision(self, q: FloatArray) -> tuple[str, str] | None:
        """Return the pair of links that overlap most at joints ``q`` (J,), or None."""
        distances = np.where(self.is_obstacle, np.inf, self.evaluate(q).distances)
        if not distances.size or distances.min() > 0.0:
            return None
        return self.names[int(np.argmin(distances))]

    def obstacle_distance(self, q: FloatArray) -> float:
        """Return the distance (m) to the nearest obstacle at joints ``q`` (J,); < 0: overlap."""
        distances = self.evaluate(q).distances[self.is_obstacle]
        return float(distances.min()) if distances.size else np.inf

    def ground_clearance(self, state: CollisionState) -> float:
        """Return the height (m) of the arm's lowest point above the base plane (z = 0).

        Spheres, capsules, cylinders and boxes are exact; other shapes count with their bounding
        box. The base link, and shapes that touch the plane at home, are left out.
        """
        heights = state.heights[self._above_plane]
        return float(heights.min()) if heights.size else np.inf

    def min_ground_clearance(self, points: FloatArray) -> float:
        """Return a lower bound (m) of ``ground_clearance`` from hull ``points`` (E, 3)."""
        low = np.minimum.reduceat(points[:-1, 2], self._starts)[: self._count] - self._ball
        low = low[self._above_plane]
        return float(low.min()) if low.size else np.inf

    def curvature_bound(self, motion: FloatArray) -> FloatArray:
        """Return bounds (E,) m on each point's second derivative along a straight joint motion.

        The motion is q(s) = q0 + s * motion, s in [0, 1]. For every q, the norm of d2p/dqi dqj is
        at most the reach from the later of the two joints to point p (the axes are unit vectors).
        """
        amount = np.abs(self._arm.to_model(motion))
        before = np.cumsum(amount) - amount
        return self._reach @ (amount * (amount + 2.0 * before))

    def max_per_shape(self, values: FloatArray) -> FloatArray:
        """Return each shape's largest value (G + obstacles,) from its points' ``values`` (E,)."""
        return np.maximum.reduceat(values[:-1], self._starts)

    def sum_per_pair(self, values: FloatArray) -> FloatArray:
        """Return, per pair, the sum (K,) of its two shapes' ``values`` (G + obstacles,)."""
        return values[self._first] + values[self._second]

    def approach_bound(self, motion: FloatArray) -> FloatArray:
        """Return bounds (K,) m on how much closer each pair can come along a straight ``motion``.

        Joints that move both shapes of a pair rigidly together do not count.
        """
        return self._relative_reach @ np.abs(self._arm.to_model(motion))

    def _joint_poses(self) -> FloatArray:
        """Return the joint poses (joints + 1, 4, 4) in the base frame, as last computed."""
        return self._from_world @ np.array([pose.homogeneous for pose in self._data.oMi])

    def _points_in(self, poses: FloatArray) -> FloatArray:
        at = poses[self._point_joint]
        return np.einsum('eij,ej->ei', at[:, :3, :3], self._local) + at[:, :3, 3]

    def _heights_in(self, poses: FloatArray) -> FloatArray:
        at = poses[self._joint[: self._count]][:, 2]
        centre = np.einsum('gj,gj->g', at[:, :3], self._centre) + at[:, 3]
        up = np.einsum('gj,gji->gi', at[:, :3], self._rotation)
        lean = np.sqrt(np.maximum(0.0, 1.0 - up[:, 2] ** 2))
        reach = np.einsum('gi,gi->g', np.abs(up), self._half) + self._disc * lean + self._ball
        return centre - reach

    def _collision_pairs(self) -> tuple[list[tuple[str, str]], NDArray[np.intp]]:
        """Return names and shape indices (K, 2) of the pairs that must not touch."""
        allowed = {frozenset(pair) for pair in self._arm.config.allowed_contacts}
        parents, names, pairs = self._model.parents, [], []
        shapes = self._geometry.geometryObjects
        for i, first in enumerate(shapes):
            for j in range(i + 1, len(shapes)):
                is_obstacle = j >= self._count
                a, b = first.parentJoint, shapes[j].parentJoint
                if a == b or parents[a] == b or parents[b] == a:
                    continue  # also skips two obstacles: both belong to the world
                pair = (_link(first), shapes[j].name if is_obstacle else _link(shapes[j]))
                if not is_obstacle and frozenset(pair) in allowed:
                    continue
                names.append(pair)
                pairs.append((i, j))
        return names, np.array(pairs, dtype=np.intp).reshape(-1, 2)

    def _reaches(self, point: FloatArray, joint: int) -> FloatArray:
        """Return each joint's largest possible distance (J,) m to a point, in the model's order.

        It is 0 for joints that do not move the point. For a prismatic joint it is 1 (m per m), and
        the joint's largest displacement is added to the distances of the joints before it.

        Args:
            point: (3,) m in the frame of ``joint``.
            joint: index of the last joint that moves the point.
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
    """Yield the shapes, each cylinder with its two spheres replaced by a capsule."""
    rest = list(shapes)
    for shape in [s for s in rest if _kind(s.geometry) == 'Cylinder']:
        half, radius = shape.geometry.halfLength, shape.geometry.radius
        ends = [shape.placement.act(np.array([0.0, 0.0, z])) for z in (-half, half)]
        spheres = [
            next((s for s in rest if _is_end_sphere(s, shape.parentJoint, radius, end)), None)
            for end in ends
        ]
        if all(sphere is not None for sphere in spheres):
            drop = {shape.name, *(sphere.name for sphere in spheres if sphere is not None)}
            rest = [s for s in rest if s.name not in drop]
            capsule = coal.Capsule(radius, 2.0 * half)
            yield pin.GeometryObject(
                shape.name, shape.parentJoint, shape.parentFrame, shape.placement, capsule
            )
    yield from rest


def _is_end_sphere(
    shape: pin.GeometryObject, joint: int, radius: float, centre: FloatArray
) -> bool:
    return (
        _kind(shape.geometry) == 'Sphere'
        and shape.parentJoint == joint
        and abs(shape.geometry.radius - radius) < CAPSULE_TOLERANCE_M
        and bool(np.linalg.norm(shape.placement.translation - centre) < CAPSULE_TOLERANCE_M)
    )


def _collision_shape(shape: pin.GeometryObject) -> CollisionShape:
    geometry, zero = shape.geometry, np.zeros(3)
    kind = _kind(geometry)
    if kind == 'Sphere':
        return CollisionShape(shape.name, zero, zero, 0.0, float(geometry.radius))
    if kind in ('Capsule', 'Cylinder'):
        half, radius = np.array([0.0, 0.0, geometry.halfLength]), float(geometry.radius)
        disc, ball = (0.0, radius) if kind == 'Capsule' else (radius, 0.0)
        return CollisionShape(shape.name, zero, half, disc, ball)
    geometry.computeLocalAABB()
    low, high = geometry.aabb_local.min_, geometry.aabb_local.max_
    return CollisionShape(shape.name, (low + high) / 2.0, (high - low) / 2.0, 0.0, 0.0)


def _corners(geometry: pin.GeometryObject) -> Iterator[FloatArray]:
    """Yield points of a shape whose hull, inflated by the ball radius, contains the shape."""
    shape = _collision_shape(geometry)
    size = shape.half + np.array([shape.disc, shape.disc, 0.0])
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    yield from shape.centre + np.unique(signs * size, axis=0)


def _shape(obstacle: ObstacleConfig) -> coal.CollisionGeometry:
    make = {'box': coal.Box, 'sphere': coal.Sphere, 'capsule': coal.Capsule}
    return make[obstacle.shape](*obstacle.size)
