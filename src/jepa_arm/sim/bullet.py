"""PyBullet world: physics, joint servo and cameras of the virtual arm. No task, no reward."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepa_arm.config import CameraConfig, ObstacleConfig, SimConfig, WristCameraConfig
from jepa_arm.core.types import FloatArray, ImageArray, Observation
from jepa_arm.robot.arm import Arm

from .scene import DEFAULT_OBSTACLE_RGB, Scene, SceneObject, WorldState

try:
    import pybullet
except ImportError as error:
    raise ImportError(
        'the virtual arm needs PyBullet, which has wheels for Python 3.10 to 3.13: '
        'pip install pybullet (3.10, 3.11) or pip install pybullet-arm64 (3.12, 3.13)'
    ) from error

TABLE_SIZE = (1.0, 1.2, 0.1)
TABLE_CENTRE = (0.45, 0.0, -0.05)
TABLE_RGB = (0.62, 0.56, 0.48)
DEFAULT_OBJECT_POSITION, DEFAULT_OBJECT_RGB = (0.5, 0.0), (0.8, 0.1, 0.1)
STILL_JOINTS, STILL_OBJECT = 1e-6, 1e-3
"""Speeds (rad/s; m/s and rad/s) below which arm and object are still; PyBullet reports a cube at
rest at 2e-4 rad/s."""
CONTACT_DISTANCE = 5e-4
"""Distance (m) below which two bodies touch; PyBullet also reports points farther apart."""
CYLINDER_ROLLING_FRICTION = 0.002
"""m; without it a cylinder that was knocked over would roll off the table."""
NEAR_PLANE, FAR_PLANE = 0.05, 4.0
"""Clipping planes (m) of the cameras."""


class _PhysicsServer:
    """Connection to PyBullet; pybullet_utils' BulletClient would print a line per connection."""

    def __init__(self, mode: int) -> None:
        self._client = pybullet.connect(mode)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the function ``name`` of PyBullet for this connection."""
        return functools.partial(getattr(pybullet, name), physicsClientId=self._client)


class BulletWorld:
    """Simulated world: an arm, a table, an object, fixed obstacles and a fixed camera.

    The same scene and the same commands give the same trajectory every time. The world frame is
    the base frame of the arm.

    Attributes:
        arm: kinematics and limits.
        config: physics and timing.
        scene_object: the object.
        time: s since the reset.
        has_touched_obstacle: True if the arm has touched an obstacle since the reset.
    """

    def __init__(self, arm: Arm, config: SimConfig, gui: bool = False) -> None:
        """Connect to a physics server and build the world without obstacles.

        Args:
            arm: kinematics, limits and cameras.
            config: physics and timing.
            gui: show the simulation in a window.
        """
        self.arm = arm
        self.config = config
        self._mode = pybullet.GUI if gui else pybullet.DIRECT
        self._bullet = _PhysicsServer(self._mode)
        self._max_efforts = arm.effort_limit.tolist()
        self._max_velocities = arm.max_velocity.tolist()
        self._robot = self._object = -1
        self._joints: list[int] = []
        self._obstacles: list[int] = []
        self._camera_offset = np.zeros(3)
        self._light: dict[str, list[float]] = {}
        self.time, self.has_touched_obstacle = 0.0, False
        self._build(self._cube(), (), None)

    def close(self) -> None:
        """Free the physics server."""
        if self._bullet.isConnected():
            self._bullet.disconnect()

    def reset(self, scene: Scene) -> WorldState:
        """Rebuild the world from ``scene``, at time 0 and at rest, and return its state."""
        if self._mode == pybullet.GUI:
            self._bullet.resetSimulation()
        else:  # resetSimulation leaks 11 kB per world
            self._bullet.disconnect()
            self._bullet = _PhysicsServer(self._mode)
        self._build(scene.scene_object or self._cube(), scene.obstacles, scene.obstacle_rgb)
        self.place_arm(scene.joints)
        self.move_object(scene.object_position, scene.object_yaw)
        self.set_object_colour(scene.object_rgb)
        return self.state()

    def command(self, position: FloatArray, velocity: FloatArray) -> None:
        """Set the target of the joint servo, which respects the arm's velocity limits.

        Args:
            position: (J,) rad.
            velocity: (J,) rad/s.
        """
        limits = self._max_efforts, self._max_velocities
        targets = zip(self._joints, position, velocity, *limits, strict=True)
        for joint, angle, speed, effort, max_velocity in targets:
            self._bullet.setJointMotorControl2(
                self._robot,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=angle,
                targetVelocity=speed,
                force=effort,
                maxVelocity=max_velocity,
                positionGain=self.config.position_gain,
                velocityGain=self.config.velocity_gain,
            )

    def step(self) -> None:
        """Advance by one tick (``stream_dt``)."""
        for _ in range(self.config.time.substeps):
            self._bullet.stepSimulation()
        self.time += self.config.time.stream_dt
        self.has_touched_obstacle |= self._touches_obstacle(self._robot)

    def state(self) -> WorldState:
        """Return the ground truth of the present moment."""
        joints, velocity = self.joints()
        position, quaternion = self._bullet.getBasePositionAndOrientation(self._object)
        contacts = self._bullet.getContactPoints(self._robot, self._object)
        return WorldState(
            joints=joints,
            joint_velocity=velocity,
            tip_position=self.arm.tip_position(joints),
            object_position=np.array(position),
            object_quaternion=np.array(quaternion),
            contact=bool(contacts),
            time=self.time,
            object_touches_obstacle=self._touches_obstacle(self._object),
        )

    def joints(self) -> tuple[FloatArray, FloatArray]:
        """Return the measured joint positions (J,) rad and velocities (J,) rad/s."""
        states = self._bullet.getJointStates(self._robot, self._joints)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def is_still(self) -> bool:
        """Return whether neither the arm nor the object moves."""
        velocity = self._bullet.getBaseVelocity(self._object)
        is_object_still = bool(np.abs(velocity).max() < STILL_OBJECT)
        return is_object_still and bool(np.abs(self.joints()[1]).max() < STILL_JOINTS)

    def image(self) -> ImageArray:
        """Render the camera image (h, w, 3) uint8 RGB, with any wrist camera's image below it."""
        camera = self.arm.config.camera
        eye_and_target = np.array([camera.position, camera.look_at]) + self._camera_offset
        image = self._render(camera, eye_and_target)
        if camera.wrist is None:
            return image
        tip = self.arm.tip_pose(self.joints()[0])
        in_tip_frame = np.array([camera.wrist.position, camera.wrist.look_at])
        eye_and_target = in_tip_frame @ tip[:3, :3].T + tip[:3, 3]
        up = (tip[:3, :3] @ self.arm.config.tool_from).tolist()
        return np.concatenate([image, self._render(camera.wrist, eye_and_target, up)])

    def observe(self) -> Observation:
        """Return the present image and joints; the stamp is the time since the reset."""
        return Observation(image=self.image(), joints=self.joints()[0], stamp=self.time)

    def render_goal(self, scene: Scene, subject: str) -> Observation:
        """Return the observation at the goal of ``scene``; resets the world.

        Args:
            scene: the arm is placed at its ``goal_joints``.
            subject: 'object' moves the object to the goal; 'tip' leaves it at its start.
        """
        self.reset(scene)
        self.place_arm(scene.goal_joints)
        if subject == 'object':
            yaw = scene.object_yaw if scene.goal_yaw is None else scene.goal_yaw
            self.move_object(scene.goal[:2], yaw)
        return self.observe()

    def place_arm(self, q: FloatArray) -> None:
        """Put the arm at rest at ``q`` (J,) rad, and command it to stay there."""
        for joint, value in zip(self._joints, q, strict=True):
            self._bullet.resetJointState(self._robot, joint, float(value), 0.0)
        self.command(np.asarray(q, dtype=float), np.zeros(len(self._joints)))

    def move_object(self, position: FloatArray, yaw: float) -> None:
        """Put the object at rest at ``position`` (2,) m on the table, at ``yaw`` (rad)."""
        centre = (*position[:2], self.scene_object.height / 2.0)
        quaternion = pybullet.getQuaternionFromEuler((0.0, 0.0, yaw))
        self._bullet.resetBasePositionAndOrientation(self._object, centre, quaternion)
        self._bullet.resetBaseVelocity(self._object, (0, 0, 0), (0, 0, 0))

    def set_object_colour(self, rgb: FloatArray) -> None:
        """Set the object's colour ``rgb`` (3,) in [0, 1]."""
        self._bullet.changeVisualShape(self._object, -1, rgbaColor=[*rgb, 1.0])

    def scale_object_friction(self, factor: float) -> None:
        """Multiply the object's friction by ``factor`` until the next reset."""
        friction = self.scene_object.friction * factor
        self._bullet.changeDynamics(self._object, -1, lateralFriction=friction)

    def add_object(self, position: FloatArray, rgb: FloatArray) -> None:
        """Add a second object, the standard cube, at ``position`` (2,) m until the next reset."""
        cube = self._cube()
        self._add_object(cube, (*position[:2], cube.height / 2.0), rgb)

    def offset_camera(self, offset: FloatArray) -> None:
        """Move the camera and the point it looks at by ``offset`` (3,) m until the next reset."""
        self._camera_offset = offset

    def set_light(self, direction: FloatArray, colour: FloatArray) -> None:
        """Light the scene from ``direction`` (3,) with ``colour`` (3,) until the next reset."""
        self._light = {'lightDirection': direction.tolist(), 'lightColor': colour.tolist()}

    def _render(
        self,
        camera: CameraConfig | WristCameraConfig,
        eye_and_target: FloatArray,
        up: Sequence[float] = (0.0, 0.0, 1.0),
    ) -> ImageArray:
        """Return the image (h, w, 3) uint8 RGB of a camera.

        Args:
            camera: height and field of view.
            eye_and_target: (2, 3) m, positions of the camera and of the point it looks at.
            up: (3,) direction that points up in the image.
        """
        width, height = self.arm.config.camera.width, camera.height
        _, _, rgba, _, _ = self._bullet.getCameraImage(
            width,
            height,
            pybullet.computeViewMatrix(*eye_and_target.tolist(), up),
            pybullet.computeProjectionMatrixFOV(
                camera.fov_deg, width / height, NEAR_PLANE, FAR_PLANE
            ),
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
            **self._light,
        )
        # PyBullet returns a tuple of ints or an array; bytes() takes a quarter of np.array's time.
        image = np.frombuffer(bytes(rgba), dtype=np.uint8).reshape(height, width, 4)
        return image[:, :, :3].copy()

    def _cube(self) -> SceneObject:
        """Return the standard cube, as configured."""
        size, config = self.config.object_size, self.config
        return SceneObject('box', size, size, config.object_mass, config.friction)

    def _build(
        self,
        scene_object: SceneObject,
        obstacles: tuple[ObstacleConfig, ...],
        obstacle_rgb: FloatArray | None,
    ) -> None:
        self._bullet.setGravity(0, 0, -self.config.gravity)
        self._bullet.setPhysicsEngineParameter(
            fixedTimeStep=self.config.time.physics_dt,
            numSolverIterations=self.config.solver_iterations,
            deterministicOverlappingPairs=1,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'arm.urdf'
            path.write_text(self.arm.urdf)
            self._robot = self._bullet.loadURDF(str(path), useFixedBase=True)
        count = self._bullet.getNumJoints(self._robot)
        index = {self._bullet.getJointInfo(self._robot, i)[1].decode(): i for i in range(count)}
        self._joints = [index[name] for name in self.arm.joint_names]
        table = self._add_body('box', TABLE_SIZE, TABLE_CENTRE, TABLE_RGB)
        self.scene_object = scene_object
        centre = (*DEFAULT_OBJECT_POSITION, scene_object.height / 2)
        self._object = self._add_object(scene_object, centre, DEFAULT_OBJECT_RGB)
        if obstacle_rgb is None:
            obstacle_rgb = np.tile(DEFAULT_OBSTACLE_RGB, (len(obstacles), 1))
        self._obstacles = [
            self._add_body(each.shape, each.size, each.xyz, rgb, rpy=each.rpy)
            for each, rgb in zip(obstacles, obstacle_rgb, strict=True)
        ]
        for link in range(-1, self._bullet.getNumJoints(self._robot)):
            self._bullet.changeDynamics(self._robot, link, lateralFriction=self.config.friction)
        for link in range(-1, self._joints[0] + 1):  # the base always touches the table
            self._bullet.setCollisionFilterPair(self._robot, table, link, -1, enableCollision=0)
        self._camera_offset, self._light = np.zeros(3), {}
        self.time, self.has_touched_obstacle = 0.0, False
        self.place_arm(self.arm.home)

    def _add_object(
        self,
        scene_object: SceneObject,
        centre: Sequence[float],
        rgb: Sequence[float] | FloatArray,
    ) -> int:
        side, height = scene_object.size, scene_object.height
        is_box = scene_object.shape == 'box'
        size = (side, side, height) if is_box else (side / 2.0, height)
        body = self._add_body(scene_object.shape, size, centre, rgb, scene_object.mass)
        self._bullet.changeDynamics(body, -1, lateralFriction=scene_object.friction)
        if not is_box:
            self._bullet.changeDynamics(body, -1, rollingFriction=CYLINDER_ROLLING_FRICTION)
        return body

    def _add_body(
        self,
        shape: str,
        size: Sequence[float],
        centre: Sequence[float],
        rgb: Sequence[float] | FloatArray,
        mass: float = 0.0,
        rpy: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> int:
        """Add a body of one primitive shape with the friction of the configuration.

        Args:
            shape: 'box' (size: x, y, z), 'sphere' (radius), 'capsule' or 'cylinder' (radius and
                length along z; a capsule's length excludes its end caps).
            size: m, see ``shape``.
            centre: (x, y, z) m.
            rgb: in [0, 1].
            mass: kg; 0 fixes the body in place.
            rpy: rad, rotations about the fixed axes x, y and z.

        Returns:
            index of the body.
        """
        bullet, kind = self._bullet, getattr(pybullet, f'GEOM_{shape.upper()}')
        height, length = {}, {}  # PyBullet has two names for the length of a capsule or cylinder
        if shape == 'box':
            extent = {'halfExtents': [side / 2.0 for side in size]}
        else:
            extent = {'radius': size[0]}
            if len(size) == 2:
                height, length = {'height': size[1]}, {'length': size[1]}
        collision = bullet.createCollisionShape(kind, **extent, **height)
        visual = bullet.createVisualShape(kind, **extent, **length, rgbaColor=(*rgb, 1.0))
        orientation = pybullet.getQuaternionFromEuler(rpy)
        body = bullet.createMultiBody(mass, collision, visual, centre, orientation)
        bullet.changeDynamics(body, -1, lateralFriction=self.config.friction)
        return body

    def _touches_obstacle(self, body: int) -> bool:
        return any(
            point[8] < CONTACT_DISTANCE
            for obstacle in self._obstacles
            for point in self._bullet.getContactPoints(body, obstacle)
        )
