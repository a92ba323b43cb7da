"""Virtual arm: simulated world, joint controller and faults, as seen by sensors. No ROS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jepa_arm.config import ConfigError, ObstacleConfig, SimConfig, to_dict
from jepa_arm.core.types import FloatArray, ImageArray, JointSample, Observation
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene import Scene, WorldState, with_obstacles
from jepa_arm.sim.tasks import Task

from .controller import JointController
from .faults import FaultInjector

EPSILON_S = 1e-9
REST_AFTER_S = 0.5
"""Time with an unchanged target after which the arm counts as at rest."""


@dataclass(frozen=True)
class CameraFrame:
    """Images taken at one time.

    Attributes:
        arrives_at: s, simulated time at which the images are published.
        stamp: s, published stamp.
        image: (h, w, 3) uint8 RGB.
        wrist_image: (h, w, 3) uint8 RGB of the wrist camera; h is 0 without one.
    """

    arrives_at: float
    stamp: float
    image: ImageArray
    wrist_image: ImageArray


class VirtualArm:
    """An arm with a camera that moves towards its controller's targets, one tick at a time.

    Like a physics engine, it may sleep: while the target is unchanged and nothing moves, physics
    steps and rendering are skipped, since they would repeat the last ones.

    Attributes:
        controller: takes the commands.
        scene, task, seed: those of the last reset.
        tick: number of ticks since the start.
        is_asleep: whether physics is skipped now.
    """

    task: Task
    seed: int
    scene: Scene

    def __init__(
        self, arm: Arm, config: SimConfig, gui: bool = False, sleeps: bool = False
    ) -> None:
        """Create a virtual arm that must be ``reset`` before use.

        Args:
            arm: kinematics, limits and camera.
            config: physics and control periods.
            gui: show the physics engine in a window.
            sleeps: skip physics while nothing moves.
        """
        self.arm, self._time, self._sleeps = arm, config.time, sleeps
        self._world = BulletWorld(arm, config, gui)
        self._faults = FaultInjector()
        self._frames: list[CameraFrame] = []
        self.tick, self._paused_ticks, self._clock_jump = 0, 0, 0.0
        self._image: ImageArray | None = None
        self._frozen_image: ImageArray | None = None
        self._blocked_at = self._last_target = arm.home
        self._still_ticks, self.is_asleep = 0, False
        self._joints_asleep: tuple[FloatArray, FloatArray] | None = None
        self.controller = JointController(
            arm.velocity_limit / arm.config.velocity_scale,
            config.time.stream_dt,
            config.command_timeout,
        )

    @property
    def now(self) -> float:
        """Simulated time (s); it never goes back, not even at a reset."""
        return self.tick * self._time.stream_dt

    @property
    def clock(self) -> float:
        """Published time (s): ``now``, unless a fault of the clock is active."""
        running = (self.tick - self._paused_ticks) * self._time.stream_dt
        return max(0.0, running + self._clock_jump)

    @property
    def is_control_step(self) -> bool:
        """True if an observation is due now."""
        return self.tick % self._time.ticks == 0

    @property
    def is_at_rest(self) -> bool:
        """True if the target has been unchanged for a while."""
        return self._still_ticks * self._time.stream_dt >= REST_AFTER_S

    def close(self) -> None:
        """Free the physics server."""
        self._world.close()

    def reset(
        self, task: Task, seed: int, declared: tuple[ObstacleConfig, ...] = ()
    ) -> Observation:
        """Build the scene of ``seed`` with the declared obstacles, and end all faults.

        Args:
            task: task that samples the scene.
            seed: seed of the scene.
            declared: obstacles known to guard and planner, base frame.

        Returns:
            the observation at the scene's goal.

        Raises:
            ConfigError: the scene has obstacles of its own that differ from those declared.
        """
        scene = task.sample(seed)
        if not scene.obstacles:
            scene = with_obstacles(scene, declared)
        elif scene.obstacles != declared:
            raise ConfigError(
                f'{task.config.name}, seed {seed}: expected that guard_config declares the '
                f'obstacles of this scene and no others, {_as_json(scene.obstacles)}, got '
                f'{_as_json(declared)}; write them into that file and configure guard and planner '
                'anew before each reset, as jepa-arm eval --ros does'
            )
        self.task, self.seed, self.scene = task, seed, scene
        goal = self._world.render_goal(self.scene, task.subject)
        self._world.reset(self.scene)
        self._image = None
        self.controller.reset(self.scene.joints)
        self._last_target = self.scene.joints
        self._wake()
        self._faults.clear()
        self._frames.clear()
        self.tick = (self.tick // self._time.ticks + 1) * self._time.ticks
        return goal

    def state(self) -> WorldState:
        """Return the ground truth."""
        return self._world.state()

    def advance(self) -> bool:
        """Make one tick; return whether the commands have just timed out."""
        measured, _ = self._measure_joints()
        was_timed_out = self.controller.is_timed_out
        position, velocity = self.controller.next_target(self.now, measured)
        is_still = not velocity.any() and np.array_equal(position, self._last_target)
        self._still_ticks += 1
        self._last_target = position
        if not is_still:
            self._wake()
        if self.has_fault('arm_blocked'):
            position, velocity = self._blocked_at, np.zeros_like(velocity)
        if not self.is_asleep:
            self._world.command(position, velocity)
            self._world.step()
            self._image = None
            self.is_asleep = self._sleeps and self.is_at_rest and self._world.is_still()
        self._paused_ticks += self.has_fault('clock_pause')
        self.tick += 1
        return self.controller.is_timed_out and not was_timed_out

    def joints(self) -> JointSample | None:
        """Return the encoders' reading now; None while they are stopped."""
        if self.has_fault('joints_stop'):
            return None
        position, velocity = self._measure_joints()
        if self.has_fault('joints_nan'):
            position = np.full_like(position, np.nan)
        if self.has_fault('joints_inf'):
            position = np.full_like(position, np.inf)
        jump = self._fault_value('encoder_jump')
        if jump:
            position = position + jump * np.eye(len(position))[0]
        return JointSample(position, velocity, self.clock)

    def capture(self) -> None:
        """Take images now; ``arrived_frames`` returns them when they have arrived."""
        if self.has_fault('camera_stop'):
            return
        if self._image is None:
            self._image = self._world.image()
        current = self._image
        if self._frozen_image is not None and self.has_fault('camera_freeze'):
            current = self._frozen_image
        height = self.arm.config.camera.height
        stamp = self.clock - self._fault_value('camera_past') + self._fault_value('camera_future')
        arrives_at = self.now + self._fault_value('camera_delay')
        image = self._with_image_fault(current[:height])
        self._frames.append(CameraFrame(arrives_at, stamp, image, self._image[height:]))

    def arrived_frames(self) -> Iterator[CameraFrame]:
        """Yield the frames that have arrived by now, each once.

        Image faults affect the fixed camera only.
        """
        while self._frames and self._frames[0].arrives_at <= self.now + EPSILON_S:
            yield self._frames.pop(0)

    def inject(self, fault: str, duration: float, value: float) -> None:
        """Inject a fault for ``duration`` s; 0: until the next reset.

        Raises:
            FaultError: unknown fault, or a value out of range.
        """
        value = self._faults.inject(fault, duration, value, self.now)
        self._wake()
        if fault == 'arm_blocked':
            self._blocked_at = self._world.joints()[0]
        if fault == 'camera_freeze':
            self._frozen_image = self._world.image()
        if fault == 'object_move':
            self._move_object(value)
        if fault == 'clock_ahead':
            self._clock_jump += value
        if fault == 'clock_back':
            self._clock_jump -= min(value, self.clock)

    def faults(self) -> list[str]:
        """Return the names of the active faults."""
        return self._faults.names(self.now)

    def has_fault(self, name: str) -> bool:
        """Return whether a fault is active."""
        return self._faults.get(name, self.now) is not None

    def _fault_value(self, name: str) -> float:
        """Return the value of a fault, 0 while it is not active."""
        return self._faults.get(name, self.now) or 0.0

    def _with_image_fault(self, image: ImageArray) -> ImageArray:
        """Return ``image`` as a faulty camera gives it."""
        if self.has_fault('camera_black'):
            return np.zeros_like(image)
        if self.has_fault('camera_white'):
            return np.full_like(image, 255)
        if self.has_fault('camera_half'):
            half = image.copy()
            half[:, : image.shape[1] // 2] = 0
            return half
        if self.has_fault('camera_size'):
            return image[::2, ::2]
        return image

    def _measure_joints(self) -> tuple[FloatArray, FloatArray]:
        """Return true joint positions and velocities, (J,) rad and rad/s; cached while asleep."""
        if self._joints_asleep is not None:
            return self._joints_asleep
        measured = self._world.joints()
        if self.is_asleep:
            self._joints_asleep = measured
        return measured

    def _wake(self) -> None:
        self._still_ticks, self.is_asleep, self._joints_asleep = 0, False, None

    def _move_object(self, distance: float) -> None:
        """Move the object by ``distance`` m along y, towards the middle of the table."""
        state = self._world.state()
        side = 1.0 if state.object_position[1] < 0.0 else -1.0
        offset: FloatArray = np.array([0.0, side * distance])
        self._world.move_object(state.object_position[:2] + offset, state.object_yaw)
        self._image = None


def _as_json(obstacles: tuple[ObstacleConfig, ...]) -> str:
    return json.dumps([to_dict(obstacle) for obstacle in obstacles])
