"""Verbs that measure, and those that break things on purpose."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CollectConfig, ConfigError, PlannerConfig, load
from ..resources import checkpoint_path, config_path
from . import options

if TYPE_CHECKING:
    from ..evaluator import Blackout

POLICIES = ('random', 'scripted')
"""Of ``jepa-arm eval --planner``, those that need no checkpoint."""


def evaluate(args: argparse.Namespace) -> int:
    """The strict protocol, in process or over ROS; table, JSON, pictures."""
    _check_evaluation(args)
    tolerance = None if args.tolerance_cm is None else args.tolerance_cm / 100.0
    if args.planner in POLICIES:
        report, results = _evaluate_policy(args, tolerance)
    elif args.ros:
        report, results = _evaluate_over_ros(args, tolerance)
    else:
        report, results = _evaluate_in_process(args, tolerance)
    from ..evaluation_report import format_report
    from ..report import write_report

    print(format_report(report))
    options.write_json(args.json, report)
    if args.html:
        title = f'jepa_arm: {args.task}'
        print(write_report(Path(args.html), title, report, results, options.arm(args).camera))
    return 0


def _check_evaluation(args: argparse.Namespace) -> None:
    """Raises ConfigError where options do not go together."""
    for option in ('blackout', 'delay', 'planner', 'no_deadline'):
        if args.ros and getattr(args, option):
            name = option.replace('_', '-')
            raise ConfigError(f'--{name} is for episodes in process: expected no --ros')
    if args.unknown_delay and not args.delay:
        raise ConfigError('--unknown-delay: expected a --delay with it')
    if args.planner in POLICIES and (args.blackout or args.delay):
        raise ConfigError(
            f'--planner {args.planner} sees no images: expected no --blackout or --delay'
        )


def _evaluate_policy(args: argparse.Namespace, tolerance: float | None) -> Any:
    from ..evaluation import evaluate_policy

    return evaluate_policy(
        args.planner,
        options.arm(args),
        options.sim(),
        options.guard(),
        args.task,
        args.episodes,
        args.seed,
        tolerance,
        keep_frames=bool(args.html),
    )


def _evaluate_over_ros(args: argparse.Namespace, tolerance: float | None) -> Any:
    from ..nodes.environment import prepare_ros

    prepare_ros()
    from ..nodes.evaluate import evaluate_over_ros

    return evaluate_over_ros(
        args.task,
        args.episodes,
        args.seed,
        tolerance,
        options.checkpoint(args),
        baselines=not args.no_baselines,
        keep_frames=bool(args.html),
        arm=args.arm,
    )


def _evaluate_in_process(args: argparse.Namespace, tolerance: float | None) -> Any:
    import torch

    from ..evaluation import evaluate as run
    from ..evaluator import Conditions
    from ..model.checkpoint import load_checkpoint

    planner = options.planner(args)
    if args.no_deadline:
        planner = replace(planner, deadline_ms=float('inf'))
    torch.set_num_threads(planner.threads)
    return run(
        load_checkpoint(options.checkpoint(args)),
        options.arm(args),
        options.sim(),
        options.guard(),
        planner,
        args.task,
        args.episodes,
        args.seed,
        tolerance,
        baselines=not args.no_baselines,
        keep_frames=bool(args.html),
        conditions=Conditions(
            _blackout(args.blackout), args.delay / 1000.0, not args.unknown_delay
        ),
    )


def _blackout(given: list[str] | None) -> Blackout:
    """When an episode is without images; ``given`` FROM and FOR."""
    from ..evaluator import Blackout

    if given is None:
        return Blackout()
    of_way = given[0].endswith('%')
    try:
        begin, duration = float(given[0].removesuffix('%')), float(given[1])
    except ValueError:
        begin = duration = float('nan')
    most = 100.0 if of_way else float('inf')
    if not (0.0 < begin < most and 0.0 <= duration < float('inf')):
        raise ConfigError(
            '--blackout: expected FROM > 0 s, or 1% to 99% of the way, and FOR >= 0 s, got '
            f'{" ".join(given)}'
        )
    return Blackout(begin / 100.0 if of_way else begin, duration or float('inf'), of_way)


def surprise(args: argparse.Namespace) -> int:
    """How surely, and how soon, each of eleven anomalies surprises the belief."""
    from ..detection import format_surprise, measure_surprise
    from ..model.checkpoint import load_checkpoint
    from ..training.cpu import prepare_cpu

    prepare_cpu(1)
    play = load(CollectConfig, config_path('collect.yaml'))
    checkpoint = load_checkpoint(options.checkpoint(args))
    report = measure_surprise(
        checkpoint, options.arm(args), options.sim(), play, args.episodes, args.seed
    )
    print(format_surprise(report))
    options.write_json(args.json, report)
    return 0


def replay(args: argparse.Namespace) -> int:
    """Plans again from a recording and compares; no ROS 2, no robot, nothing moves."""
    import torch

    from ..agent import Agent
    from ..arm import Arm
    from ..data.recording_reader import read_recording
    from ..model.checkpoint import check_contract, load_checkpoint
    from ..motion import make_contract
    from ..replay import Replay, check_camera
    from ..replay_report import compare, format_replay

    arm = Arm(options.arm(args))
    recording = read_recording(Path(args.file), arm.joint_names, arm.config.camera, args.namespace)
    about = recording.about
    name = args.checkpoint or about.get('planner.checkpoint', options.DEFAULT_CHECKPOINT)
    file = args.planner_config or about.get('planner.planner_config', 'planner.yaml')
    seed = int(about.get('planner.seed', 0)) if args.seed is None else args.seed
    checkpoint = load_checkpoint(checkpoint_path(name))
    check_contract(checkpoint.contract, make_contract(arm.config, options.sim().time))
    check_camera(recording, checkpoint.contract.camera)
    config = load(PlannerConfig, config_path(file))
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    run = Replay(recording, Agent(checkpoint, arm, config, seed), arm)
    redone = run.run(args.speed)
    report = {
        'file': Path(args.file).name,
        'recorded': dict(about),
        'replayed': {'checkpoint': name, 'planner_config': file, 'seed': seed},
        'speed': args.speed,
        'behind_s': round(run.behind_s, 3),
        **compare(recording, redone, run.read, arm, args.tolerance_cm, args.min_equal),
    }
    print(format_replay(report))
    if args.speed and run.behind_s > 1.0 / args.speed:
        print(f'this machine fell {run.behind_s:.1f} s behind; try a lower --speed')
    options.write_json(args.json, report)
    return 1 if args.compare and not report['passed'] else 0


def faults(args: argparse.Namespace) -> int:
    """Tries every fault on the live graph; table, JSON, page; fails if one row does."""
    from ..nodes.environment import prepare_ros

    prepare_ros(shares_memory=False)  # of what it kills
    from ..nodes.fault_runner import chosen_rows, run_faults

    if args.list:
        for row in chosen_rows(args.only):
            print(f'{row.number:2d} {row.name:21s} {row.fault}: {row.play.expected}')
        return 0
    from ..fault_report import format_faults, write_faults

    report = run_faults(options.checkpoint(args), args.arm, args.only)
    print(format_faults(report))
    options.write_json(args.json, report)
    if args.html:
        print(write_faults(Path(args.html), report))
    return 1 if any(row['passed'] is False for row in report['rows']) else 0


def fuzz(args: argparse.Namespace) -> int:
    """Hostile messages to the guard's core or to the running graph; fails if one does harm."""
    if args.what == 'core':
        from ..fuzzing.core import format_fuzz, fuzz_core

        report = fuzz_core(args.count or 1_000_000, args.seed, args.arm, args.workers)
    else:
        from ..nodes.environment import prepare_ros

        prepare_ros(shares_memory=False)  # of what it kills
        from ..nodes.fuzz import format_fuzz, fuzz_ros

        report = fuzz_ros(args.count or 100_000, args.seed, options.checkpoint(args), args.arm)
    print(format_fuzz(report))
    options.write_json(args.json, report)
    return 1 if report['violations'] else 0


def soak(args: argparse.Namespace) -> int:
    """Random goals and faults on the whole graph for long; fails if anything wears out."""
    from ..nodes.environment import prepare_ros

    prepare_ros(shares_memory=False)  # of what it kills
    from ..nodes.soak import format_soak
    from ..nodes.soak import soak as run

    minutes = args.hours * 60.0 if args.hours else args.minutes
    checkpoint = options.checkpoint(args)
    report = run(minutes, args.seed, checkpoint, args.arm, together=args.together)
    print(format_soak(report))
    options.write_json(args.json, report)
    return 1 if report['violations'] else 0
