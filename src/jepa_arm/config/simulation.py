"""Simulation configuration: physics and tasks of the virtual arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .robot import TimeConfig
from .rules import YAW_TOLERANCE, Checked, ConfigError, between, one_of, require


@dataclass(frozen=True)
class SimConfig:
    """Physics and objects of the virtual arm.

    Attributes:
        time: periods of physics, commands, actions and world model.
        gravity: m/s^2.
        solver_iterations: iterations of PyBullet's constraint solver per physics step.
        position_gain, velocity_gain: gains of the joint servo.
        object_size: m, side of the cube.
        object_mass: kg, mass of the cube.
        friction: friction coefficient of object, table and tip alike; PyBullet multiplies those of
            the two bodies in contact.
        command_timeout: s without a command after which the arm holds.
    """

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
class TaskConfig(Checked):
    """A task of the virtual arm.

    Attributes:
        name: name of the task.
        kind: 'reach' (goal position of the tip) or 'push' (goal position of the object).
        tolerance: m, distance at which the goal counts as reached.
        time_limit: s.
        hold_steps: consecutive control steps for which the tolerance must be kept.
        object_min, object_max: (x, y) m, corners of the region of objects and their goals; it is
            clipped to where the tip can move all around an object.
        distance_min, distance_max: m, range of the distance from start to goal.
        obstacles: 1: a post or a wall blocks the straight way from start to goal; 0: none.
        yaw_tolerance_deg: degrees, tolerance of the object's yaw modulo quarter turns; None: any
            yaw is accepted.
    """

    name: str
    kind: Annotated[str, one_of('reach', 'push')]
    tolerance: float
    time_limit: float
    hold_steps: int
    object_min: tuple[float, float]
    object_max: tuple[float, float]
    distance_min: float
    distance_max: float
    obstacles: Annotated[int, between(0, 1)] = 0
    yaw_tolerance_deg: Annotated[float | None, YAW_TOLERANCE] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest = 2 * self.tolerance
        is_allowed = self.distance_min >= shortest
        expected = f'at least twice the tolerance ({shortest} m)'
        require(is_allowed, f'{self.name}.distance_min', expected, self.distance_min)
        is_push = self.kind == 'push' and not self.obstacles
        if self.yaw_tolerance_deg is not None and not is_push:
            raise ConfigError(
                f'{self.name}.yaw_tolerance_deg: expected kind push without obstacles, got kind '
                f'{self.kind} with obstacles {self.obstacles}'
            )
