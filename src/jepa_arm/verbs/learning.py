"""Verbs that make data, models and checkpoints."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import (
    AblationConfig,
    CollectConfig,
    ConfigError,
    ModelFile,
    PlannerConfig,
    StillsConfig,
    load,
)
from ..resources import CHECKPOINTS, checkpoint_path, config_path
from . import options
from .options import DEFAULT_CHECKPOINT


def collect(args: argparse.Namespace) -> int:
    """Play data into one HDF5 file."""
    from ..collection import collect as run

    config = load(CollectConfig, config_path('collect.yaml'))
    config = replace(config, seed=args.seed if args.seed is not None else config.seed)
    if args.episodes:
        config = replace(config, episodes=args.episodes)
    path = run(Path(args.out), options.arm(args), options.sim(), config, args.workers)
    print(f'{config.episodes} episodes of {config.frames} frames in {path}')
    return 0


def stills(args: argparse.Namespace) -> int:
    """Pictures of arms from play with the object put elsewhere, into one HDF5 file."""
    from ..stills import collect_stills

    config = load(StillsConfig, config_path('stills.yaml'))
    if args.sheets:
        config = replace(config, sheets=args.sheets)
    train = load(ModelFile, config_path(f'model/{args.model}.yaml')).train
    given = Path(args.out), Path(args.data), options.arm(args), options.sim(), config
    path = collect_stills(*given, args.seed, train.held_out, args.workers)
    print(f'{config.sheets} sheets of {config.stills} stills in {path}')
    return 0


def train(args: argparse.Namespace) -> int:
    """World model, probes and gate report; then heads of planner and belief, and decoder."""
    from ..model.gates import format_report
    from ..training.loop import train_world_model
    from ..training.read_outs import train_read_outs

    config = load(ModelFile, config_path(f'model/{args.model}.yaml'))
    if args.steps:
        config = replace(config, train=replace(config.train, steps=args.steps))
    out = Path(args.out)
    folder, encoded = train_world_model(
        Path(args.data),
        out,
        config,
        args.seed,
        resume=not args.restart,
        curves=args.curves,
        stills=Path(args.stills) if args.stills else None,
    )
    print(format_report(json.loads((out / 'gates.json').read_text())))
    print(f'report: {out / "report.html"}')
    if not args.no_heads:
        page = out / 'imagined.html'
        train_read_outs(folder, Path(args.data), config, args.seed, True, page, encoded)
        if config.decoder is not None:
            print(f'pictures of what it imagines: {page}')
    print(f'checkpoint: {folder}')
    return 0


def model(args: argparse.Namespace) -> int:
    """From nothing to a trained model: collect, stills, train; ships it if the gates pass."""
    began = time.monotonic()
    data, more = (Path(args.out) / name for name in ('play.h5', 'stills.h5'))
    given = {'arm': args.arm, 'workers': None}
    if not data.exists():
        collect(argparse.Namespace(**given, out=data, seed=None, episodes=0))
    if not more.exists():
        about = {'data': data, 'model': DEFAULT_CHECKPOINT, 'seed': args.seed, 'sheets': 0}
        stills(argparse.Namespace(**given, **about, out=more))
    run = Path(args.out) / 'run'
    train(
        argparse.Namespace(
            model=DEFAULT_CHECKPOINT,
            data=data,
            stills=more,
            out=run,
            seed=args.seed,
            steps=0,
            restart=False,
            no_heads=False,
            curves=False,
        )
    )
    arm = options.arm(args).name
    name = DEFAULT_CHECKPOINT if arm == 'panda' else f'{DEFAULT_CHECKPOINT}_{arm}'
    target = CHECKPOINTS / name
    shutil.copytree(run / 'checkpoint', target, dirs_exist_ok=True)
    print(f'{target} made in {(time.monotonic() - began) / 60:.1f} minutes')
    return 0


def probes(args: argparse.Namespace) -> int:
    """Reads of tip and object, taught anew; what labels are worth (up to half an hour)."""
    from ..training.cpu import prepare_cpu
    from ..training.readout import format_probes, train_probes

    config = load(ModelFile, config_path(f'model/{args.model}.yaml')).train
    prepare_cpu()
    folder = options.checkpoint(args)
    config = replace(config, probe_labels=args.labels or config.probe_labels)
    more = Path(args.stills) if args.stills else None
    if more and config.probe_labels:
        raise ConfigError('expected --labels or --stills, got both: stills are labels, too')
    print(format_probes(train_probes(folder, Path(args.data), config, args.seed, more)))
    print(f'{folder}/probes.safetensors; jepa-arm heads and belief read by them, teach both anew')
    return 0


def heads(args: argparse.Namespace) -> int:
    """Trains the planner's actor and value on a world model's latents (minutes)."""
    from ..training.hindsight import train_heads

    config = load(ModelFile, config_path(f'model/{args.model}.yaml')).heads
    folder = options.checkpoint(args)
    train_heads(folder, Path(args.data), config, args.seed, progress=True)
    print(f'{folder}/heads.safetensors')
    return 0


def pose(args: argparse.Namespace) -> int:
    """Trains what pushes an object to a place and a yaw, on a world model's latents (minutes)."""
    from ..training.pose import train_pose

    config = load(ModelFile, config_path(f'model/{args.model}.yaml')).pose
    if config is None:
        raise ConfigError(f'config/model/{args.model}.yaml: expected a part pose, got none')
    folder = options.checkpoint(args)
    told = train_pose(folder, Path(args.data), config, args.seed, progress=True)
    median, p90 = told['yaw_median_deg'], told['yaw_p90_deg']
    print(f'yaw, held out: {median:.1f} degrees (median), {p90:.1f} (90th percentile)')
    print(f'{folder}/pose.safetensors')
    return 0


def belief(args: argparse.Namespace) -> int:
    """Trains what the belief needs to last without images and to be surprised (minutes)."""
    from ..training.belief import train_belief
    from ..training.belief_report import format_belief
    from ..training.cpu import prepare_cpu

    config = load(ModelFile, config_path(f'model/{args.model}.yaml'))
    if config.belief is None:
        raise ConfigError(f'config/model/{args.model}.yaml: expected a part belief, got none')
    prepare_cpu(1)  # as beside the others
    folder = options.checkpoint(args)
    report = train_belief(folder, Path(args.data), config.belief, args.seed, progress=True)
    print(format_belief(report))
    print(f'{folder}/belief.safetensors')
    return 0


def decoder(args: argparse.Namespace) -> int:
    """Trains pictures of what the world model imagines, for people to look at (minutes)."""
    from ..training.cpu import prepare_cpu
    from ..training.decoder import format_decoder, train_decoder

    config = load(ModelFile, config_path(f'model/{args.model}.yaml')).decoder
    if config is None:
        raise ConfigError(f'config/model/{args.model}.yaml: expected a part decoder, got none')
    prepare_cpu()
    folder, page = options.checkpoint(args), Path(args.out)
    report = train_decoder(folder, Path(args.data), config, args.seed, progress=True, page=page)
    print(format_decoder(report))
    print(f'{folder}/decoder.safetensors; film strips: {page}')
    return 0


def ablate(args: argparse.Namespace) -> int:
    """Variants of the world model, trained and measured alike; goes on where it was stopped."""
    from ..ablation_table import format_table, read_results

    out = Path(args.out)
    if not args.table:
        from ..ablation import Scene, run_ablation

        config = load(AblationConfig, config_path(args.rows))
        scene = Scene(options.arm(args), options.sim(), options.guard())
        planner = load(PlannerConfig, config_path('planner.yaml'))
        run_ablation(Path(args.data), out, config, scene, planner, args.only)
    print(format_table(read_results(out)))
    return 0


def import_(args: argparse.Namespace) -> int:
    """A LeWorldModel of its authors' layout (weights.pt, config.json) as a checkpoint of ours."""
    from ..model.official import import_official

    model = import_official(Path(args.source), Path(args.out))
    print(f'{_size(model)} in {args.out}')
    return 0


def export(args: argparse.Namespace) -> int:
    """A checkpoint of ours with a LeWorldModel in its authors' layout."""
    from ..model.official import load_lewm, transformers_5_name, write_official

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
