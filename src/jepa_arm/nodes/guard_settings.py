"""The parameters of the guard's node."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from .description import CONTROLLERS
from .parameters import declare, declare_arm, declare_priority, declare_sim_config

CONTROLLER_TEXT = f'controller behind the commands: {", ".join(CONTROLLERS)}'
SPEED_TEXT = 'share of the joint velocity limits that is used at most'
SPEED_SPAN = (0.05, 1.0)
REST_TEXT = 's between commands while the arm rests; less than what the robot waits for one'
REST_SPAN = (0.01, 0.1)


@dataclass(frozen=True)
class GuardSettings:
    """The parameters of the node, by their names."""

    arm: str
    sim_config: str
    guard_config: str
    controller: str
    lock_step: bool
    priority: int
    speed_scale: float
    rest_period: float

    @classmethod
    def read(cls, node: Node) -> GuardSettings:
        """Declares them, or reads them again."""
        text = 'what is let through: config/<file>, or a path'
        return cls(
            declare_arm(node),
            declare_sim_config(node),
            str(declare(node, 'guard_config', 'guard.yaml', text)),
            str(declare(node, 'controller', 'joint_trajectory', CONTROLLER_TEXT)),
            bool(declare(node, 'lock_step', False, 'ticks are asked for by /clock')),
            declare_priority(node, 20),
            float(declare(node, 'speed_scale', 1.0, SPEED_TEXT, SPEED_SPAN, True)),
            float(declare(node, 'rest_period', 0.05, REST_TEXT, REST_SPAN)),
        )


def most_speed(speed_scale: float) -> float:
    """For the guard; rclpy lets numbers pass that miss the end of the span by a millionth."""
    return min(speed_scale, SPEED_SPAN[1])
