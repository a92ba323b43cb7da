"""ROS parameters: declared from the fields of settings dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.node import Node

from jepa_arm.config import ArmConfig, ConfigError, SimConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.robot.arm import Arm

from .compat import declared_parameters, parameter_overrides

S = TypeVar('S')

RCLPY_PARAMETERS = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')
"""Prefixes of the parameters that rclpy declares in every node."""
LIVE = 'may be set at any time'
AT_CONFIGURE = 'read when configured'
AT_START = 'read when the process starts'
"""Notes in ``ros2 param describe`` on when a parameter takes effect."""
PRIORITY_BOUNDS = (0, 99)
PRIORITY_TEXT = 'SCHED_FIFO priority of the command stream; 0: not real-time'
SEED_BOUNDS = (0, 2**32 - 1)


def parameter(
    default: str | bool | int | float,
    description: str,
    bounds: tuple[float, float] | None = None,
    is_live: bool = False,
) -> Any:
    """Return a dataclass field that is declared as a ROS parameter under the field's name.

    Args:
        default: also sets the type of the parameter.
        description: text with the unit, for ``ros2 param describe``.
        bounds: lowest and highest value of a number.
        is_live: whether a managed node accepts new values at any time.
    """
    metadata = {'description': description, 'bounds': bounds, 'is_live': is_live}
    return field(default=default, metadata=metadata)


def declare_settings(node: Node, kind: type, is_fixed: bool = False) -> None:
    """Declare the parameters of the settings dataclass ``kind``.

    They are read-only, except in managed nodes, which read them each time they are configured;
    ``is_fixed`` makes them read-only there, too.
    """
    is_managed = isinstance(node, LifecycleNodeMixin) and not is_fixed
    for each in fields(kind):
        when = LIVE if each.metadata['is_live'] else AT_CONFIGURE if is_managed else AT_START
        descriptor = ParameterDescriptor(
            description=each.metadata['description'],
            read_only=not is_managed,
            additional_constraints=when,
        )
        if each.metadata['bounds'] is not None:
            low, high = each.metadata['bounds']
            if isinstance(each.default, float):
                span = FloatingPointRange(from_value=float(low), to_value=float(high))
                descriptor.floating_point_range = [span]
            else:
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        node.declare_parameter(each.name, each.default, descriptor)


def read_settings(node: Node, kind: type[S]) -> S:
    """Return the values of the parameters that ``declare_settings`` declared."""
    names = [each.name for each in fields(kind)]  # pyright: ignore[reportArgumentType]
    return kind(**{name: node.get_parameter(name).value for name in names})


def reject_unknown_parameters(node: Node) -> None:
    """Check that every parameter given to ``node`` is declared; rclpy ignores the others silently.

    Raises:
        ConfigError: the command line or a parameter file sets an unknown parameter.
    """
    given = [n for n in parameter_overrides(node) if not n.startswith(RCLPY_PARAMETERS)]
    unknown = [name for name in given if not node.has_parameter(name)]
    if unknown:
        names = sorted(n for n in declared_parameters(node) if not n.startswith(RCLPY_PARAMETERS))
        raise ConfigError(f'unknown parameter {unknown[0]!r}, expected one of {names}')


def declared_settings(node: Node, kind: type[S]) -> S:
    """Declare the parameters of an unmanaged node and return their values.

    Raises:
        ConfigError: the command line or a parameter file sets an unknown parameter.
    """
    declare_settings(node, kind)
    reject_unknown_parameters(node)
    return read_settings(node, kind)


@dataclass(frozen=True)
class ArmSettings:
    """Parameters of every node that needs an arm."""

    arm: str = parameter('panda', 'arm: name of a file in config/arms, or path of a YAML file')
    sim_config: str = parameter(
        'sim.yaml', 'physics and control periods: file in config/, or path of a YAML file'
    )


def load_arm(name: str) -> Arm:
    """Load the arm with this name, or from the file at this path.

    Raises:
        ConfigError, FileNotFoundError, ArmError: the arm does not exist or is invalid.
    """
    return Arm(load(ArmConfig, arm_path(name)))


def load_sim_config(file: str) -> SimConfig:
    """Load the physics and control periods from a file in ``config/``, or from a path.

    Raises:
        ConfigError, FileNotFoundError: the file does not exist or is invalid.
    """
    return load(SimConfig, config_path(file))
