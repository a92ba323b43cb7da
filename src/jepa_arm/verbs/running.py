"""Verbs that run the graph or look at it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from ..config import ConfigError, PlannerConfig, load
from ..installation import (
    Finding,
    Level,
    examine_machine,
    format_findings,
    how_to_get,
    missing_modules,
)
from ..resources import config_path
from . import options

NEXT_STEPS = """
What next?
  jepa-arm up                                  the graph alone; send your own goals
  jepa-arm eval --task push --episodes 20      the strict protocol, floor and ceiling beside it
  jepa-arm bench ros                           latencies on this machine
  make model                                   train the world model from nothing
"""


def demo(args: argparse.Namespace) -> int:
    """The main job over real ROS 2, with a page of pictures; fails if no goal is reached."""
    options.check_goals_over_ros(args.task)
    from ..nodes.environment import prepare_ros

    prepare_ros()
    from ..nodes.demo import run_demo

    page, won, count = run_demo(
        args.task, args.episodes, args.seed, options.checkpoint(args), args.arm, Path(args.out)
    )
    print(f'\n{won} of {count} goals reached. Pictures, paths and latencies: {page}')
    print(NEXT_STEPS)
    return 0 if won else 1


def up(args: argparse.Namespace) -> int:
    """Starts simulator, planner and guard and keeps them running until Ctrl-C."""
    from ..nodes.description import check_names

    missing = missing_modules()
    if missing:  # else each node would say so by itself
        raise ConfigError(f'missing modules: {", ".join(missing)}; {how_to_get(*missing)}')
    check_names(args.arm, str(args.checkpoint), args.controller, args.task, args.guard_config)
    _join(args)
    from ..nodes.graph import run_graph

    return run_graph(args)


def reference(args: argparse.Namespace) -> int:
    """Topics, services and parameters of the nodes, as a page in Markdown."""
    from ..nodes.environment import prepare_ros

    prepare_ros()
    from ..nodes.reference import reference as write

    text = write()
    if args.out:
        Path(args.out).write_text(text)
    else:
        print(text, end='')
    return 0


def record(args: argparse.Namespace) -> int:
    """What the graph says into one MCAP file, until Ctrl-C; it opens in Foxglove."""
    _join(args)
    from ..nodes.recorder import record as run

    out = args.out or f'{datetime.now():recording_%Y%m%d_%H%M%S}.mcap'
    print(run(Path(out), args.topics, args.duration, args.namespace))
    return 0


def view(args: argparse.Namespace) -> int:
    """A running graph in Rerun: arm, camera, plan, goal and what is said; until Ctrl-C."""
    from ..nodes.environment import check_rerun

    check_rerun()
    _join(args)
    from ..nodes.rerun_view import view as run

    run('jepa-arm view', args.namespace, arm=args.arm, save=args.save or '')
    return 0


def recover(args: argparse.Namespace) -> int:
    """A whole MCAP file of one that was cut off, up to its last whole chunk."""
    from ..data.mcap_file import recover as run

    counts = run(Path(args.source), Path(args.out))
    print(f'{sum(counts.values())} messages on {len(counts)} topics in {args.out}')
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Looks at machine, installation, arm, checkpoint and running graph; says what to do."""
    found = list(examine_machine())
    if not missing_modules():  # else what follows cannot be imported
        found += _examine_rest(args)
    print(format_findings(found))
    findings = [{**asdict(f), 'level': f.level.name} for f in found]
    options.write_json(args.json, {'findings': findings})
    failed = sum(f.level is Level.FAIL for f in found)
    print(f'\n{len(found)} findings, {failed} to be put right')
    return 1 if failed else 0


def _examine_rest(args: argparse.Namespace) -> list[Finding]:
    """Findings on arm, checkpoint and running graph."""
    from ..doctor import camera_of, examine_arm, examine_checkpoint

    planner = load(PlannerConfig, config_path('planner.yaml'))
    arm, sim = options.arm(args), options.sim()
    guard, folder = options.guard(), options.checkpoint(args)
    found = list(examine_arm(arm, guard, sim.time))
    if found[-1].name != 'arm':  # it can be used
        found += examine_checkpoint(folder, arm, sim, planner)
    try:
        _join(args)
    except SystemExit as error:
        return [*found, Finding('ROS 2', Level.FAIL, str(error))]
    from ..nodes.doctor import examine_graph

    return [*found, *examine_graph(arm, sim, args.namespace, guard, camera_of(folder))]


def _join(args: argparse.Namespace) -> None:
    """Makes ROS 2 work, on the network of ``--domain-id`` and ``--discovery-range``."""
    from ..nodes.environment import choose_network, prepare_ros

    choose_network(args.domain_id, args.discovery_range)
    prepare_ros()
