"""Parameters and quality of service, declared once and alike in every node."""

from __future__ import annotations

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ..arm import Arm
from ..config import ArmConfig, ConfigError, SimConfig, load
from ..resources import config_path

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Images and joints: the newest wins."""
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
"""Proposals and commands."""
STATUS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""Status and clock."""
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""What seldom changes: who comes later gets the last one."""
COMMAND_TOPIC = 'joint_trajectory_controller/joint_trajectory'


def declare(
    node: Node, name: str, default: str | bool | int | float, description: str
) -> str | bool | int | float:
    """Declares a parameter of the default's type, if it is not yet; returns its value.

    It is read-only, but for managed nodes, which read theirs anew when they are configured.
    """
    if node.has_parameter(name):
        return node.get_parameter(name).value
    is_managed = isinstance(node, LifecycleNodeMixin)
    descriptor = ParameterDescriptor(description=description, read_only=not is_managed)
    return node.declare_parameter(name, default, descriptor).value


def declare_arm(node: Node) -> str:
    """Name of an arm, or a path."""
    text = 'arm: config/arms/<arm>.yaml, or a path to such a file'
    return str(declare(node, 'arm', 'panda', text))


def declare_sim_config(node: Node) -> str:
    """Name of the file with physics and time chain."""
    text = 'physics and time chain: config/<file>, or a path'
    return str(declare(node, 'sim_config', 'sim.yaml', text))


def declare_priority(node: Node, default: int) -> int:
    """For ``process.use_real_time``.

    Raises:
        ConfigError: no such priority.
    """
    text = 'SCHED_FIFO priority of the stream, 1..99; 0: a normal process'
    priority = int(declare(node, 'priority', default, text))
    if not 0 <= priority <= 99:
        raise ConfigError(f'priority: expected 0 to 99, got {priority}')
    return priority


def load_arm(name: str) -> Arm:
    """The arm of that name or path.

    Raises:
        ConfigError, FileNotFoundError, ArmError: no such arm, or it cannot be used.
    """
    file = name if name.endswith('.yaml') else f'arms/{name}.yaml'
    return Arm(load(ArmConfig, config_path(file)))


def load_sim_config(file: str) -> SimConfig:
    """Physics and time chain.

    Raises:
        ConfigError, FileNotFoundError: no such file, or not valid.
    """
    return load(SimConfig, config_path(file))
