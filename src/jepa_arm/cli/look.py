"""Verbs ``view``, ``record``, ``replay`` and ``doctor``: inspect graph, planner and machine."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.installation import (
    Finding,
    Level,
    examine_machine,
    format_findings,
    missing_modules,
)

from . import options


def add_verbs(register: options.Register) -> None:
    """Register ``view``, ``record``, ``replay`` and ``doctor``."""
    parser = register('look', 'view', view, 'jepa-arm view --save run.rrd')
    options.add_arm(parser)
    options.add_graph(parser)
    about = 'write a recording instead of opening a window'
    parser.add_argument('--save', metavar='FILE.rrd', help=about)

    parser = register('look', 'record', record, 'jepa-arm record --out run.mcap --duration 60')
    parser.add_argument('topics', nargs='*', help='topics (default: those of the graph)')
    options.add_file(parser, '--out', 'MCAP file to write (default: recording_DATE_TIME.mcap)')
    about = 'seconds from the first message (default: until Ctrl-C)'
    parser.add_argument('--duration', type=options.positive_float, metavar='S', help=about)
    options.add_graph(parser)

    parser = register('look', 'replay', replay, 'jepa-arm replay run.mcap --compare')
    parser.add_argument('file', help='MCAP file of jepa-arm record')
    options.add_arm(parser)
    about = 'shipped name or folder (default: as recorded)'
    parser.add_argument('--checkpoint', help=about)
    about = 'config/FILE, or a path (default: as recorded)'
    options.add_file(parser, '--planner-config', about)
    parser.add_argument('--seed', type=int, help='seed of the search (default: as recorded)')
    about = 'multiple of the recorded speed (default: as fast as possible)'
    parser.add_argument('--speed', type=options.positive_float, help=about)
    about = 'namespace of the graph, if the file holds several'
    parser.add_argument('--namespace', help=about)
    options.add_flag(parser, '--compare', 'exit with 1 if the decisions differ')
    about = 'largest difference at the tip of two equal decisions'
    parser.add_argument('--tolerance-cm', type=float, default=0.1, help=about)
    about = 'share of equal decisions that --compare expects'
    parser.add_argument('--min-equal', type=float, default=0.95, help=about)
    options.add_json(parser)

    parser = register('look', 'doctor', doctor, 'jepa-arm doctor')
    options.add_robot(parser)
    options.add_graph(parser)
    options.add_json(parser, 'findings')


def view(args: argparse.Namespace) -> int:
    """Show arm, camera, plan and goal of a running graph in Rerun until Ctrl-C."""
    from jepa_arm.ros.runtime.environment import require_rerun

    require_rerun()
    options.join_graph(args)
    from jepa_arm.ros.tools.viewer import view as run

    run('jepa-arm view', args.namespace, arm=args.arm, save=args.save or '')
    return 0


def record(args: argparse.Namespace) -> int:
    """Record a running graph into one MCAP file, which Foxglove opens, until Ctrl-C."""
    options.join_graph(args)
    from jepa_arm.ros.tools.recorder import record as run

    out = args.out or f'{datetime.now():recording_%Y%m%d_%H%M%S}.mcap'
    print(run(Path(out), args.topics, args.duration, args.namespace))
    return 0


def replay(args: argparse.Namespace) -> int:
    """Plan again from a recording and compare the decisions, without ROS 2 or a robot."""
    import torch

    from jepa_arm.agent.agent import Agent
    from jepa_arm.datasets.recording_reader import read_recording
    from jepa_arm.evaluation.replay import Replay, check_camera, compare, format_replay
    from jepa_arm.model.checkpoint import check_contract, load_checkpoint
    from jepa_arm.robot.action_space import make_contract
    from jepa_arm.robot.arm import Arm

    arm = Arm(options.arm(args))
    recording = read_recording(Path(args.file), arm.joint_names, arm.config.camera, args.namespace)
    recorded = recording.notes
    name = args.checkpoint or recorded.get('planner.checkpoint', options.DEFAULT_CHECKPOINT)
    file = args.planner_config or recorded.get('planner.planner_config', 'planner.yaml')
    seed = int(recorded.get('planner.seed', 0)) if args.seed is None else args.seed
    checkpoint = load_checkpoint(checkpoint_path(name))
    check_contract(checkpoint.contract, make_contract(arm.config, options.sim().time))
    check_camera(recording, checkpoint.contract.camera)
    config = load(PlannerConfig, config_path(file))
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    run = Replay(recording, Agent(checkpoint, arm, config, seed), arm)
    replayed = run.run(args.speed)
    report = {
        'file': Path(args.file).name,
        'recorded': dict(recorded),
        'replayed': {'checkpoint': name, 'planner_config': file, 'seed': seed},
        'speed': args.speed,
        'behind_s': round(run.behind_s, 3),
        **compare(recording, replayed, run.goals, arm, args.tolerance_cm, args.min_equal),
    }
    print(format_replay(report))
    if args.speed and run.behind_s > 1.0 / args.speed:
        print(f'this machine fell {run.behind_s:.1f} s behind; try a lower --speed')
    options.write_json(args, report)
    return 1 if args.compare and not report['passed'] else 0


def doctor(args: argparse.Namespace) -> int:
    """Check machine, installation, arm, checkpoint and running graph, and say what to do."""
    findings = list(examine_machine())
    if not missing_modules():  # otherwise the other checks cannot be imported
        findings += _examine_robot_and_graph(args)
    print(format_findings(findings))
    report = [{**asdict(f), 'level': f.level.name} for f in findings]
    options.write_json(args, {'findings': report})
    failed = sum(f.level is Level.FAIL for f in findings)
    print(f'\n{len(findings)} findings, {failed} to be put right')
    return 1 if failed else 0


def _examine_robot_and_graph(args: argparse.Namespace) -> list[Finding]:
    from jepa_arm.evaluation.offline_checks import camera_of, examine_arm, examine_checkpoint

    arm, sim = options.arm(args), options.sim()
    guard, folder = options.guard(), options.checkpoint(args)
    findings = list(examine_arm(arm, guard, sim))
    if findings[-1].name != 'arm':  # a last finding named arm means that it failed to load
        findings += examine_checkpoint(folder, arm, sim, options.planner())
    try:
        options.join_graph(args)
    except SystemExit as error:
        return [*findings, Finding('ROS 2', Level.FAIL, str(error))]
    from jepa_arm.ros.tools.graph_checks import examine_graph

    return [*findings, *examine_graph(arm, sim, args.namespace, guard, camera_of(folder))]
