"""The virtual arm: its physics, its tasks, and the data that is collected with it."""

from __future__ import annotations

from dataclasses import dataclass

from .loading import ConfigError
from .robot import TimeConfig


@dataclass(frozen=True)
class SimConfig:
    """The virtual arm's physics and objects."""

    time: TimeConfig
    gravity: float
    solver_iterations: int
    position_gain: float
    velocity_gain: float
    object_size: float
    object_mass: float
    friction: float
    command_timeout: float


@dataclass(frozen=True)
class TaskConfig:
    """A task of the virtual arm.

    Attributes:
        kind: 'reach' (the tip goes to a place) or 'push' (the object goes to a place).
        tolerance: m; time_limit: s.
        hold_steps: control steps the tolerance must be held.
        object_min, object_max: (x, y) m, where objects and their goals lie, as far as the arm's
            workspace allows.
        distance_min, distance_max: m, from start to goal.
        obstacles: 1 where a post or a wall stands in the straight way from start to goal, or 0.
        yaw_tolerance_deg: degrees, of the object's yaw up to quarter turns; None: any yaw will do.
    """

    name: str
    kind: str
    tolerance: float
    time_limit: float
    hold_steps: int
    object_min: tuple[float, float]
    object_max: tuple[float, float]
    distance_min: float
    distance_max: float
    obstacles: int = 0
    yaw_tolerance_deg: float | None = None

    def __post_init__(self) -> None:
        if self.obstacles not in (0, 1):
            raise ConfigError(f'{self.name}.obstacles: expected 0 or 1, got {self.obstacles}')
        if self.kind not in ('reach', 'push'):
            raise ConfigError(f'task kind: expected reach or push, got {self.kind!r}')
        if self.distance_min < 2 * self.tolerance:
            raise ConfigError(
                f'{self.name}.distance_min: expected at least twice the tolerance '
                f'({2 * self.tolerance} m), got {self.distance_min}'
            )
        if self.yaw_tolerance_deg is not None:
            self._check_yaw(self.yaw_tolerance_deg)

    def _check_yaw(self, tolerance: float) -> None:
        if not 0.0 < tolerance < 45.0:
            raise ConfigError(
                f'{self.name}.yaw_tolerance_deg: expected more than 0 and less than 45 (a cube '
                f'looks the same after a quarter turn), got {tolerance}'
            )
        if self.kind != 'push' or self.obstacles:
            raise ConfigError(
                f'{self.name}.yaw_tolerance_deg: expected kind push without obstacles, got kind '
                f'{self.kind} with obstacles {self.obstacles}'
            )


@dataclass(frozen=True)
class CollectConfig:
    """Play data to collect.

    Attributes:
        episodes, frames: how many, and observations in each (actions: one less).
        seed: episode ``i`` depends on (seed, i) alone, however many workers there are.
        object_min, object_max: (x, y) m, where objects start and are pushed to, as far as the
            arm's workspace allows.
        obstacle_share: of the episodes that have one or two posts or walls on the table.
        thing_share: of those with an object of any shape, size, mass and friction in place of
            the simulator's cube.
        light_share: of the episodes that are lit from anywhere above, in any brightness.
        camera_std: m, on each axis, by which the camera stands elsewhere in each episode.
    """

    episodes: int
    frames: int
    seed: int
    object_min: tuple[float, float]
    object_max: tuple[float, float]
    obstacle_share: float = 0.0
    thing_share: float = 0.0
    light_share: float = 0.0
    camera_std: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.camera_std < 0.1:
            raise ConfigError(f'camera_std: expected 0 to 0.1 m, got {self.camera_std}')
        for key in ('obstacle_share', 'thing_share', 'light_share'):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ConfigError(f'{key}: expected a share in [0, 1], got {getattr(self, key)}')
        for key in ('episodes', 'frames'):
            if getattr(self, key) < (2 if key == 'frames' else 1):
                raise ConfigError(f'{key}: expected a positive number, got {getattr(self, key)}')


@dataclass(frozen=True)
class StillsConfig:
    """Pictures of arms from play with the object put elsewhere, see ``stills``.

    Attributes:
        sheets, stills: how many, and stills on each.
        margin: m, how far beyond the region of ``CollectConfig`` objects lie anywhere.
        beside_share: of the stills with the object up to ``beside_within`` m from the tip.
        played_share: of those with it where play has one, give or take ``played_std`` m on each
            axis; in all others it lies anywhere.
    """

    sheets: int
    stills: int
    margin: float
    beside_share: float
    beside_within: float
    played_share: float
    played_std: float

    def __post_init__(self) -> None:
        for key in ('sheets', 'stills'):
            if getattr(self, key) < (2 if key == 'stills' else 1):
                raise ConfigError(f'{key}: expected a positive number, got {getattr(self, key)}')
        shares = self.beside_share, self.played_share
        if min(shares) < 0.0 or sum(shares) > 1.0:
            raise ConfigError(
                'beside_share, played_share: expected shares of which none is negative and that '
                f'make up 1 at most, got {self.beside_share} and {self.played_share}'
            )
        if not 0.05 <= self.beside_within <= 0.5:
            raise ConfigError(f'beside_within: expected 0.05 to 0.5 m, got {self.beside_within}')
