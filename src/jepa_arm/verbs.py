"""What each verb of ``jepa-arm`` does. Heavy imports wait until the verb runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from .config import (
    OPTIMIZERS,
    AblationConfig,
    ArmConfig,
    CollectConfig,
    ConfigError,
    GuardConfig,
    ModelFile,
    PlannerConfig,
    SimConfig,
    load,
)
from .resources import CHECKPOINTS, arm_path, checkpoint_path, config_path

DEFAULT_CHECKPOINT = 'compact'
NEXT_STEPS = """
What next?
  jepa-arm up                                  the graph alone; send your own goals
  jepa-arm eval --task push --episodes 20      the strict protocol, floor and ceiling beside it
  jepa-arm bench ros                           latencies on this machine
  make model                                   train the world model from nothing
"""


def demo(args: argparse.Namespace) -> int:
    """The main job over real ROS 2, with a page of pictures; fails if no goal is reached."""
    from .nodes.environment import prepare_ros

    prepare_ros()
    from .nodes.demo import run_demo

    page, won, count = run_demo(
        args.task, args.episodes, args.seed, _checkpoint_folder(args), args.arm, Path(args.out)
    )
    print(f'\n{won} of {count} goals reached. Pictures, paths and latencies: {page}')
    print(NEXT_STEPS)
    return 0 if won else 1


def up(args: argparse.Namespace) -> int:
    """Starts simulator, planner and guard and keeps them running until Ctrl-C."""
    from .nodes.description import check_names
    from .nodes.environment import choose_network, prepare_ros

    check_names(args.arm, str(args.checkpoint), args.controller, args.task, args.guard_config)
    choose_network(args.domain_id, args.discovery_range)
    prepare_ros()
    from .nodes.graph import run_graph

    return run_graph(args)


def reference(args: argparse.Namespace) -> int:
    """Topics, services and parameters of the nodes, as a page in Markdown."""
    from .nodes.environment import prepare_ros

    prepare_ros()
    from .nodes.reference import reference as write

    text = write()
    if args.out:
        Path(args.out).write_text(text)
    else:
        print(text, end='')
    return 0


def record(args: argparse.Namespace) -> int:
    """What the graph says into one MCAP file, until Ctrl-C; it opens in Foxglove."""
    from .nodes.environment import prepare_ros

    prepare_ros()
    from .nodes.recorder import record as run

    out = args.out or f'{datetime.now():recording_%Y%m%d_%H%M%S}.mcap'
    print(run(Path(out), args.topics, args.duration, args.namespace))
    return 0


def view(args: argparse.Namespace) -> int:
    """A running graph in Rerun: arm, camera, plan, goal and what is said; until Ctrl-C."""
    from .nodes.environment import check_rerun, prepare_ros

    check_rerun()
    prepare_ros()
    from .nodes.rerun_view import view as run

    run('jepa-arm view', args.namespace, arm=args.arm, save=args.save or '')
    return 0


def replay(args: argparse.Namespace) -> int:
    """Plans again from a recording and compares; no ROS 2, no robot, nothing moves."""
    import torch

    from .agent import Agent
    from .arm import Arm
    from .data.recordings import read_recording
    from .model.checkpoint import check_contract, load_checkpoint
    from .motion import make_contract
    from .replay import Replay, check_camera
    from .replay_report import compare, format_replay

    arm = Arm(_arm(args))
    recording = read_recording(Path(args.file), arm.joint_names, arm.config.camera, args.namespace)
    about = recording.about
    name = args.checkpoint or about.get('planner.checkpoint', DEFAULT_CHECKPOINT)
    file = args.planner_config or about.get('planner.planner_config', 'planner.yaml')
    seed = int(about.get('planner.seed', 0)) if args.seed is None else args.seed
    checkpoint = load_checkpoint(checkpoint_path(name))
    check_contract(checkpoint.contract, make_contract(arm.config, _sim().time))
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
    _write_json(args.json, report)
    return 1 if args.compare and not report['passed'] else 0


def recover(args: argparse.Namespace) -> int:
    """A whole MCAP file of one that was cut off, up to its last whole chunk."""
    from .data.mcap_file import recover as run

    counts = run(Path(args.source), Path(args.out))
    print(f'{sum(counts.values())} messages on {len(counts)} topics in {args.out}')
    return 0


def collect(args: argparse.Namespace) -> int:
    """Play data into one HDF5 file."""
    from .collection import collect as run

    config = load(CollectConfig, config_path('collect.yaml'))
    config = replace(config, seed=args.seed if args.seed is not None else config.seed)
    if args.episodes:
        config = replace(config, episodes=args.episodes)
    path = run(Path(args.out), _arm(args), _sim(), config, args.workers)
    print(f'{config.episodes} episodes of {config.frames} frames in {path}')
    return 0


def train(args: argparse.Namespace) -> int:
    """World model, probes and gate report; then heads of planner and belief, and decoder."""
    from .decoding import train_decoder
    from .filtering import train_belief
    from .hindsight import train_heads
    from .model.gates import format_report
    from .training import train_world_model

    config = load(ModelFile, config_path(f'model/{args.model}.yaml'))
    if args.steps:
        config = replace(config, train=replace(config.train, steps=args.steps))
    out = Path(args.out)
    folder = train_world_model(
        Path(args.data), out, config, args.seed, resume=not args.restart, curves=args.curves
    )
    print(format_report(json.loads((out / 'gates.json').read_text())))
    print(f'report: {out / "report.html"}')
    if not args.no_heads:
        train_heads(folder, Path(args.data), config.heads, args.seed, progress=True)
        if config.belief is not None:
            train_belief(folder, Path(args.data), config.belief, args.seed, progress=True)
        if config.decoder is not None:
            page = out / 'imagined.html'
            train_decoder(folder, Path(args.data), config.decoder, args.seed, True, page)
            print(f'pictures of what it imagines: {page}')
    print(f'checkpoint: {folder}')
    return 0


def model(args: argparse.Namespace) -> int:
    """From nothing to a trained model: collect, train, heads; ships it if the gates pass."""
    import shutil
    import time

    began = time.monotonic()
    data = Path(args.out) / 'play.h5'
    if not data.exists():
        collect(argparse.Namespace(out=data, arm=args.arm, seed=None, episodes=0, workers=None))
    run = Path(args.out) / 'run'
    train(
        argparse.Namespace(
            model=DEFAULT_CHECKPOINT,
            data=data,
            out=run,
            seed=args.seed,
            steps=0,
            restart=False,
            no_heads=False,
            curves=False,
        )
    )
    arm = _arm(args).name
    target = CHECKPOINTS / (
        DEFAULT_CHECKPOINT if arm == 'panda' else f'{DEFAULT_CHECKPOINT}_{arm}'
    )
    shutil.copytree(run / 'checkpoint', target, dirs_exist_ok=True)
    print(f'{target} made in {(time.monotonic() - began) / 60:.1f} minutes')
    return 0


def belief(args: argparse.Namespace) -> int:
    """Trains what the belief needs to last without images and to be surprised (minutes)."""
    from .filtering import format_belief, train_belief
    from .training import prepare_cpu

    config = load(ModelFile, config_path(f'model/{args.model}.yaml'))
    if config.belief is None:
        raise ConfigError(f'config/model/{args.model}.yaml: expected a part belief, got none')
    prepare_cpu()
    folder = _checkpoint_folder(args)
    report = train_belief(folder, Path(args.data), config.belief, args.seed, progress=True)
    print(format_belief(report))
    print(f'{folder}/belief.safetensors')
    return 0


def surprise(args: argparse.Namespace) -> int:
    """How surely, and how soon, each of eleven anomalies surprises the belief."""
    from .detection import format_surprise, measure_surprise
    from .model.checkpoint import load_checkpoint
    from .training import prepare_cpu

    prepare_cpu(1)
    play = load(CollectConfig, config_path('collect.yaml'))
    checkpoint = load_checkpoint(_checkpoint_folder(args))
    report = measure_surprise(checkpoint, _arm(args), _sim(), play, args.episodes, args.seed)
    print(format_surprise(report))
    _write_json(args.json, report)
    return 0


def ablate(args: argparse.Namespace) -> int:
    """Variants of the world model, trained and measured alike; goes on where it was stopped."""
    from .ablation_table import format_table, read_results

    out = Path(args.out)
    if not args.table:
        from .ablation import Scene, run_ablation

        config = load(AblationConfig, config_path(args.rows))
        scene = Scene(_arm(args), _sim(), load(GuardConfig, config_path('guard.yaml')))
        planner = load(PlannerConfig, config_path('planner.yaml'))
        run_ablation(Path(args.data), out, config, scene, planner, args.only)
    print(format_table(read_results(out)))
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """The strict protocol, in process or over ROS; table, JSON, pictures."""
    tolerance = None if args.tolerance_cm is None else args.tolerance_cm / 100.0
    for option in ('blackout', 'delay', 'planner', 'no_deadline'):
        if args.ros and getattr(args, option):
            name = option.replace('_', '-')
            raise ConfigError(f'--{name} is for episodes in process: expected no --ros')
    if args.unknown_delay and not args.delay:
        raise ConfigError('--unknown-delay: expected a --delay with it')
    policy = args.planner if args.planner in ('random', 'scripted') else None
    if policy and (args.blackout or args.delay):
        raise ConfigError(f'--planner {policy} sees no images: expected no --blackout or --delay')
    if policy:
        from .evaluation import evaluate_policy

        report, results = evaluate_policy(
            policy,
            _arm(args),
            _sim(),
            load(GuardConfig, config_path('guard.yaml')),
            args.task,
            args.episodes,
            args.seed,
            tolerance,
            keep_frames=bool(args.html),
        )
    elif args.ros:
        report, results = _evaluate_over_ros(args, tolerance)
    else:
        report, results = _evaluate_in_process(args, tolerance)
    from .report import format_report, write_report

    print(format_report(report))
    _write_json(args.json, report)
    if args.html:
        title = f'jepa_arm: {args.task}'
        print(write_report(Path(args.html), title, report, results, _arm(args).camera))
    return 0


def _evaluate_over_ros(args: argparse.Namespace, tolerance: float | None) -> Any:
    from .nodes.environment import prepare_ros

    prepare_ros()
    from .nodes.evaluate import evaluate_over_ros

    return evaluate_over_ros(
        args.task,
        args.episodes,
        args.seed,
        tolerance,
        _checkpoint_folder(args),
        baselines=not args.no_baselines,
        keep_frames=bool(args.html),
        arm=args.arm,
    )


def _evaluate_in_process(args: argparse.Namespace, tolerance: float | None) -> Any:
    import torch

    from .evaluation import Conditions
    from .evaluation import evaluate as run
    from .model.checkpoint import load_checkpoint

    planner = _planner(args)
    if args.no_deadline:
        planner = replace(planner, deadline_ms=float('inf'))
    torch.set_num_threads(planner.threads)
    return run(
        load_checkpoint(_checkpoint_folder(args)),
        _arm(args),
        _sim(),
        load(GuardConfig, config_path('guard.yaml')),
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


def faults(args: argparse.Namespace) -> int:
    """Tries every fault on the live graph; table, JSON, page; fails if one row does."""
    from .nodes.environment import prepare_ros

    prepare_ros()
    from .nodes.fault_runner import chosen_rows, run_faults

    if args.list:
        for row in chosen_rows(args.only):
            print(f'{row.number:2d} {row.name:21s} {row.fault}: {row.play.expected}')
        return 0
    from .fault_report import format_faults, write_faults

    report = run_faults(_checkpoint_folder(args), args.arm, args.only)
    print(format_faults(report))
    _write_json(args.json, report)
    if args.html:
        print(write_faults(Path(args.html), report))
    return 1 if any(row['passed'] is False for row in report['rows']) else 0


def bench(args: argparse.Namespace) -> int:
    """One stage's figures as one flat JSON object."""
    arm, sim = _arm(args), _sim()
    guard = load(GuardConfig, config_path('guard.yaml'))
    if args.what == 'ros':
        from .nodes.environment import prepare_ros

        prepare_ros()
        from .nodes.evaluate import bench_ros

        figures = bench_ros(_checkpoint_folder(args))
    else:
        from . import bench as stages
        from .model.checkpoint import load_checkpoint

        if args.what == 'sim':
            figures = stages.bench_sim(arm, sim, guard)
        else:
            checkpoint = load_checkpoint(_checkpoint_folder(args))
            if args.what == 'encode':
                figures = stages.bench_encode(checkpoint)
            else:
                figures = stages.bench_plan(checkpoint, arm, sim, guard, _planner(args))
    print(json.dumps(figures, indent=1))
    _write_json(args.json, figures)
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Looks at machine, installation, arm, checkpoint and running graph; says what to do."""
    from .doctor import (
        Finding,
        Level,
        examine_arm,
        examine_checkpoint,
        examine_machine,
        format_findings,
    )
    from .nodes.environment import prepare_ros

    found = list(examine_machine())
    planner = load(PlannerConfig, config_path('planner.yaml'))
    arm, sim = _arm(args), _sim()
    found += examine_arm(arm, load(GuardConfig, config_path('guard.yaml')), sim.time)
    if found[-1].name != 'arm':  # it can be used
        found += examine_checkpoint(_checkpoint_folder(args), arm, sim, planner)
    try:
        prepare_ros()
    except SystemExit as error:
        found.append(Finding('ROS 2', Level.FAIL, str(error)))
    else:
        from .nodes.doctor import examine_graph

        found += examine_graph(arm, sim, args.namespace)
    print(format_findings(found))
    _write_json(args.json, {'findings': [{**asdict(f), 'level': f.level.name} for f in found]})
    failed = sum(f.level is Level.FAIL for f in found)
    print(f'\n{len(found)} findings, {failed} to be put right')
    return 1 if failed else 0


def import_(args: argparse.Namespace) -> int:
    """A LeWorldModel of its authors' layout (weights.pt, config.json) as a checkpoint of ours."""
    from .model.official import import_official

    model = import_official(Path(args.source), Path(args.out))
    print(f'{_size(model)} in {args.out}')
    return 0


def export(args: argparse.Namespace) -> int:
    """A checkpoint of ours with a LeWorldModel in its authors' layout."""
    from .model.official import load_lewm, transformers_5_name, write_official

    model = load_lewm(checkpoint_path(args.checkpoint))
    if args.transformers == 5:
        write_official(Path(args.out), model, transformers_5_name)
    else:
        write_official(Path(args.out), model)
    print(f'{_size(model)} in {args.out}')
    return 0


def _size(model: Any) -> str:
    tensors = model.state_dict().values()
    return f'LeWorldModel, {len(tensors)} tensors of {sum(t.numel() for t in tensors):,} values,'


def fuzz(args: argparse.Namespace) -> int:
    """Hostile messages to the guard's core or to the running graph; fails if one does harm."""
    if args.what == 'core':
        from .fuzzing.core import format_fuzz, fuzz_core

        report = fuzz_core(args.count or 1_000_000, args.seed, args.arm, args.workers)
    else:
        from .nodes.environment import prepare_ros

        prepare_ros()
        from .nodes.fuzz import format_fuzz, fuzz_ros

        report = fuzz_ros(args.count or 100_000, args.seed, _checkpoint_folder(args), args.arm)
    print(format_fuzz(report))
    _write_json(args.json, report)
    return 1 if report['violations'] else 0


def soak(args: argparse.Namespace) -> int:
    """Random goals and faults on the whole graph for long; fails if anything wears out."""
    from .nodes.environment import prepare_ros

    prepare_ros()
    from .nodes.soak import format_soak
    from .nodes.soak import soak as run

    minutes = args.hours * 60.0 if args.hours else args.minutes
    checkpoint = _checkpoint_folder(args)
    report = run(minutes, args.seed, checkpoint, args.arm, together=args.together)
    print(format_soak(report))
    _write_json(args.json, report)
    return 1 if report['violations'] else 0


def _blackout(given: list[float] | None) -> tuple[float, float]:
    """s of an episode between which there are no images."""
    if given is None:
        return float('inf'), float('inf')
    begin, duration = given
    if not (0.0 < begin < float('inf') and 0.0 <= duration < float('inf')):
        raise ConfigError(f'--blackout: expected FROM > 0 and FOR >= 0 seconds, got {given}')
    return begin, begin + (duration or float('inf'))


def _arm(args: argparse.Namespace) -> ArmConfig:
    return load(ArmConfig, arm_path(args.arm))


def _sim() -> SimConfig:
    return load(SimConfig, config_path('sim.yaml'))


def _planner(args: argparse.Namespace) -> PlannerConfig:
    config = load(PlannerConfig, config_path('planner.yaml'))
    return replace(config, optimizer=args.planner) if args.planner in OPTIMIZERS else config


def _checkpoint_folder(args: argparse.Namespace) -> Path:
    return checkpoint_path(args.checkpoint)


def _write_json(path: str | None, values: dict[str, Any]) -> None:
    if path:
        Path(path).write_text(json.dumps(values, indent=1) + '\n')
