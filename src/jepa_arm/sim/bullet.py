"""The virtual arm in PyBullet: physics, joint servo and camera. No task, no reward."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from ..arm import Arm
from ..config import SimConfig
from ..types import FloatArray, ImageArray, Observation
from .world import Scene, WorldState

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
NEAR, FAR = 0.05, 4.0


class BulletWorld:
    """One arm, one table, one box-shaped object and one fixed camera.

    The same scene and the same commands give the same trajectory every time. The base frame
    of the arm is the world frame.
    """

    def __init__(self, arm: Arm, config: SimConfig, gui: bool = False) -> None:
        self.arm = arm
        self.config = config
        self._mode = pybullet.GUI if gui else pybullet.DIRECT
        self._client = pybullet.connect(self._mode)
        self._build()

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
        self._build()
        self.time = 0.0
        self._place_arm(scene.joints)
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
        )

    def joints(self) -> tuple[FloatArray, FloatArray]:
        """Measured joint positions (J,) rad and velocities (J,) rad/s."""
        states = pybullet.getJointStates(self._robot, self._joints, physicsClientId=self._client)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def image(self) -> ImageArray:
        """(h, w, 3) uint8 RGB as the camera sees it now."""
        camera = self.arm.config.camera
        _, _, rgba, _, _ = pybullet.getCameraImage(
            camera.width,
            camera.height,
            self._view,
            self._projection,
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self._client,
            **self._light,
        )
        pixels = np.asarray(rgba, dtype=np.uint8)
        return pixels.reshape(camera.height, camera.width, 4)[:, :, :3].copy()

    def observe(self) -> Observation:
        """Camera image and joints now; the stamp is the time since reset."""
        return Observation(image=self.image(), joints=self.joints()[0], stamp=self.time)

    def move_object(self, position: FloatArray, yaw: float) -> None:
        """Puts the object at rest at ``position`` (2,) m on the table."""
        height = self.config.object_size / 2.0
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
            lateralFriction=self.config.friction * factor,
            physicsClientId=self._client,
        )

    def add_object(self, position: FloatArray, rgb: FloatArray) -> None:
        """Adds a second box, as large as the object, at ``position`` (2,) m until the reset."""
        half = self.config.object_size / 2.0
        centre = (float(position[0]), float(position[1]), half)
        red, green, blue = map(float, rgb)
        mass = self.config.object_mass
        self._add_box((half, half, half), centre, (red, green, blue, 1.0), mass)

    def bump_camera(self, offset: FloatArray) -> None:
        """Moves camera and what it looks at by ``offset`` (3,) m until the next reset."""
        self._view, self._projection = self._camera_matrices(offset)

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
        self._place_arm(scene.goal_joints)
        if subject == 'object':
            self.move_object(scene.goal[:2], scene.object_yaw)
        return self.observe()

    def _build(self) -> None:
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
        half = self.config.object_size / 2.0
        self._object = self._add_box(
            (half, half, half), (0.5, 0.0, half), (0.8, 0.1, 0.1, 1.0), self.config.object_mass
        )
        for link in range(-1, pybullet.getNumJoints(self._robot, physicsClientId=client)):
            pybullet.changeDynamics(
                self._robot, link, lateralFriction=self.config.friction, physicsClientId=client
            )
        for link in range(-1, self._joints[0] + 1):  # what stands on the table touches it always
            pybullet.setCollisionFilterPair(
                self._robot, self._table, link, -1, enableCollision=0, physicsClientId=client
            )
        self._view, self._projection = self._camera_matrices()
        self._light: dict[str, list[float]] = {}
        self.time = 0.0
        self._place_arm(self.arm.home)

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
        client = self._client
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_BOX, halfExtents=half, physicsClientId=client
        )
        visual = pybullet.createVisualShape(
            pybullet.GEOM_BOX, halfExtents=half, rgbaColor=rgba, physicsClientId=client
        )
        body = pybullet.createMultiBody(mass, shape, visual, centre, physicsClientId=client)
        pybullet.changeDynamics(
            body, -1, lateralFriction=self.config.friction, physicsClientId=client
        )
        return body

    def _place_arm(self, q: FloatArray) -> None:
        for joint, value in zip(self._joints, q, strict=True):
            pybullet.resetJointState(
                self._robot, joint, float(value), 0.0, physicsClientId=self._client
            )
        self.command(np.asarray(q, dtype=float), np.zeros(len(self._joints)))

    def _camera_matrices(
        self, offset: FloatArray | None = None
    ) -> tuple[list[float], list[float]]:
        camera = self.arm.config.camera
        places = np.array([camera.position, camera.look_at])
        position, look_at = (places if offset is None else places + offset).tolist()
        view = pybullet.computeViewMatrix(position, look_at, (0, 0, 1))
        projection = pybullet.computeProjectionMatrixFOV(
            camera.fov_deg, camera.width / camera.height, NEAR, FAR
        )
        return view, projection
