"""Parameters of the guard node."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_arm.ros.runtime.node_contract import CONTROLLERS
from jepa_arm.ros.runtime.parameters import (
    PRIORITY_BOUNDS,
    PRIORITY_TEXT,
    ArmSettings,
    parameter,
)

SPEED_SCALE_BOUNDS = (0.05, 1.0)


@dataclass(frozen=True)
class GuardSettings(ArmSettings):
    """Values of the guard node's parameters; see their descriptions."""

    guard_config: str = parameter('guard.yaml', 'limits and obstacles: file in config/, or path')
    controller: str = parameter(
        'joint_trajectory', f'controller that takes the commands: {", ".join(CONTROLLERS)}'
    )
    lock_step: bool = parameter(
        False, 'simulated time only advances in sim/step: one command for each tick of /clock'
    )
    priority: int = parameter(20, PRIORITY_TEXT, PRIORITY_BOUNDS)
    speed_scale: float = parameter(
        1.0, 'largest fraction of the joint velocity limits', SPEED_SCALE_BOUNDS, True
    )
    rest_period: float = parameter(
        0.05, "s between commands at rest; shorter than the robot's command timeout", (0.01, 0.1)
    )


def clamp_speed_scale(speed_scale: float) -> float:
    """Return ``speed_scale`` limited to 1: rclpy accepts values a millionth above the range."""
    return min(speed_scale, SPEED_SCALE_BOUNDS[1])
