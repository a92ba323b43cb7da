"""What several verbs make of their arguments, and how they write figures."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import (
    OPTIMIZERS,
    ArmConfig,
    GuardConfig,
    PlannerConfig,
    SimConfig,
    load,
)
from ..resources import arm_path, checkpoint_path, config_path

DEFAULT_CHECKPOINT = 'compact'


def arm(args: argparse.Namespace) -> ArmConfig:
    """The arm of ``--arm``."""
    return load(ArmConfig, arm_path(args.arm))


def sim() -> SimConfig:
    """``config/sim.yaml``."""
    return load(SimConfig, config_path('sim.yaml'))


def guard() -> GuardConfig:
    """``config/guard.yaml``."""
    return load(GuardConfig, config_path('guard.yaml'))


def planner(args: argparse.Namespace) -> PlannerConfig:
    """``config/planner.yaml``, with the search of ``--planner`` if it is one."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    return replace(config, optimizer=args.planner) if args.planner in OPTIMIZERS else config


def checkpoint(args: argparse.Namespace) -> Path:
    """Folder of ``--checkpoint``."""
    return checkpoint_path(args.checkpoint)


def write_json(path: str | None, values: dict[str, Any]) -> None:
    """Writes ``values`` to the file of ``--json``, if there is one."""
    if path:
        Path(path).write_text(json.dumps(values, indent=1) + '\n')
