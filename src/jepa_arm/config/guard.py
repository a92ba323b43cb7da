"""Guard configuration: limits on proposals and commands, and the declared obstacles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import (
    FINITE,
    POSITIVE,
    Checked,
    ConfigError,
    Count,
    Fraction,
    NonNegative,
    Positive,
    one_of,
    require,
)

SIZES = {'box': 3, 'sphere': 1, 'capsule': 2}
"""Length of ``ObstacleConfig.size`` for each shape."""


@dataclass(frozen=True)
class ObstacleConfig(Checked):
    """A fixed obstacle that no part of the arm may touch.

    Attributes:
        name: unique name, used in rejection reasons and messages.
        shape: 'box' (size: x, y, z), 'sphere' (radius) or 'capsule' (radius, and length along z
            between the centres of its hemispheres).
        size: m, see ``shape``.
        xyz: m, centre in the base frame.
        rpy: rad, rotations about the fixed axes x, y and z.
    """

    name: str
    shape: Annotated[str, one_of(*SIZES)]
    size: Annotated[tuple[float, ...], POSITIVE]
    xyz: Annotated[tuple[float, float, float], FINITE]
    rpy: Annotated[tuple[float, float, float], FINITE] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        require(bool(self.name), 'obstacle', 'a name', self.name)
        try:
            super().__post_init__()
        except ConfigError as error:
            raise ConfigError(f'obstacle {self.name}: {error}') from None
        count = SIZES[self.shape]
        expected = f'{count} sizes (m) of a {self.shape}'
        require(len(self.size) == count, f'obstacle {self.name}: size', expected, self.size)


@dataclass(frozen=True)
class GuardConfig(Checked):
    """Limits of the guard; those of the joints and the workspace are in ``ArmConfig``.

    Attributes:
        max_proposal_age: s, largest age of the observation that a proposal was planned from.
        max_clock_skew: s by which a proposal's stamp may lie ahead of the ROS clock.
        max_validity: s, longest validity that a proposal may have, counted from its stamp.
        validity_after_stamp: s after its stamp for which a proposal received over ROS stays valid;
            its message has no field for the validity.
        validity_after_arrival: s after its arrival for which a proposal received over ROS stays
            valid, if that ends later, so that images and plans may be late while they keep coming.
        max_waypoints: largest number of waypoints of a proposal.
        max_joint_age: s without a joint state after which the arm is stopped.
        max_joint_step: rad, largest step of any joint from the current command to the first
            waypoint.
        workspace_margin: m by which the path of the tip may leave the workspace box.
        table_clearance: m, smallest height of the arm above the table plane; only a stop may go
            lower, down to the plane.
        obstacle_clearance: m, smallest distance of any part of the arm to a declared obstacle.
        collision_check_step: m, farthest that any part of the arm moves between two checks.
        slowdown_time: s; the arm slows down if, at full speed, it would reach a joint limit, a
            self-collision or a declared obstacle sooner than this.
        min_proximity_scale: smallest fraction of the velocity limits to which it slows down.
        max_tracking_error: rad, distance from the measured joints to the nearest recent command
            beyond which the guard backs off.
        fatal_tracking_error: rad, distance beyond which the guard latches at once instead.
        tracking_window: s for which a command counts as recent; it should exceed the age of a
            joint state plus the arm's lag.
        max_backoffs: number of back-offs, within ``backoff_window`` or without an accepted
            proposal in between, after which the guard latches instead of backing off again.
        backoff_window: s, see ``max_backoffs``.
        max_rejections: number of consecutive rejected proposals at which the guard latches.
        obstacles: the declared obstacles.
    """

    max_proposal_age: Positive
    max_clock_skew: NonNegative
    max_validity: Positive
    validity_after_stamp: Positive
    validity_after_arrival: Positive
    max_waypoints: Count
    max_joint_age: Positive
    max_joint_step: Positive
    workspace_margin: NonNegative
    table_clearance: NonNegative
    obstacle_clearance: NonNegative
    collision_check_step: Positive
    slowdown_time: Positive
    min_proximity_scale: Fraction
    max_tracking_error: Positive
    fatal_tracking_error: Positive
    tracking_window: Positive
    max_backoffs: Count
    backoff_window: Positive
    max_rejections: Count
    obstacles: tuple[ObstacleConfig, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [obstacle.name for obstacle in self.obstacles]
        require(len(set(names)) == len(names), 'obstacles', 'unique names', names)
        longest = self.max_proposal_age + self.validity_after_arrival
        is_allowed = longest <= self.max_validity + 1e-9
        expected = f'at least max_proposal_age + validity_after_arrival ({longest:.3f} s)'
        require(is_allowed, 'max_validity', expected, self.max_validity)
        is_allowed = self.validity_after_stamp <= self.max_validity
        expected = f'at most max_validity ({self.max_validity} s)'
        require(is_allowed, 'validity_after_stamp', expected, self.validity_after_stamp)
        is_allowed = self.tracking_window >= self.max_joint_age
        expected = f'at least max_joint_age ({self.max_joint_age} s)'
        require(is_allowed, 'tracking_window', expected, self.tracking_window)
