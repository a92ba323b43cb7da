"""Validation verbs of the command line: faults, fuzz, soak, ablate, and four benchmarks.

The main command finds ``add_verbs`` through the entry point group ``jepa_arm.verbs``. Each verb
imports its code only when it runs, so that ``jepa-arm --help`` stays fast.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_arm.cli import options
from jepa_arm.config import OPTIMIZERS, CollectConfig, load
from jepa_arm.core.files import config_path

if TYPE_CHECKING:
    from jepa_arm_validation.peers.comparison import ComparisonInputs


def add_verbs(register: options.Register) -> None:
    """Register the verbs of this package in the groups ``break``, ``bench`` and ``learn``."""
    _add_breaking(register)
    _add_benchmarks(register)
    p = register('learn', 'ablate', _run_ablate, 'jepa-arm ablate --data data/play.h5')
    options.add_arm(p)
    p.add_argument('--data', default='data/play.h5', help='HDF5 file of play data')
    p.add_argument('--out', default='runs/ablation', help='folder of results, one file per run')
    file = 'config/VARIANTS, or an absolute path'
    p.add_argument('--variants', default='ablation.yaml', help=file)
    p.add_argument('--only', nargs='+', default=[], metavar='NAME', help='variants to run')
    options.add_flag(p, '--table', 'print existing results, run nothing')


def _add_breaking(register: options.Register) -> None:
    p = register('break', 'faults', _run_faults, 'jepa-arm faults --only planner_killed')
    options.add_robot(p)
    p.add_argument('--only', nargs='+', default=[], metavar='CASE', help='names or numbers')
    options.add_flag(p, '--list', 'list the fault cases, run nothing')
    options.add_json(p)

    p = register('fuzz', 'core', _run_fuzz_core, 'jepa-arm fuzz core --count 1000000')
    _add_messages(p, 1_000_000)
    options.add_count(p, '--workers', 'number of processes', 1)
    p = register('fuzz', 'ros', _run_fuzz_ros, 'jepa-arm fuzz ros --count 100000')
    _add_messages(p, 100_000)
    options.add_checkpoint(p)

    p = register('break', 'soak', _run_soak, 'jepa-arm soak --minutes 20 --json soak.json')
    options.add_robot(p)
    p.add_argument('--minutes', type=float, default=20.0, help='duration')
    p.add_argument('--seed', type=int, default=0, help='seed of goals and faults')
    options.add_count(p, '--together', 'faults injected at a time', 1)
    options.add_json(p)


def _add_benchmarks(register: options.Register) -> None:
    p = register('bench', 'surprise', _run_surprise, 'jepa-arm bench surprise --episodes 50')
    options.add_robot(p)
    _add_scenes(p, 50, 'episodes per anomaly')
    options.add_json(p)

    p = register('bench', 'peers', _run_peers, 'jepa-arm bench peers --only local cem')
    options.add_robot(p)
    _add_scenes(p, 20, 'scenes per task')
    p.add_argument('--task', nargs='+', default=['reach', 'push'], help='tasks to solve')
    p.add_argument('--only', nargs='+', default=[], metavar='NAME', help='planners to compare')
    options.add_flag(p, '--list', 'list the planners, run nothing')
    options.add_flag(p, '--table', 'print existing results, run nothing')
    p.add_argument('--out', default='runs/peers', help='folder of results and table')
    options.add_json(p, 'figures')

    p = register('bench', 'energy', _run_energy, 'jepa-arm bench energy --json energy.json')
    options.add_robot(p)
    p.add_argument('--planner', choices=OPTIMIZERS, help='default: config/planner.yaml')
    _add_scenes(p, 20, 'scenes per task')
    options.add_json(p, 'figures')

    p = register('bench', 'public', _run_public, 'jepa-arm bench public --env tworoom')
    choices = 'tworoom', 'pusht', 'reacher'
    p.add_argument('--env', choices=choices, help='default: print the table of existing results')
    options.add_count(p, '--episodes', 'held-out pairs', 100)
    p.add_argument('--seed', type=int, default=0, help='seed of the held-out pairs')
    p.add_argument('--out', default='runs/public', help='folder of data, models and results')


def _add_scenes(parser: argparse.ArgumentParser, episodes: int, help: str) -> None:
    options.add_count(parser, '--episodes', help, episodes)
    seeds = 'scenes have the seeds 1000000 + SEED + i'
    parser.add_argument('--seed', type=int, default=0, help=seeds)


def _add_messages(parser: argparse.ArgumentParser, count: int) -> None:
    options.add_arm(parser)
    options.add_count(parser, '--count', 'messages to send', count)
    parser.add_argument('--seed', type=int, default=0, help='seed of the messages')
    options.add_json(parser)


def _run_faults(args: argparse.Namespace) -> int:
    """Inject every fault into the running graph; fail if one is not handled as specified."""
    _prepare_ros()
    from jepa_arm_validation.faults.runner import format_faults, run_faults, select_cases

    if args.list:
        for case in select_cases(args.only):
            print(f'{case.number:2d} {case.name:21s} {case.fault}: {case.scenario.expected}')
        return 0
    report = run_faults(options.checkpoint(args), args.arm, args.only)
    print(format_faults(report))
    options.write_json(args, report)
    return 0 if all(row['passed'] for row in report['rows']) else 1


def _run_fuzz_core(args: argparse.Namespace) -> int:
    """Send hostile messages to the guard's core, without ROS 2."""
    from jepa_arm_validation.fuzzing.guard_fuzzer import fuzz_core

    return _finish(args, fuzz_core(args.count, args.seed, args.arm, args.workers))


def _run_fuzz_ros(args: argparse.Namespace) -> int:
    """Send hostile messages to every topic and service of the running graph."""
    _prepare_ros()
    from jepa_arm_validation.fuzzing.graph_fuzzer import fuzz_ros

    checkpoint = options.checkpoint(args)
    return _finish(args, fuzz_ros(args.count, args.seed, checkpoint, args.arm))


def _run_soak(args: argparse.Namespace) -> int:
    """Run random goals and faults on the graph for a long time; fail if anything degrades."""
    _prepare_ros()
    from jepa_arm_validation.soak.soak import SoakSettings, run_soak

    settings = SoakSettings(args.minutes, args.seed, args.arm, args.together)
    return _finish(args, run_soak(options.checkpoint(args), settings))


def _run_surprise(args: argparse.Namespace) -> int:
    """Measure how reliably and how soon each anomaly raises the surprise of the belief."""
    from jepa_arm.training.cpu import prepare_cpu
    from jepa_arm_validation.surprise import benchmark

    prepare_cpu(1)
    play = load(CollectConfig, config_path('collect.yaml'))
    robot = options.load_checkpoint(args), options.arm(args), options.sim()
    world = benchmark.SurpriseBenchmark(*robot, play)
    report = benchmark.measure_surprise(world, args.episodes, args.seed)
    print(benchmark.format_surprise(report))
    options.write_json(args, report)
    return 0


def _run_peers(args: argparse.Namespace) -> int:
    """Compare planners, ours and those of other packages, on the same scenes; resumable."""
    from jepa_arm_validation.peers.comparison import OWN_PLANNERS, missing_package, run_comparison
    from jepa_arm_validation.peers.external_planners import EXTERNAL_PLANNERS
    from jepa_arm_validation.peers.table import format_comparison, summarise
    from jepa_arm_validation.results import read_results, select

    planners = {p.name: p for p in (*OWN_PLANNERS, *EXTERNAL_PLANNERS)}
    names = select('--only', args.only, planners)
    left_out = {name: why for name, p in planners.items() if (why := missing_package(p))}
    if args.list:
        for name, p in planners.items():
            about = f'{p.package} {p.title}; cost: {p.cost}; {left_out.get(name, "")}'
            print(f'{name:24s} {about}')
        return 0
    out = Path(args.out)
    if not args.table:
        for name in names:
            if name in left_out:
                print(f'{name}: left out, {left_out[name]}')
        wanted = [planners[name] for name in names if name not in left_out]
        seeds = range(args.seed, args.seed + args.episodes)
        run_comparison(_inputs(args), wanted, args.task, seeds, out / 'results')
    results = read_results(out / 'results')
    table = format_comparison(results, left_out)
    print(table)
    (out / 'table.md').write_text(table + '\n')
    rows = [summarise(r) for r in results if r['episodes']]
    options.write_json(args, {'rows': rows, 'left_out': left_out})
    return 0


def _inputs(args: argparse.Namespace, planner: str | None = None) -> ComparisonInputs:
    from jepa_arm_validation.peers.comparison import ComparisonInputs

    checkpoint = options.load_checkpoint(args)
    return ComparisonInputs(checkpoint, options.simulation(args), options.planner(planner))


def _run_energy(args: argparse.Namespace) -> int:
    """Measure processor time, operations and joules per decision and per solved task."""
    from jepa_arm_validation.peers.comparison import bench_energy

    figures = bench_energy(_inputs(args, args.planner), args.episodes, args.seed)
    return options.report_figures(args, figures)


def _run_public(args: argparse.Namespace) -> int:
    """Train and evaluate on public environments, resuming finished stages; print the table."""
    from jepa_arm_validation.public_benchmarks import benchmark

    out = Path(args.out)
    if args.env:
        benchmark.run_benchmark(args.env, args.episodes, args.seed, out)
    print(benchmark.format_public_table(benchmark.read_environment_results(out)))
    return 0


def _run_ablate(args: argparse.Namespace) -> int:
    """Train and measure variants of the world model alike, resuming after an interruption."""
    from jepa_arm_validation.ablation import ablation
    from jepa_arm_validation.results import read_results

    out = Path(args.out)
    if not args.table:
        config = load(ablation.AblationConfig, config_path(args.variants))
        setup, planner = options.simulation(args), options.planner()
        inputs = ablation.AblationInputs(Path(args.data), config, setup, planner)
        ablation.run_ablation(inputs, out, args.only)
    print(ablation.format_ablation(read_results(out)))
    return 0


def _prepare_ros() -> None:
    """Set up ROS 2 without shared memory, which processes killed by tests would leave locked."""
    from jepa_arm.ros.runtime.environment import prepare_ros

    prepare_ros(shares_memory=False)


def _finish(args: argparse.Namespace, report: dict[str, Any]) -> int:
    """Print and save a report; return 1 if it has violations, else 0."""
    options.report_figures(args, report)
    return 1 if report['violations'] else 0
