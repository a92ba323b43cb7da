"""What the guard lets through, and the obstacles that it keeps off."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from .loading import ConfigError


@dataclass(frozen=True)
class ObstacleConfig:
    """Something fixed that no part of the arm may touch.

    Attributes:
        name: how reasons call it.
        shape: 'box' (size: x, y, z), 'sphere' (radius) or 'capsule' (radius, length between the
            centres of its half balls, along z); sizes in m.
        xyz: m, centre in the base frame; rpy: rad, turns about the fixed axes x, y, z.
    """

    name: str
    shape: str
    size: tuple[float, ...]
    xyz: tuple[float, float, float]
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        counts = {'box': 3, 'sphere': 1, 'capsule': 2}
        if not self.name:
            raise ConfigError('obstacle: expected a name, got an empty one')
        if self.shape not in counts:
            raise ConfigError(
                f'obstacle {self.name}.shape: expected one of {list(counts)}, got {self.shape!r}'
            )
        count = counts[self.shape]
        if len(self.size) != count or not all(0.0 < s < float('inf') for s in self.size):
            raise ConfigError(
                f'obstacle {self.name}.size: expected {count} positive finite numbers (m) for a '
                f'{self.shape}, got {self.size}'
            )
        if not all(map(math.isfinite, (*self.xyz, *self.rpy))):
            raise ConfigError(
                f'obstacle {self.name}: expected finite xyz and rpy, got {self.xyz}, {self.rpy}'
            )


@dataclass(frozen=True)
class GuardConfig:
    """What the guard lets through to the robot. Limits of joints and workspace: ``ArmConfig``.

    Attributes:
        max_proposal_age: s, oldest observation a proposal may come from when it arrives.
        max_future: s, how far a proposal's stamp may lie ahead of the clock.
        max_validity: s after its stamp for which a proposal may be followed at most.
        ros_validity: s, the same for proposals over ROS, whose message has no field for it.
        late_validity: s after it came for which a proposal over ROS may be followed, where that
            is longer: images or plans may be late, but come in time one after the other.
        max_waypoints: longest proposal.
        max_joint_age: s without a joint state after which the arm is stopped.
        max_step: rad, from the present command to the first waypoint.
        workspace_margin: m by which the tip may leave the workspace box on its way.
        min_clearance: m, least height of the arm's lowest point above the table on its way; a
            stop may use it up, not more.
        obstacle_clearance: m, least distance of any part of the arm to a declared obstacle.
        sweep_step: m, farthest that any part of the arm moves between two checks of a path.
        approach_time: s, least time to a joint limit, a self-collision or a declared obstacle at
            the present closing speed; nearer, the arm goes slower.
        least_speed: share of the velocity limits below which the approach is not slowed.
        max_tracking_error: rad between the measured joints and the nearest recent command.
            Beyond it the arm yields.
        lost_tracking_error: rad beyond which the guard latches at once.
        tracking_window: s of commands that count as recent; more than the age of a joint
            state plus the arm's lag.
        max_yields: how often it yields within ``yield_memory`` (s) before the guard latches.
        max_rejections: refused proposals in a row after which the guard latches.
        obstacles: what stands in the arm's way.
    """

    max_proposal_age: float
    max_future: float
    max_validity: float
    ros_validity: float
    late_validity: float
    max_waypoints: int
    max_joint_age: float
    max_step: float
    workspace_margin: float
    min_clearance: float
    obstacle_clearance: float
    sweep_step: float
    approach_time: float
    least_speed: float
    max_tracking_error: float
    lost_tracking_error: float
    tracking_window: float
    max_yields: int
    yield_memory: float
    max_rejections: int
    obstacles: tuple[ObstacleConfig, ...] = ()

    def __post_init__(self) -> None:
        may_be_zero = ('max_future', 'workspace_margin', 'min_clearance', 'obstacle_clearance')
        for field in dataclasses.fields(self):
            if field.name == 'obstacles':
                continue
            value = getattr(self, field.name)
            least_ok = value >= 0 if field.name in may_be_zero else value > 0
            if not (least_ok and value < float('inf')):
                raise ConfigError(f'{field.name}: expected a positive number, got {value}')
        names = [obstacle.name for obstacle in self.obstacles]
        if len(set(names)) < len(names):
            raise ConfigError(f'obstacles: expected a name of its own for each, got {names}')
        if self.least_speed > 1.0:
            raise ConfigError(f'least_speed: expected a share in (0, 1], got {self.least_speed}')
        longest = self.max_proposal_age + self.late_validity
        if longest > self.max_validity + 1e-9:
            raise ConfigError(
                f'max_validity: expected at least max_proposal_age + late_validity ({longest:.3f} '
                f's), got {self.max_validity}'
            )
        if self.ros_validity > self.max_validity:
            raise ConfigError(
                f'ros_validity: expected at most max_validity ({self.max_validity} s), '
                f'got {self.ros_validity}'
            )
        if self.tracking_window < self.max_joint_age:
            raise ConfigError(
                f'tracking_window: expected at least max_joint_age ({self.max_joint_age} s), '
                f'got {self.tracking_window}'
            )
