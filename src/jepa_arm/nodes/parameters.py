"""Parameters and quality of service, declared once and alike in every node."""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from ..arm import Arm
from ..config import ArmConfig, ConfigError, SimConfig, load
from ..resources import arm_path, config_path
from .compat import declared_parameters, given_parameters
from .description import CONTROLLERS

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Images and joints: the newest wins."""
JOINTS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Joints where none is left out, though they are not taken at once; from arms of up to 1 kHz."""
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
"""Proposals and commands."""
STATUS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""Status and clock."""
GUARD_STATUS_WITHIN_S, GUARD_ALIVE_WITHIN_S = 1.0, 2.0
"""How far apart statuses of a guard come at most, and how long a dead one counts as alive."""
GUARD_STATUS = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    deadline=Duration(seconds=GUARD_STATUS_WITHIN_S),
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=Duration(seconds=GUARD_ALIVE_WITHIN_S),
)
"""Between guard and planner; others may ask for less, as by ``STATUS``."""
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""What seldom changes: who comes later gets the last one."""
BY_OTHERS = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')
"""Parameters that rclpy has in every node."""
LIVE = 'may be set at any time'
AT_CONFIGURE = 'read when configured'
AT_START = 'read when the process starts'
"""What ``ros2 param describe`` says of when a parameter counts."""
PRIORITIES = (0, 99)
SEEDS = (0, 2**32 - 1)
COMMAND_TOPIC = CONTROLLERS['joint_trajectory']


def declare(
    node: Node,
    name: str,
    default: str | bool | int | float,
    description: str,
    span: tuple[float, float] | None = None,
    is_live: bool = False,
    is_fixed: bool = False,
) -> str | bool | int | float:
    """Declares a parameter of the default's type, if it is not yet; returns its value.

    It is read-only, but for managed nodes, which read theirs anew when they are configured.

    Args:
        node, name, default, description: what is declared.
        span: lowest and highest value of a number, which rclpy keeps.
        is_live: a managed node takes new values at any time.
        is_fixed: a managed node, too, reads it once.
    """
    if node.has_parameter(name):
        return node.get_parameter(name).value
    is_managed = isinstance(node, LifecycleNodeMixin) and not is_fixed
    descriptor = ParameterDescriptor(description=description, read_only=not is_managed)
    when = LIVE if is_live else AT_CONFIGURE if is_managed else AT_START
    descriptor.additional_constraints = when
    if span is not None:
        lowest, highest = span
        if isinstance(default, float):
            limits = FloatingPointRange(from_value=float(lowest), to_value=float(highest))
            descriptor.floating_point_range = [limits]
        else:
            limits = IntegerRange(from_value=int(lowest), to_value=int(highest))
            descriptor.integer_range = [limits]
    return node.declare_parameter(name, default, descriptor).value


def is_live(node: Node, name: str) -> bool:
    """Whether a declared parameter may be set at any time."""
    return node.describe_parameter(name).additional_constraints == LIVE


def check_known(node: Node) -> None:
    """Call it when all parameters are declared.

    Raises:
        ConfigError: the command line or a parameter file names one that the node does not have.
    """
    given = given_parameters(node)  # rclpy drops what is not declared without a word
    unknown = [n for n in given if not node.has_parameter(n) and not n.startswith(BY_OTHERS)]
    if unknown:
        names = [n for n in sorted(declared_parameters(node)) if not n.startswith(BY_OTHERS)]
        raise ConfigError(f'unknown parameter {unknown[0]!r}, expected one of {names}')


def declare_arm(node: Node) -> str:
    """Name of an arm, or a path."""
    text = 'arm: config/arms/<arm>.yaml, or a path to such a file'
    return str(declare(node, 'arm', 'panda', text))


def declare_sim_config(node: Node) -> str:
    """Name of the file with physics and time chain."""
    text = 'physics and time chain: config/<file>, or a path'
    return str(declare(node, 'sim_config', 'sim.yaml', text))


def declare_priority(node: Node, default: int) -> int:
    """For ``process.use_real_time``."""
    text = 'SCHED_FIFO priority of the stream; 0: a normal process'
    return int(declare(node, 'priority', default, text, PRIORITIES))


def declare_seed(node: Node, description: str) -> int:
    """Of random numbers, from 0."""
    return int(declare(node, 'seed', 0, description, SEEDS))


def load_arm(name: str) -> Arm:
    """The arm of that name or path.

    Raises:
        ConfigError, FileNotFoundError, ArmError: no such arm, or it cannot be used.
    """
    return Arm(load(ArmConfig, arm_path(name)))


def load_sim_config(file: str) -> SimConfig:
    """Physics and time chain.

    Raises:
        ConfigError, FileNotFoundError: no such file, or not valid.
    """
    return load(SimConfig, config_path(file))
