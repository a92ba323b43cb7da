"""Parameters and quality of service, declared once and alike in every node."""

from __future__ import annotations

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from ..arm import Arm
from ..config import ArmConfig, SimConfig, load
from ..resources import config_path

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Images and joints: the newest wins."""
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
"""Proposals and commands."""
STATUS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""Status and clock."""


def declare(
    node: Node, name: str, default: str | bool | int | float, description: str
) -> str | bool | int | float:
    """Declares a read-only parameter of the default's type; returns its value."""
    descriptor = ParameterDescriptor(description=description, read_only=True)
    return node.declare_parameter(name, default, descriptor).value


def declare_arm(node: Node) -> Arm:
    """The arm that the parameter ``arm`` names.

    Raises:
        ConfigError, FileNotFoundError, ArmError: no such arm, or it cannot be used.
    """
    name = declare(node, 'arm', 'panda', 'arm: config/arms/<arm>.yaml, or a path to such a file')
    file = str(name) if str(name).endswith('.yaml') else f'arms/{name}.yaml'
    return Arm(load(ArmConfig, config_path(file)))


def declare_sim_config(node: Node) -> SimConfig:
    """Physics and time chain from the parameter ``sim_config``.

    Raises:
        ConfigError, FileNotFoundError: no such file, or not valid.
    """
    name = declare(
        node, 'sim_config', 'sim.yaml', 'physics and time chain: config/<file>, or a path'
    )
    return load(SimConfig, config_path(str(name)))
