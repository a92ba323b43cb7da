"""The robot: arm, camera, time chain, and the contract that binds data, model and robot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .loading import ConfigError

LARGEST = 8192
"""Of any size in a model's configuration, and pixels of an image's side."""


def steps_per(outer_s: float, inner_s: float, what: str) -> int:
    """Whole number of ``inner_s`` periods in ``outer_s``.

    Raises:
        ConfigError: if the ratio is not a whole number >= 1.
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
class TimeConfig:
    """The explicit time chain, in seconds.

    ``physics_dt`` x substeps = ``stream_dt`` x ticks = ``control_dt`` x ``frame_skip``
    = ``model_dt``. Ratios that are not whole numbers are refused.
    """

    physics_dt: float
    stream_dt: float
    control_dt: float
    frame_skip: int

    def __post_init__(self) -> None:
        if self.frame_skip < 1:
            raise ConfigError(f'frame_skip: expected >= 1, got {self.frame_skip}')
        _ = self.substeps, self.ticks

    @property
    def substeps(self) -> int:
        """Physics steps in one stream tick."""
        return steps_per(self.stream_dt, self.physics_dt, 'stream_dt / physics_dt')

    @property
    def ticks(self) -> int:
        """Stream ticks in one control step."""
        return steps_per(self.control_dt, self.stream_dt, 'control_dt / stream_dt')

    @property
    def model_dt(self) -> float:
        """Seconds in one step of the world model."""
        return self.control_dt * self.frame_skip


@dataclass(frozen=True)
class WristCameraConfig:
    """A second pinhole camera, mounted at the arm's tip; as wide an image as the first one's.

    Attributes:
        height: pixels.
        fov_deg: vertical field of view, degrees.
        position, look_at: (x, y, z) m in the tip frame; image up is where the tool comes from.
        frame_id: name of the optical frame.
    """

    height: int
    fov_deg: float
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    frame_id: str

    def __post_init__(self) -> None:
        check_lens('wrist camera', self.height, self.fov_deg)


def check_lens(what: str, size: int, fov_deg: float) -> None:
    """Raises ``ConfigError`` for a side of ``size`` pixels or an angle that no camera has."""
    if not 16 <= size <= LARGEST:
        raise ConfigError(f'{what} size: expected 16..{LARGEST} px, got {size}')
    if not 1.0 <= fov_deg <= 170.0:
        raise ConfigError(f'{what} fov_deg: expected 1..170 degrees, got {fov_deg}')


@dataclass(frozen=True)
class CameraConfig:
    """A pinhole camera without distortion, posed in the arm's base frame.

    Attributes:
        width, height: pixels.
        fov_deg: vertical field of view, degrees.
        position, look_at: (x, y, z) m in the base frame; image up is base +z.
        frame_id: name of the optical frame.
        wrist: a second camera at the tip, or None. Its image is put below the first one's: what
            a model sees are both, as one image of ``shape``.
    """

    width: int
    height: int
    fov_deg: float
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    frame_id: str
    wrist: WristCameraConfig | None = None

    def __post_init__(self) -> None:
        check_lens('camera', self.width, self.fov_deg)
        check_lens('camera', self.height, self.fov_deg)

    @property
    def seen(self) -> tuple[int, int]:
        """(h, w) of what a model sees, the wrist camera's image below this one's."""
        return self.height + (self.wrist.height if self.wrist else 0), self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, 3) of the same."""
        return *self.seen, 3


@dataclass(frozen=True)
class ArmConfig:
    """One arm: where its URDF is, which joints move, how fast, and where its tip may go.

    Joint position, velocity and effort limits come from the URDF; the values below may tighten
    them, never widen.

    Attributes:
        urdf: file name in ``urdf/`` or an absolute path; ``.xacro`` is expanded in ``urdf/`` only.
        joints: names in command order (J,).
        base_link, tip_link: frames of the URDF; tip poses are given in ``base_link``.
        controller: name of the trajectory controller that the arm's driver starts.
        home: (J,) rad.
        acceleration: (J,) rad/s^2, the maker's limits.
        jerk: (J,) rad/s^3, the maker's limits.
        velocity_scale, acceleration_scale, jerk_scale: share of the limits used, in (0, 1].
        workspace_min, workspace_max: (x, y, z) m, box in which the tip may be, base frame.
        tool_axis: unit vector of the tip frame that is kept pointing down (base -z).
        allowed_contacts: pairs of links that always touch and are not self-collisions.
        position_min, position_max: (J,) rad, velocity_max: (J,) rad/s; empty: the URDF's.
    """

    name: str
    urdf: str
    joints: tuple[str, ...]
    base_link: str
    tip_link: str
    home: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    velocity_scale: float
    acceleration_scale: float
    jerk_scale: float
    workspace_min: tuple[float, float, float]
    workspace_max: tuple[float, float, float]
    tool_axis: tuple[float, float, float]
    camera: CameraConfig
    allowed_contacts: tuple[tuple[str, str], ...] = ()
    position_min: tuple[float, ...] = ()
    position_max: tuple[float, ...] = ()
    velocity_max: tuple[float, ...] = ()
    controller: str = 'joint_trajectory_controller'

    def __post_init__(self) -> None:
        n = len(self.joints)
        for key in ('position_min', 'position_max', 'velocity_max'):
            values = getattr(self, key)
            if values and len(values) != n:
                raise ConfigError(
                    f'{self.name}.{key}: expected {n} values (joints) or none, got {len(values)}'
                )
            if not all(map(math.isfinite, values)):
                raise ConfigError(f'{self.name}.{key}: expected finite values, got {values}')
        if any(v <= 0.0 for v in self.velocity_max):
            raise ConfigError(
                f'{self.name}.velocity_max: expected positive values, got {self.velocity_max}'
            )
        for key in ('home', 'acceleration', 'jerk'):
            got = len(getattr(self, key))
            if got != n:
                raise ConfigError(f'{self.name}.{key}: expected {n} values (joints), got {got}')
        for key in ('velocity_scale', 'acceleration_scale', 'jerk_scale'):
            value = getattr(self, key)
            if not 0.0 < value <= 1.0:
                raise ConfigError(f'{self.name}.{key}: expected a share in (0, 1], got {value}')
        wrist = self.camera.wrist
        if wrist is not None and not self._looks_aside(wrist):
            raise ConfigError(
                f'{self.name}.camera.wrist: expected a place to look at beside the tool axis '
                f'{self.tool_axis} through its position {wrist.position}, got {wrist.look_at}'
            )
        if any(lo >= hi for lo, hi in zip(self.workspace_min, self.workspace_max, strict=True)):
            raise ConfigError(
                f'{self.name}.workspace: expected min < max on each axis, got '
                f'{self.workspace_min} .. {self.workspace_max}'
            )

    @property
    def tool_from(self) -> tuple[float, float, float]:
        """Unit vector of the tip frame towards where the tool comes from."""
        x, y, z = self.tool_axis
        return -x, -y, -z

    def _looks_aside(self, wrist: WristCameraConfig) -> bool:
        """Whether it does not look along the tool axis, where no side of its image is up."""
        (x, y, z), (a, b, c) = (
            [end - begin for begin, end in zip(wrist.position, wrist.look_at, strict=True)],
            self.tool_axis,
        )
        aside = math.hypot(y * c - z * b, z * a - x * c, x * b - y * a)
        return aside > 0.01 * math.hypot(x, y, z)


@dataclass(frozen=True)
class Contract:
    """What data was recorded with and a model was trained for; checked against the live robot.

    Attributes:
        arm: name of the arm; joints: their names, in the order of every joint vector.
        camera: size and pose of the camera, and of the one at the wrist if there is one.
        action_space: name of the meaning of an action; action_width: A, its number of values.
        action_scale: what an action of 1 does in one control step, m or rad.
        time: the time chain; ``frame_skip`` control steps are one model step.
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
        """P: joint positions, tip position, and how far the tip target leads the tip."""
        return len(self.joints) + 6

    @property
    def block_width(self) -> int:
        """Values of one model action: the actions of ``frame_skip`` control steps."""
        return self.action_width * self.time.frame_skip
