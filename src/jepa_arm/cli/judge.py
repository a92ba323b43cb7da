"""Verbs ``eval`` and ``bench …``: measure success and speed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_arm.config import OPTIMIZERS, ConfigError

from . import options

if TYPE_CHECKING:
    from jepa_arm.evaluation.episode_runner import Blackout
    from jepa_arm.evaluation.protocol import EvaluationSettings

POLICIES = ('random', 'scripted')
"""Values of ``--planner`` that act on the simulator's state and need no checkpoint."""


def add_verbs(register: options.Register) -> None:
    """Register ``eval`` and ``bench plan``, ``stages``, ``encode``, ``ros`` and ``sim``."""
    _add_eval(register)
    runs = bench_plan, bench_stages, bench_encode, bench_ros, bench_sim
    for name, run in zip(('plan', 'stages', 'encode', 'ros', 'sim'), runs, strict=True):
        parser = register('bench', name, run, f'jepa-arm bench {name} --json {name}.json')
        if name != 'sim':
            options.add_checkpoint(parser)
        if name in ('plan', 'sim'):
            options.add_arm(parser)
        if name == 'plan':
            about = 'search (default: that of config/planner.yaml)'
            parser.add_argument('--planner', choices=OPTIMIZERS, help=about)
        options.add_json(parser, 'figures')


def _add_eval(register: options.Register) -> None:
    example = 'jepa-arm eval --task push --episodes 20 --seed 0'
    parser = register('judge', 'eval', evaluate, example)
    options.add_arm(parser)
    parser.add_argument('--checkpoint', help=options.OPTIONAL_CHECKPOINT)
    parser.add_argument('--task', required=True, help='config/tasks/TASK.yaml')
    options.add_count(parser, '--episodes', 'number of scenes', 100)
    parser.add_argument('--seed', type=int, default=0, help='scenes have seeds 1000000 + SEED + i')
    about = 'default: that of config/planner.yaml; random and scripted need no checkpoint'
    parser.add_argument('--planner', choices=(*OPTIMIZERS, *POLICIES), help=about)
    about = 'make all iterations of each plan, however long they take'
    options.add_flag(parser, '--no-deadline', about)
    parser.add_argument('--tolerance-cm', type=float, help='default: that of the task')
    about = 'run simulator, planner and guard as ROS 2 nodes, in real time'
    options.add_flag(parser, '--ros', about)
    parser.add_argument(
        '--blackout',
        nargs=2,
        metavar=('BEGIN', 'DURATION'),
        help='withhold images, in process: s from the start, or with 50%% from half of the way '
        'to the goal; for DURATION s, 0: until the end',
    )
    about = 'ms from each image to the arrival of its plan at the guard, simulated, in process'
    parser.add_argument('--delay', type=float, default=0.0, metavar='MS', help=about)
    about = 'with --delay: do not tell the planner about the delay'
    options.add_flag(parser, '--unknown-delay', about)
    options.add_flag(parser, '--no-baselines', 'skip the random floor and the scripted ceiling')
    options.add_json(parser)
    about = 'write a page with an animation of each episode'
    parser.add_argument('--html', metavar='FOLDER', help=about)


def evaluate(args: argparse.Namespace) -> int:
    """Measure success by the strict protocol, with random floor and scripted ceiling."""
    _check_options(args)
    from jepa_arm.evaluation.pictures import write_report
    from jepa_arm.evaluation.protocol import EvaluationSettings, evaluate_policy
    from jepa_arm.evaluation.report import format_report

    args.checkpoint = args.checkpoint or options.DEFAULT_CHECKPOINT
    settings = EvaluationSettings(
        args.task,
        args.episodes,
        args.seed,
        None if args.tolerance_cm is None else args.tolerance_cm / 100.0,
        with_baselines=not args.no_baselines,
        keep_frames=bool(args.html),
    )
    if args.planner in POLICIES:
        report, results = evaluate_policy(args.planner, options.simulation(args), settings)
    elif args.ros:
        report, results = _evaluate_over_ros(args, settings)
    else:
        report, results = _evaluate_in_process(args, settings)
    print(format_report(report))
    options.write_json(args, report)
    if args.html:
        title = f'jepa_arm: {args.task}'
        print(write_report(Path(args.html), title, report, results, options.arm(args).camera))
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise ConfigError if an option has no effect together with the others."""
    if args.ros:
        names = ('blackout', 'delay', 'unknown_delay', 'planner', 'no_deadline')
        options.refuse(args, names, 'with --ros')
    if args.planner in POLICIES:
        names = ('blackout', 'delay', 'no_deadline', 'no_baselines', 'checkpoint')
        options.refuse(args, names, f'with --planner {args.planner}, which sees no images')
    if args.unknown_delay and not args.delay:
        raise ConfigError('--unknown-delay: expected a --delay with it')


def _evaluate_over_ros(args: argparse.Namespace, settings: EvaluationSettings) -> Any:
    from jepa_arm.ros.runtime.environment import prepare_ros

    prepare_ros()
    from jepa_arm.ros.graph.evaluate import evaluate_over_ros

    return evaluate_over_ros(settings, options.checkpoint(args), args.arm)


def _evaluate_in_process(args: argparse.Namespace, settings: EvaluationSettings) -> Any:
    import torch

    from jepa_arm.evaluation.episode_runner import Conditions
    from jepa_arm.evaluation.protocol import evaluate as run

    planner = options.planner(args.planner)
    if args.no_deadline:
        planner = replace(planner, deadline_ms=float('inf'))
    torch.set_num_threads(planner.threads)
    blackout, is_known = _parse_blackout(args.blackout), not args.unknown_delay
    conditions = Conditions(blackout, args.delay / 1000.0, is_known)
    checkpoint = options.load_checkpoint(args)
    return run(checkpoint, options.simulation(args), planner, settings, conditions)


def _parse_blackout(words: list[str] | None) -> Blackout:
    """Parse BEGIN and DURATION of ``--blackout``; None means no blackout."""
    from jepa_arm.evaluation.episode_runner import Blackout

    if words is None:
        return Blackout()
    by_progress = words[0].endswith('%')
    try:
        begin, duration = float(words[0].removesuffix('%')), float(words[1])
    except ValueError:
        begin = duration = float('nan')
    end = 100.0 if by_progress else float('inf')
    if not (0.0 < begin < end and 0.0 <= duration < float('inf')):
        raise ConfigError(
            '--blackout: expected BEGIN > 0 s, or 1% to 99% of the way, and DURATION >= 0 s, got '
            f'{" ".join(words)}'
        )
    return Blackout(begin / 100.0 if by_progress else begin, duration or float('inf'), by_progress)


def bench_plan(args: argparse.Namespace) -> int:
    """Measure the latency of one plan, from observation to proposal, in process."""
    from jepa_arm.evaluation import benchmarks

    given = options.load_checkpoint(args), options.simulation(args), options.planner(args.planner)
    return options.report_figures(args, benchmarks.bench_plan(*given))


def bench_stages(args: argparse.Namespace) -> int:
    """Measure how the time of a plan divides among actor, rollout and cost."""
    from jepa_arm.evaluation import benchmarks

    checkpoint, planner = options.load_checkpoint(args), options.planner()
    return options.report_figures(args, benchmarks.bench_stages(checkpoint, planner))


def bench_encode(args: argparse.Namespace) -> int:
    """Measure the latency of encoding one image."""
    from jepa_arm.evaluation import benchmarks

    checkpoint = options.load_checkpoint(args)
    return options.report_figures(args, benchmarks.bench_encode(checkpoint))


def bench_sim(args: argparse.Namespace) -> int:
    """Measure how fast the virtual arm simulates and renders."""
    from jepa_arm.evaluation import benchmarks

    return options.report_figures(args, benchmarks.bench_sim(options.simulation(args)))


def bench_ros(args: argparse.Namespace) -> int:
    """Measure camera-to-command latency with simulator, planner and guard over ROS 2."""
    from jepa_arm.ros.runtime.environment import prepare_ros

    prepare_ros()
    from jepa_arm.ros.graph.bench import bench_ros as run

    return options.report_figures(args, run(options.checkpoint(args)))
