"""What ``jepa-arm bench peers`` and ``bench energy`` do."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig, load
from .resources import arm_path, checkpoint_path, config_path

if TYPE_CHECKING:
    from .comparison import Scene


def peers(args: argparse.Namespace) -> int:
    """Our planner, baselines and other packages' on the same scenes; goes on where it stopped."""
    from .comparison import OURS, missing_package, outside_contenders, run_comparison
    from .comparison_table import format_table, read_results, summarise
    from .model.checkpoint import load_checkpoint

    contenders = (*OURS, *outside_contenders())
    names = [c.name for c in contenders]
    unknown = sorted(set(args.only) - set(names))
    if unknown:
        raise ConfigError(f'--only: expected some of {", ".join(names)}, got {unknown[0]}')
    left_out = {c.name: reason for c in contenders if (reason := missing_package(c))}
    if args.list:
        for c in contenders:
            print(
                f'{c.name:24s} {c.package} {c.title}; cost: {c.cost}; {left_out.get(c.name, "")}'
            )
        return 0
    out = Path(args.out)
    if not args.table:
        wanted = [c for c in contenders if not args.only or c.name in args.only]
        for c in wanted:
            if c.name in left_out:
                print(f'{c.name}: left out, {left_out[c.name]}')
        run_comparison(
            load_checkpoint(checkpoint_path(args.checkpoint)),
            _scene(args),
            load(PlannerConfig, config_path('planner.yaml')),
            [c for c in wanted if c.name not in left_out],
            args.task,
            args.episodes,
            args.seed,
            out / 'results',
        )
    results = read_results(out / 'results')
    table = format_table(results, left_out)
    print(table)
    (out / 'table.md').write_text(table + '\n')
    if args.json:
        rows = [summarise(r) for r in results if r['episodes']]
        text = json.dumps({'rows': rows, 'left_out': left_out}, indent=1)
        Path(args.json).write_text(text + '\n')
    return 0


def energy(args: argparse.Namespace) -> int:
    """What a decision and a solved task take: processor time, operations, joules."""
    from .energy import bench_energy
    from .model.checkpoint import load_checkpoint

    planner = load(PlannerConfig, config_path('planner.yaml'))
    if args.planner:
        planner = replace(planner, optimizer=args.planner)
    checkpoint = load_checkpoint(checkpoint_path(args.checkpoint))
    figures = bench_energy(checkpoint, _scene(args), planner, args.episodes, args.seed)
    print(json.dumps(figures, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + '\n')
    return 0


def _scene(args: argparse.Namespace) -> Scene:
    from .comparison import Scene

    return Scene(
        load(ArmConfig, arm_path(args.arm)),
        load(SimConfig, config_path('sim.yaml')),
        load(GuardConfig, config_path('guard.yaml')),
    )
