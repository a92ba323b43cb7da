"""The virtual arm in PyBullet: physics, joint servo and camera. No task, no reward."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arm import Arm
from ..config import CameraConfig, ObstacleConfig, SimConfig, WristCameraConfig
from ..types import FloatArray, ImageArray, Observation
from .world import OBSTACLE_RGB, Scene, Thing, WorldState

try:
    import pybullet
except ImportError as error:
    raise ImportError(
        'the virtual arm needs PyBullet, which has wheels for Python 3.10 to 3.13: '
        'pip install pybullet (3.10, 3.11) or pip install pybullet-arm64 (3.12, 3.13)'
    ) from error

TABLE_HALF = (0.5, 0.6, 0.05)
TABLE_CENTRE = (0.45, 0.0, -0.05)
TABLE_RGBA = (0.62, 0.56, 0.48, 1.0)
STILL_JOINTS, STILL_OBJECT = 1e-6, 1e-3
"""rad/s, and m/s or rad/s, below which nothing moves; a cube at rest seems to, by 2e-4 rad/s."""
TOUCHING = 5e-4
"""m, nearer than this two bodies touch; PyBullet reports contacts before they do."""
ROLLING = 0.002
"""m, PyBullet's rolling friction of cylinders."""
NEAR, FAR = 0.05, 4.0


class BulletWorld:
    """One arm, one table, one object, fixed obstacles and one fixed camera.

    The same scene and the same commands give the same trajectory every time. The base frame
    of the arm is the world frame.

    Attributes:
        thing: the object. has_touched: whether the arm has touched an obstacle since the reset.
    """

    def __init__(self, arm: Arm, config: SimConfig, gui: bool = False) -> None:
        self.arm = arm
        self.config = config
        self._mode = pybullet.GUI if gui else pybullet.DIRECT
        self._client = pybullet.connect(self._mode)
        self._build(self._standard(), (), None)

    def close(self) -> None:
        """Frees the physics server."""
        if self._client >= 0:
            pybullet.disconnect(self._client)
            self._client = -1

    def reset(self, scene: Scene) -> WorldState:
        """Builds the world anew as ``scene`` says, at time 0 and at rest."""
        if self._mode == pybullet.GUI:
            pybullet.resetSimulation(physicsClientId=self._client)
        else:  # resetSimulation keeps 11 kB of every world for ever
            pybullet.disconnect(self._client)
            self._client = pybullet.connect(self._mode)
        self._build(scene.thing or self._standard(), scene.obstacles, scene.obstacle_rgb)
        self.place_arm(scene.joints)
        self.move_object(scene.object_position, scene.object_yaw)
        self.colour_object(scene.object_rgb)
        return self.state()

    def command(self, position: FloatArray, velocity: FloatArray) -> None:
        """Sets the joint servo's target: (J,) rad and (J,) rad/s.

        As a drive does, it catches up no faster than the velocity limits of the arm.
        """
        targets = zip(self._joints, position, velocity, self._efforts, self._fastest, strict=True)
        for joint, angle, speed, effort, fastest in targets:
            pybullet.setJointMotorControl2(
                self._robot,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=angle,
                targetVelocity=speed,
                force=effort,
                maxVelocity=fastest,
                positionGain=self.config.position_gain,
                velocityGain=self.config.velocity_gain,
                physicsClientId=self._client,
            )

    def step(self) -> None:
        """Advances by one stream tick (``stream_dt``)."""
        for _ in range(self.config.time.substeps):
            pybullet.stepSimulation(physicsClientId=self._client)
        self.time += self.config.time.stream_dt
        self.has_touched = self.has_touched or self._touches_obstacle(self._robot)

    def state(self) -> WorldState:
        """Ground truth now."""
        joints, velocity = self.joints()
        position, quaternion = pybullet.getBasePositionAndOrientation(
            self._object, physicsClientId=self._client
        )
        contacts = pybullet.getContactPoints(
            self._robot, self._object, physicsClientId=self._client
        )
        return WorldState(
            joints=joints,
            joint_velocity=velocity,
            tip_position=self.arm.tip_position(joints),
            object_position=np.array(position),
            object_quaternion=np.array(quaternion),
            contact=bool(contacts),
            time=self.time,
            touches_obstacle=self._touches_obstacle(self._robot),
            object_touches_obstacle=self._touches_obstacle(self._object),
        )

    def joints(self) -> tuple[FloatArray, FloatArray]:
        """Measured joint positions (J,) rad and velocities (J,) rad/s."""
        states = pybullet.getJointStates(self._robot, self._joints, physicsClientId=self._client)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def is_still(self) -> bool:
        """Whether neither the arm nor the object moves."""
        velocity = pybullet.getBaseVelocity(self._object, physicsClientId=self._client)
        is_object_still = bool(np.abs(velocity).max() < STILL_OBJECT)
        return is_object_still and bool(np.abs(self.joints()[1]).max() < STILL_JOINTS)

    def image(self) -> ImageArray:
        """(h, w, 3) uint8 RGB as the camera sees it now, and what a wrist camera sees below it."""
        camera = self.arm.config.camera
        places = np.array([camera.position, camera.look_at]) + self._bump
        image = self._picture(camera, places)
        if camera.wrist is None:
            return image
        tip = self.arm.tip_pose(self.joints()[0])
        places = np.array([camera.wrist.position, camera.wrist.look_at]) @ tip[:3, :3].T
        up = (tip[:3, :3] @ self.arm.config.tool_from).tolist()
        return np.concatenate([image, self._picture(camera.wrist, places + tip[:3, 3], up)])

    def _picture(
        self,
        camera: CameraConfig | WristCameraConfig,
        places: FloatArray,
        up: Sequence[float] = (0.0, 0.0, 1.0),
    ) -> ImageArray:
        """What a camera sees from ``places[0]`` towards ``places[1]``, (2, 3) m; ``up``: (3,)."""
        width, height = self.arm.config.camera.width, camera.height
        _, _, rgba, _, _ = pybullet.getCameraImage(
            width,
            height,
            pybullet.computeViewMatrix(*places.tolist(), up),
            pybullet.computeProjectionMatrixFOV(camera.fov_deg, width / height, NEAR, FAR),
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self._client,
            **self._light,
        )
        # a tuple of ints, or an array: bytes take a quarter of the time that numpy takes for one
        image = np.frombuffer(bytes(rgba), dtype=np.uint8).reshape(height, width, 4)
        return image[:, :, :3].copy()

    def observe(self) -> Observation:
        """Camera image and joints now; the stamp is the time since reset."""
        return Observation(image=self.image(), joints=self.joints()[0], stamp=self.time)

    def move_object(self, position: FloatArray, yaw: float) -> None:
        """Puts the object at rest at ``position`` (2,) m on the table."""
        height = self.thing.height / 2.0
        pybullet.resetBasePositionAndOrientation(
            self._object,
            (float(position[0]), float(position[1]), height),
            pybullet.getQuaternionFromEuler((0.0, 0.0, yaw)),
            physicsClientId=self._client,
        )
        pybullet.resetBaseVelocity(
            self._object, (0, 0, 0), (0, 0, 0), physicsClientId=self._client
        )

    def colour_object(self, rgb: FloatArray) -> None:
        """Paints the object: (3,) in [0, 1]."""
        pybullet.changeVisualShape(
            self._object, -1, rgbaColor=[*map(float, rgb), 1.0], physicsClientId=self._client
        )

    def drag_object(self, factor: float) -> None:
        """Multiplies the object's friction by ``factor`` until the next reset."""
        pybullet.changeDynamics(
            self._object,
            -1,
            lateralFriction=self.thing.friction * factor,
            physicsClientId=self._client,
        )

    def add_object(self, position: FloatArray, rgb: FloatArray) -> None:
        """Adds a second object, the standard cube, at ``position`` (2,) m until the reset."""
        cube = self._standard()
        centre = (float(position[0]), float(position[1]), cube.height / 2.0)
        red, green, blue = map(float, rgb)
        self._add_thing(cube, centre, (red, green, blue, 1.0))

    def bump_camera(self, offset: FloatArray) -> None:
        """Moves camera and what it looks at by ``offset`` (3,) m until the next reset."""
        self._bump = offset

    def relight(self, direction: FloatArray, colour: FloatArray) -> None:
        """Lights the scene from ``direction`` (3,) in ``colour`` (3,) until the next reset."""
        self._light = {
            'lightDirection': [*map(float, direction)],
            'lightColor': [*map(float, colour)],
        }

    def image_of(self, scene: Scene, subject: str) -> Observation:
        """What camera and joints give with ``subject`` ('object' or 'tip') at the scene's goal.

        The arm stands at ``scene.goal_joints``. Resets the world; used to make goal images.
        """
        self.reset(scene)
        self.place_arm(scene.goal_joints)
        if subject == 'object':
            yaw = scene.object_yaw if scene.goal_yaw is None else scene.goal_yaw
            self.move_object(scene.goal[:2], yaw)
        return self.observe()

    def _standard(self) -> Thing:
        """The cube of the configuration."""
        size, config = self.config.object_size, self.config
        return Thing('box', size, size, config.object_mass, config.friction)

    def _build(
        self,
        thing: Thing,
        obstacles: tuple[ObstacleConfig, ...],
        obstacle_rgb: FloatArray | None,
    ) -> None:
        client = self._client
        pybullet.setGravity(0, 0, -self.config.gravity, physicsClientId=client)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=self.config.time.physics_dt,
            numSolverIterations=self.config.solver_iterations,
            deterministicOverlappingPairs=1,
            physicsClientId=client,
        )
        self._robot = self._load_arm()
        self._joints = self._joint_indices()
        self._efforts = self.arm.effort_limit.tolist()
        self._fastest = self.arm.fastest.tolist()
        self._table = self._add_box(TABLE_HALF, TABLE_CENTRE, TABLE_RGBA, mass=0.0)
        self.thing = thing
        self._object = self._add_thing(thing, (0.5, 0.0, thing.height / 2), (0.8, 0.1, 0.1, 1.0))
        colours = [OBSTACLE_RGB] * len(obstacles) if obstacle_rgb is None else obstacle_rgb
        self._obstacles = [
            self._add_obstacle(obstacle, colour)
            for obstacle, colour in zip(obstacles, colours, strict=True)
        ]
        for link in range(-1, pybullet.getNumJoints(self._robot, physicsClientId=client)):
            pybullet.changeDynamics(
                self._robot, link, lateralFriction=self.config.friction, physicsClientId=client
            )
        for link in range(-1, self._joints[0] + 1):  # what stands on the table touches it always
            pybullet.setCollisionFilterPair(
                self._robot, self._table, link, -1, enableCollision=0, physicsClientId=client
            )
        self._bump = np.zeros(3)
        self._light: dict[str, list[float]] = {}
        self.time, self.has_touched = 0.0, False
        self.place_arm(self.arm.home)

    def _load_arm(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'arm.urdf'
            path.write_text(self.arm.urdf)
            return pybullet.loadURDF(
                str(path),
                useFixedBase=True,
                physicsClientId=self._client,
            )

    def _joint_indices(self) -> list[int]:
        count = pybullet.getNumJoints(self._robot, physicsClientId=self._client)
        index = {
            pybullet.getJointInfo(self._robot, i, physicsClientId=self._client)[1].decode(): i
            for i in range(count)
        }
        return [index[name] for name in self.arm.joint_names]

    def _add_box(
        self,
        half: tuple[float, float, float],
        centre: tuple[float, float, float],
        rgba: tuple[float, float, float, float],
        mass: float,
    ) -> int:
        shape = {'shapeType': pybullet.GEOM_BOX, 'halfExtents': half}
        return self._add_body(shape, {}, centre, rgba, mass, self.config.friction)

    def _add_thing(
        self,
        thing: Thing,
        centre: tuple[float, float, float],
        rgba: tuple[float, float, float, float],
    ) -> int:
        half = thing.size / 2.0
        shape, height = {'shapeType': pybullet.GEOM_CYLINDER, 'radius': half}, thing.height
        if thing.shape == 'box':
            shape = {'shapeType': pybullet.GEOM_BOX, 'halfExtents': (half, half, height / 2.0)}
            return self._add_body(shape, {}, centre, rgba, thing.mass, thing.friction)
        length = {'height': height}
        body = self._add_body(shape, length, centre, rgba, thing.mass, thing.friction)
        pybullet.changeDynamics(
            body, -1, rollingFriction=ROLLING, physicsClientId=self._client
        )  # one that was knocked over would roll off the table
        return body

    def _add_obstacle(self, obstacle: ObstacleConfig, rgb: Sequence[float] | FloatArray) -> int:
        """A fixed body where ``obstacle`` stands, in the colour ``rgb``."""
        red, green, blue = map(float, rgb)
        size, length = obstacle.size, {}
        if obstacle.shape == 'box':
            half = [side / 2.0 for side in size]
            shape = {'shapeType': pybullet.GEOM_BOX, 'halfExtents': half}
        elif obstacle.shape == 'sphere':
            shape = {'shapeType': pybullet.GEOM_SPHERE, 'radius': size[0]}
        else:
            shape = {'shapeType': pybullet.GEOM_CAPSULE, 'radius': size[0]}
            length = {'height': size[1]}
        rgba, friction = (red, green, blue, 1.0), self.config.friction
        return self._add_body(shape, length, obstacle.xyz, rgba, 0.0, friction, obstacle.rpy)

    def _add_body(
        self,
        shape: dict[str, Any],
        height: dict[str, float],
        centre: Sequence[float],
        rgba: Sequence[float],
        mass: float,
        friction: float,
        rpy: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> int:
        """``height`` is that of round shapes, which PyBullet calls by two names."""
        client = self._client
        collision = pybullet.createCollisionShape(**shape, **height, physicsClientId=client)
        length = {'length': height['height']} if height else {}
        visual = pybullet.createVisualShape(
            **shape, **length, rgbaColor=rgba, physicsClientId=client
        )
        turn = pybullet.getQuaternionFromEuler(rpy)
        body = pybullet.createMultiBody(
            mass, collision, visual, centre, turn, physicsClientId=client
        )
        pybullet.changeDynamics(body, -1, lateralFriction=friction, physicsClientId=client)
        return body

    def _touches_obstacle(self, body: int) -> bool:
        return any(
            point[8] < TOUCHING
            for obstacle in self._obstacles
            for point in pybullet.getContactPoints(body, obstacle, physicsClientId=self._client)
        )

    def place_arm(self, q: FloatArray) -> None:
        """Puts the arm at rest at ``q`` (J,) rad, where it is told to stay."""
        for joint, value in zip(self._joints, q, strict=True):
            pybullet.resetJointState(
                self._robot, joint, float(value), 0.0, physicsClientId=self._client
            )
        self.command(np.asarray(q, dtype=float), np.zeros(len(self._joints)))
