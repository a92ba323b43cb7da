"""The virtual arm as its sensors and drivers see it: world, controller and faults. No ROS."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ..arm import Arm
from ..config import ConfigError, ObstacleConfig, SimConfig, to_dict
from ..sim.bullet import BulletWorld
from ..sim.tasks import Task
from ..sim.world import WorldState, with_obstacles
from ..types import FloatArray, ImageArray, JointSample, Observation
from .controller import Controller
from .faults import FaultError, Faults

EPSILON_S = 1e-9
REST_AFTER_S = 0.5
"""For which the arm is told to stay where it is before it counts as at rest."""


class VirtualArm:
    """An arm with camera that moves towards its controller's targets, one tick at a time.

    As physics engines do, it may sleep: while the arm is told to stay where it is and nothing
    moves, steps and pictures would give what the ones before gave, and are not made.

    Attributes:
        controller: takes the commands.
        scene, task, seed: of the last reset.
        is_asleep: whether its steps are left out now.
    """

    def __init__(
        self,
        arm: Arm,
        config: SimConfig,
        gui: bool = False,
        sleeps: bool = False,
    ) -> None:
        self.arm, self._time, self._sleeps = arm, config.time, sleeps
        self._world = BulletWorld(arm, config, gui)
        self._faults = Faults()
        self._images: list[tuple[float, float, ImageArray, ImageArray]] = []
        self._tick, self._paused_ticks, self._clock_jump = 0, 0, 0.0
        self._picture: ImageArray | None = None
        self._wake()
        self.controller = Controller(
            arm.velocity_limit / arm.config.velocity_scale,
            config.time.stream_dt,
            config.command_timeout,
        )

    @property
    def now(self) -> float:
        """s, simulated time; never goes back, not even by a reset."""
        return self._tick * self._time.stream_dt

    @property
    def clock(self) -> float:
        """s, what is published as the time: ``now``, unless the clock is at fault."""
        running = (self._tick - self._paused_ticks) * self._time.stream_dt
        return max(0.0, running + self._clock_jump)

    @property
    def tick(self) -> int:
        """Stream ticks since the start."""
        return self._tick

    @property
    def is_control_step(self) -> bool:
        """Whether an observation is due now."""
        return self._tick % self._time.ticks == 0

    @property
    def is_at_rest(self) -> bool:
        """Whether the arm has been told to stay where it is for a while."""
        return self._still_ticks * self._time.stream_dt >= REST_AFTER_S

    def close(self) -> None:
        """Frees the physics server."""
        self._world.close()

    def reset(
        self, task: Task, seed: int, declared: tuple[ObstacleConfig, ...] = ()
    ) -> Observation:
        """Builds the scene that ``seed`` draws, with what is declared; all faults end.

        Args:
            task: with obstacles of its own, or without. seed: of the scene.
            declared: obstacles that guard and planner know, base frame.

        Returns:
            what camera and joints would give at the scene's goal.

        Raises:
            ConfigError: the scene has obstacles of its own, which are not those declared.
        """
        scene = task.sample(seed)
        if not scene.obstacles:
            scene = with_obstacles(scene, declared)
        elif scene.obstacles != declared:
            raise ConfigError(
                f'{task.config.name}, seed {seed}: expected that guard_config declares the '
                f'obstacles of this scene and no others, {_listed(scene.obstacles)}, got '
                f'{_listed(declared)}; write them into that file and configure guard and planner '
                'anew before each reset, as jepa-arm eval --ros does'
            )
        self.task, self.seed, self.scene = task, seed, scene
        goal = self._world.image_of(self.scene, task.subject)
        self._world.reset(self.scene)
        self._picture = None
        self.controller.reset(self.scene.joints)
        self._told = self.scene.joints
        self._wake()
        self._faults.clear()
        self._images.clear()
        self._tick = (self._tick // self._time.ticks + 1) * self._time.ticks
        return goal

    def state(self) -> WorldState:
        """Ground truth."""
        return self._world.state()

    def advance(self) -> bool:
        """Makes one tick; whether the commands have just run out."""
        measured, _ = self._measured()
        was_timed_out = self.controller.is_timed_out
        position, velocity = self.controller.target(self.now, measured)
        is_still = not velocity.any() and np.array_equal(position, self._told)
        self._still_ticks += 1
        self._told = position
        if not is_still:
            self._wake()
        if self._faults.get('arm_blocked', self.now):
            position, velocity = self._blocked_at, np.zeros_like(velocity)
        if not self.is_asleep:
            self._world.command(position, velocity)
            self._world.step()
            self._picture = None
            self.is_asleep = self._sleeps and self.is_at_rest and self._world.is_still()
        self._paused_ticks += self._faults.get('clock_pause', self.now) is not None
        self._tick += 1
        return self.controller.is_timed_out and not was_timed_out

    def joints(self) -> JointSample | None:
        """What the encoders give now; None if they give nothing."""
        if self._faults.get('joints_stop', self.now):
            return None
        position, velocity = self._measured()
        if self._faults.get('joints_nan', self.now):
            position = np.full_like(position, np.nan)
        if self._faults.get('joints_inf', self.now):
            position = np.full_like(position, np.inf)
        jump = self._faults.get('encoder_jump', self.now)
        if jump:
            position = position + jump.value * np.eye(len(position))[0]
        return JointSample(position, velocity, self.clock)

    def take_picture(self) -> None:
        """Takes an image now; ``pictures`` gives it when it has arrived."""
        if self._faults.get('camera_stop', self.now):
            return
        if self._picture is None:
            self._picture = self._world.image()
        is_frozen = self._faults.get('camera_freeze', self.now)
        height = self.arm.config.camera.height
        image = self._spoilt((self._frozen if is_frozen else self._picture)[:height])
        delay = self._faults.get('camera_delay', self.now)
        early = self._faults.get('camera_past', self.now)
        late = self._faults.get('camera_future', self.now)
        stamp = self.clock - (early.value if early else 0.0) + (late.value if late else 0.0)
        arrival = self.now + (delay.value if delay else 0.0)
        self._images.append((arrival, stamp, image, self._picture[height:]))

    def _spoilt(self, image: ImageArray) -> ImageArray:
        """The image as a camera at fault gives it."""
        if self._faults.get('camera_black', self.now):
            return np.zeros_like(image)
        if self._faults.get('camera_white', self.now):
            return np.full_like(image, 255)
        if self._faults.get('camera_half', self.now):
            half = image.copy()
            half[:, : image.shape[1] // 2] = 0
            return half
        if self._faults.get('camera_size', self.now):
            return image[::2, ::2]
        return image

    def pictures(self) -> Iterator[tuple[float, ImageArray, ImageArray]]:
        """Stamp (s), image (h, w, 3) and the wrist camera's of what has arrived by now, once.

        Faults are those of the camera that stands still; without one at the wrist its h is 0.
        """
        while self._images and self._images[0][0] <= self.now + EPSILON_S:
            yield self._images.pop(0)[1:]

    def inject(self, fault: str, duration: float, value: float) -> None:
        """Breaks something for ``duration`` s; 0: until the next reset.

        Raises:
            FaultError: unknown, or a value it cannot have.
        """
        active = self._faults.inject(fault, duration, value, self.now)
        self._wake()
        if fault == 'arm_blocked':
            self._blocked_at = self._world.joints()[0]
        if fault == 'camera_freeze':
            self._frozen = self._world.image()
        if fault == 'object_move':
            self._move_object(active.value)
        if fault == 'clock_ahead':
            self._clock_jump += active.value
        if fault == 'clock_back':
            self._clock_jump -= min(active.value, self.clock)

    def faults(self) -> list[str]:
        """Names of the faults in force."""
        return self._faults.names(self.now)

    def has_fault(self, name: str) -> bool:
        """Whether a fault is in force."""
        return self._faults.get(name, self.now) is not None

    def _measured(self) -> tuple[FloatArray, FloatArray]:
        """Joints as they are, (J,) rad and rad/s; asked for once while nothing moves."""
        if self._asleep_at is not None:
            return self._asleep_at
        measured = self._world.joints()
        if self.is_asleep:
            self._asleep_at = measured
        return measured

    def _wake(self) -> None:
        self._still_ticks, self.is_asleep = 0, False
        self._asleep_at: tuple[FloatArray, FloatArray] | None = None

    def _move_object(self, distance: float) -> None:
        """Puts the object ``distance`` m aside, towards the middle of the table."""
        state = self._world.state()
        side = 1.0 if state.object_position[1] < 0.0 else -1.0
        offset: FloatArray = np.array([0.0, side * distance])
        self._world.move_object(state.object_position[:2] + offset, state.object_yaw)
        self._picture = None


def _listed(obstacles: tuple[ObstacleConfig, ...]) -> str:
    """As they are written in YAML."""
    return json.dumps([to_dict(obstacle) for obstacle in obstacles])


__all__ = ['FaultError', 'VirtualArm']
