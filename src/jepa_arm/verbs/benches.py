"""Verbs that measure what stages, decisions and other planners cost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ConfigError, PlannerConfig, load
from ..resources import config_path
from . import options

if TYPE_CHECKING:
    from ..comparison import Scene


def bench(args: argparse.Namespace) -> int:
    """One stage's figures as one flat JSON object."""
    figures = _bench_ros(args) if args.what == 'ros' else _bench_stage(args)
    print(json.dumps(figures, indent=1))
    options.write_json(args.json, figures)
    return 0


def _bench_ros(args: argparse.Namespace) -> dict[str, Any]:
    from ..nodes.environment import prepare_ros

    prepare_ros()
    from ..nodes.evaluate import bench_ros

    return bench_ros(options.checkpoint(args))


def _bench_stage(args: argparse.Namespace) -> dict[str, Any]:
    from .. import bench as stages
    from ..model.checkpoint import load_checkpoint

    robot = options.arm(args), options.sim(), options.guard()
    if args.what == 'sim':
        return stages.bench_sim(*robot)
    checkpoint = load_checkpoint(options.checkpoint(args))
    if args.what == 'encode':
        return stages.bench_encode(checkpoint)
    if args.what == 'stages':
        return stages.bench_stages(checkpoint, load(PlannerConfig, config_path('planner.yaml')))
    return stages.bench_plan(checkpoint, *robot, options.planner(args))


def peers(args: argparse.Namespace) -> int:
    """Our planner, baselines and other packages' on the same scenes; goes on where it stopped."""
    from ..comparison import OURS, missing_package, outside_contenders, run_comparison
    from ..comparison_table import format_table, read_results, summarise
    from ..model.checkpoint import load_checkpoint

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
            load_checkpoint(options.checkpoint(args)),
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
        options.write_json(args.json, {'rows': rows, 'left_out': left_out})
    return 0


def energy(args: argparse.Namespace) -> int:
    """What a decision and a solved task take: processor time, operations, joules."""
    from ..energy import bench_energy
    from ..model.checkpoint import load_checkpoint

    checkpoint, planner = load_checkpoint(options.checkpoint(args)), options.planner(args)
    figures = bench_energy(checkpoint, _scene(args), planner, args.episodes, args.seed)
    print(json.dumps(figures, indent=1))
    options.write_json(args.json, figures)
    return 0


def _scene(args: argparse.Namespace) -> Scene:
    from ..comparison import Scene

    return Scene(options.arm(args), options.sim(), options.guard())
