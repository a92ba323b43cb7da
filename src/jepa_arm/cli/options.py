"""Options shared by several verbs, and the files that they name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_arm.config import (
    OPTIMIZERS,
    ArmConfig,
    ConfigError,
    GuardConfig,
    PlannerConfig,
    SimConfig,
    load,
)
from jepa_arm.core.files import arm_path, checkpoint_path, config_path, git_hash, machine
from jepa_arm.ros.graph.description import ARGUMENT_HELP

if TYPE_CHECKING:
    from jepa_arm.evaluation.episode_runner import SimulationSetup
    from jepa_arm.model.checkpoint import Checkpoint

DEFAULT_ARM = 'panda'
DEFAULT_CHECKPOINT = 'compact'
OPTIONAL_CHECKPOINT = f'{ARGUMENT_HELP["checkpoint"]} (default: {DEFAULT_CHECKPOINT})'
"""Help of ``--checkpoint`` where its default is None, to tell whether it was given."""
Register = Callable[..., argparse.ArgumentParser]
"""Type of ``CommandLine.register``."""


def positive_int(text: str) -> int:
    """Parse an integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected a number >= 1, got {text}')
    return value


def positive_float(text: str) -> float:
    """Parse a finite number > 0."""
    value = float(text)
    if not 0.0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a finite number > 0, got {text}')
    return value


def add_arm(parser: argparse.ArgumentParser) -> None:
    """Add ``--arm``."""
    parser.add_argument('--arm', default=DEFAULT_ARM, help=ARGUMENT_HELP['arm'])


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``."""
    parser.add_argument(
        '--checkpoint', default=DEFAULT_CHECKPOINT, help=ARGUMENT_HELP['checkpoint']
    )


def add_robot(parser: argparse.ArgumentParser) -> None:
    """Add ``--arm`` and ``--checkpoint``."""
    add_arm(parser)
    add_checkpoint(parser)


def add_count(
    parser: argparse.ArgumentParser, name: str, help: str, default: int | None = None
) -> None:
    """Add an option whose value is an integer >= 1."""
    parser.add_argument(name, type=positive_int, default=default, help=help)


def add_file(parser: argparse.ArgumentParser, name: str, help: str, **settings: Any) -> None:
    """Add an option whose value is a file; ``settings`` are passed to ``add_argument``."""
    parser.add_argument(name, metavar='FILE', help=help, **settings)


def add_flag(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """Add an option without a value."""
    parser.add_argument(name, action='store_true', help=help)


def add_json(parser: argparse.ArgumentParser, content: str = 'report') -> None:
    """Add ``--json``, the file to which a verb writes its ``content``."""
    add_file(parser, '--json', f'write the {content} to this file')


def add_graph(
    parser: argparse.ArgumentParser, namespace: str = 'namespace of the running graph'
) -> None:
    """Add ``--namespace`` with the help ``namespace``, ``--domain-id``, ``--discovery-range``."""
    parser.add_argument('--namespace', default='', help=namespace)
    about = 'ROS domain, 0 to 232 (default: ROS_DOMAIN_ID)'
    parser.add_argument('--domain-id', type=int, metavar='N', help=about)
    about = 'LOCALHOST, SUBNET or SYSTEM_DEFAULT (default: this machine only, unless set outside)'
    parser.add_argument('--discovery-range', metavar='RANGE', help=about)


def refuse(args: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    """Raise ConfigError if one of the options ``names`` was given, because it has no effect."""
    for name in names:
        if getattr(args, name) not in (None, False):
            raise ConfigError(f'--{name.replace("_", "-")}: has no effect {reason}; leave it out')


def arm(args: argparse.Namespace) -> ArmConfig:
    """Load the configuration of the arm that ``--arm`` names."""
    return load(ArmConfig, arm_path(args.arm))


def sim() -> SimConfig:
    """Load ``config/sim.yaml``."""
    return load(SimConfig, config_path('sim.yaml'))


def guard() -> GuardConfig:
    """Load ``config/guard.yaml``."""
    return load(GuardConfig, config_path('guard.yaml'))


def planner(optimizer: str | None = None) -> PlannerConfig:
    """Load ``config/planner.yaml``, replacing its search if ``optimizer`` names one."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    return replace(config, optimizer=optimizer) if optimizer in OPTIMIZERS else config


def checkpoint(args: argparse.Namespace) -> Path:
    """Return the folder of the checkpoint that ``--checkpoint`` names."""
    return checkpoint_path(args.checkpoint)


def load_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """Load the checkpoint that ``--checkpoint`` names."""
    from jepa_arm.model.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint(args))


def simulation(args: argparse.Namespace) -> SimulationSetup:
    """Load the configurations of the arm ``--arm``, the simulator and the guard."""
    from jepa_arm.evaluation.episode_runner import SimulationSetup

    return SimulationSetup.load(args.arm)


def join_graph(args: argparse.Namespace) -> None:
    """Set the environment of ROS 2, from ``--domain-id`` and ``--discovery-range`` if given."""
    from jepa_arm.ros.runtime.environment import choose_network, prepare_ros

    choose_network(args.domain_id, args.discovery_range)
    prepare_ros()


def report_figures(args: argparse.Namespace, figures: dict[str, Any]) -> int:
    """Print ``figures``, write them to the file of ``--json``, and return exit code 0."""
    print(json.dumps(figures, indent=1))
    write_json(args, figures)
    return 0


def write_json(args: argparse.Namespace, values: dict[str, Any]) -> None:
    """Write ``values`` and their provenance to the file of ``--json``, if it was given.

    The provenance has the keys ``command``, ``git`` and ``machine``; the same keys in ``values``
    take precedence.
    """
    if args.json:
        provenance = {'command': args.command, 'git': git_hash(), 'machine': machine()}
        Path(args.json).write_text(json.dumps({**provenance, **values}, indent=1) + '\n')
