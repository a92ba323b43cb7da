"""Robot configuration: arm, cameras, periods, and the contract of data, model and robot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from .rules import FINITE, POSITIVE, Checked, ConfigError, Count, Fraction, between, require

MAX_SIZE = 8192
"""Largest size in a model's configuration, and largest side of an image in pixels."""
Pixels = Annotated[int, between(16, MAX_SIZE, 'px')]
FieldOfView = Annotated[float, between(1.0, 170.0, 'degrees')]


def steps_per(outer_s: float, inner_s: float, what: str) -> int:
    """Return the number of periods ``inner_s`` in ``outer_s``, a whole number >= 1.

    Raises:
        ConfigError: the ratio is not whole.
    """
    ratio = outer_s / inner_s
    steps = round(ratio)
    if steps < 1 or abs(ratio - steps) > 1e-6:
        raise ConfigError(
            f'{what}: expected a whole number of periods, got {outer_s} s / {inner_s} s '
            f'= {ratio:g} (config/sim.yaml)'
        )
    return steps


@dataclass(frozen=True)
class TimeConfig(Checked):
    """Periods of physics, commands, actions and world model.

    ``stream_dt`` = ``physics_dt`` x substeps; ``control_dt`` = ``stream_dt`` x ticks;
    ``model_dt`` = ``control_dt`` x ``frame_skip``. Ratios must be whole numbers.

    Attributes:
        physics_dt: s, step of the physics engine.
        stream_dt: s, tick: period of the commands to the robot.
        control_dt: s, control step: period of the planner's actions.
        frame_skip: control steps in one step of the world model.
    """

    physics_dt: float
    stream_dt: float
    control_dt: float
    frame_skip: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.substeps, self.ticks

    @property
    def substeps(self) -> int:
        """Physics steps in one tick."""
        return steps_per(self.stream_dt, self.physics_dt, 'stream_dt / physics_dt')

    @property
    def ticks(self) -> int:
        """Ticks in one control step."""
        return steps_per(self.control_dt, self.stream_dt, 'control_dt / stream_dt')

    @property
    def model_dt(self) -> float:
        """Duration of one step of the world model (s)."""
        return self.control_dt * self.frame_skip


@dataclass(frozen=True)
class WristCameraConfig(Checked):
    """A second pinhole camera at the tip; its images are as wide as the first camera's.

    Attributes:
        height: pixels.
        fov_deg: vertical field of view, degrees.
        position, look_at: (x, y, z) m in the tip frame; image up is opposite to the tool axis.
        frame_id: name of the optical frame.
    """

    height: Pixels
    fov_deg: FieldOfView
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    frame_id: str


@dataclass(frozen=True)
class CameraConfig(Checked):
    """A pinhole camera without distortion, posed in the arm's base frame.

    Attributes:
        width, height: pixels.
        fov_deg: vertical field of view, degrees.
        position, look_at: (x, y, z) m in the base frame; image up is base +z.
        frame_id: name of the optical frame.
        wrist: a second camera at the tip, or None. A model receives one image of ``image_shape``,
            with the wrist camera's image below this camera's.
    """

    width: Pixels
    height: Pixels
    fov_deg: FieldOfView
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    frame_id: str
    wrist: WristCameraConfig | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w) of the image a model receives, the wrist camera's image included."""
        return self.height + (self.wrist.height if self.wrist else 0), self.width

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, 3) of the image a model receives."""
        return *self.image_size, 3


@dataclass(frozen=True)
class ArmConfig(Checked):
    """One arm: URDF, joints, limits, workspace and camera.

    Limits of position, velocity and effort come from the URDF; the values below may only tighten
    them.

    Attributes:
        urdf: file name in ``urdf/`` or an absolute path; ``.xacro`` is expanded in ``urdf/`` only.
        joints: names of the J joints, in command order.
        base_link, tip_link: frames of the URDF; tip poses are given in ``base_link``.
        controller: name of the trajectory controller in the arm's driver.
        home: (J,) rad, home posture.
        acceleration: (J,) rad/s^2, limits of the manufacturer.
        jerk: (J,) rad/s^3, limits of the manufacturer.
        velocity_scale, acceleration_scale, jerk_scale: fractions of these limits used, in (0, 1].
        workspace_min, workspace_max: (x, y, z) m, workspace box of the tip, base frame.
        tool_axis: unit vector of the tip frame that is kept pointing down (base -z).
        allowed_contacts: pairs of links whose contact does not count as a self-collision.
        position_min, position_max, velocity_max: (J,) rad and rad/s, limits tighter than the
            URDF's; empty: the URDF's.
    """

    name: str
    urdf: str
    joints: tuple[str, ...]
    base_link: str
    tip_link: str
    home: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    velocity_scale: Fraction
    acceleration_scale: Fraction
    jerk_scale: Fraction
    workspace_min: tuple[float, float, float]
    workspace_max: tuple[float, float, float]
    tool_axis: tuple[float, float, float]
    camera: CameraConfig
    allowed_contacts: tuple[tuple[str, str], ...] = ()
    position_min: Annotated[tuple[float, ...], FINITE] = ()
    position_max: Annotated[tuple[float, ...], FINITE] = ()
    velocity_max: Annotated[tuple[float, ...], POSITIVE] = ()
    controller: str = 'joint_trajectory_controller'

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.joints)
        optional = 'position_min', 'position_max', 'velocity_max'
        for key in ('home', 'acceleration', 'jerk', *optional):
            values, or_none = getattr(self, key), ' or none' if key in optional else ''
            is_allowed = len(values) == n or (key in optional and not values)
            expected = f'{n} values (joints){or_none}'
            require(is_allowed, f'{self.name}.{key}', expected, len(values))
        wrist = self.camera.wrist
        if wrist is not None and not self._has_image_up(wrist):
            raise ConfigError(
                f'{self.name}.camera.wrist: expected a look_at beside the line through its '
                f'position {wrist.position} along the tool axis {self.tool_axis}, got '
                f'{wrist.look_at}'
            )
        low, high = self.workspace_min, self.workspace_max
        is_box = all(a < b for a, b in zip(low, high, strict=True))
        require(is_box, f'{self.name}.workspace', 'min < max on each axis', (low, high))

    @property
    def tool_from(self) -> tuple[float, float, float]:
        """Unit vector opposite to the tool axis, pointing back to the arm, in the tip frame."""
        x, y, z = self.tool_axis
        return -x, -y, -z

    def _has_image_up(self, wrist: WristCameraConfig) -> bool:
        """Return whether image up is defined: the camera does not look along the tool axis."""
        (x, y, z), (a, b, c) = (
            [end - begin for begin, end in zip(wrist.position, wrist.look_at, strict=True)],
            self.tool_axis,
        )
        aside = math.hypot(y * c - z * b, z * a - x * c, x * b - y * a)
        return aside > 0.01 * math.hypot(x, y, z)


@dataclass(frozen=True)
class Contract:
    """Properties that data, model and live robot must share.

    Attributes:
        arm: name of the arm.
        joints: names of the J joints, in the order of every joint vector.
        camera: size and pose of the camera, and of the wrist camera if there is one.
        action_space: name of the action space.
        action_width: number of values A in one action.
        action_scale: m or rad of motion in one control step for an action of 1.
        time: periods of commands, actions and model.
    """

    arm: str
    joints: tuple[str, ...]
    camera: CameraConfig
    action_space: str
    action_width: int
    action_scale: float
    time: TimeConfig

    @property
    def proprio_width(self) -> int:
        """Length P of the joint positions, tip position, and offset from the tip to its target."""
        return len(self.joints) + 6

    @property
    def block_width(self) -> int:
        """Length K*A of an action block: the actions of K = ``frame_skip`` control steps."""
        return self.action_width * self.time.frame_skip
