"""Verbs ``train``, ``import`` and ``export``: make checkpoints or convert LeWorldModel's."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_arm.config import CollectConfig, ConfigError, ModelFile, RenderedScenesConfig, load
from jepa_arm.core.files import CHECKPOINTS, checkpoint_path, config_path

from . import options

if TYPE_CHECKING:
    from jepa_arm.training.encoding import HeadTraining

WORLD_MODEL_OPTIONS = ('out', 'steps', 'restart', 'world_model_only', 'curves', 'install')


def add_verbs(register: options.Register) -> None:
    """Register ``train``, ``import`` and ``export``."""
    _add_train(register)
    example = 'jepa-arm import lewm-pusht --out models/pusht'
    parser = register('learn', 'import', import_checkpoint, example)
    parser.add_argument('source', help='folder with weights.pt and config.json, or the .pt file')
    parser.add_argument('--out', required=True, help='checkpoint folder to make')

    example = 'jepa-arm export models/pusht --out lewm-pusht-copy'
    parser = register('learn', 'export', export_checkpoint, example)
    parser.add_argument('checkpoint', help='folder of an imported or trained LeWorldModel')
    parser.add_argument('--out', required=True, help='folder to make')
    about = "major version whose names the encoder's tensors get; released files use 4"
    parser.add_argument('--transformers', type=int, choices=(4, 5), default=4, help=about)


def _add_train(register: options.Register) -> None:
    parser = register('learn', 'train', train, 'jepa-arm train --out runs/model --seed 0')
    options.add_arm(parser)
    about = 'HDF5 file of jepa-arm data collect (default: collected first, into OUT)'
    options.add_file(parser, '--data', about)
    about = 'HDF5 file of jepa-arm data render, for the probe of the object'
    options.add_file(parser, '--scenes', about)
    about = 'folder of data, metrics, training state and checkpoint (default: runs/model)'
    parser.add_argument('--out', help=about)
    about = 'config/model/MODEL.yaml'
    parser.add_argument('--model', default=options.DEFAULT_CHECKPOINT, help=about)
    about = 'seed of weights, batches and held-out split'
    parser.add_argument('--seed', type=int, default=0, help=about)
    about = 'steps of the world model (default: those of MODEL.yaml)'
    options.add_count(parser, '--steps', about)
    options.add_flag(parser, '--restart', 'start anew instead of resuming')
    about = 'train world model and probes, and none of the other networks'
    options.add_flag(parser, '--world-model-only', about)
    options.add_flag(parser, '--curves', 'write TensorBoard curves to OUT/tensorboard')
    about = 'make the result the checkpoint that ships with this package'
    options.add_flag(parser, '--install', about)
    about = 'train only this part of --checkpoint anew, from --data'
    parser.add_argument('--only', choices=sorted(PARTS), help=about)
    about = f'with --only: {options.OPTIONAL_CHECKPOINT}'
    parser.add_argument('--checkpoint', help=about)
    about = 'with --only probes: use this many labelled frames (default: that of MODEL.yaml)'
    options.add_count(parser, '--labels', about)
    about = 'with --only decoder: page of imagined images (default: out/imagined.html)'
    options.add_file(parser, '--page', about)


def train(args: argparse.Namespace) -> int:
    """Train world model, probes, actor-critic, belief and decoder (45 minutes on two cores)."""
    config = load(ModelFile, config_path(f'model/{args.model}.yaml'))
    if args.only:
        return _train_part(args, config)
    options.refuse(args, ('checkpoint', 'labels', 'page'), 'without --only')
    began = time.monotonic()
    out = Path(args.out or 'runs/model')
    data, scenes = args.data, args.scenes
    if data is None:
        options.refuse(args, ('scenes',), 'without --data')
        data, scenes = _make_data(args, config, out)
    folder = _train_all(args, config, out, Path(data), Path(scenes) if scenes else None)
    if args.install:
        name = options.DEFAULT_CHECKPOINT
        if args.arm != options.DEFAULT_ARM:
            name = f'{name}_{options.arm(args).name}'
        shutil.copytree(folder, CHECKPOINTS / name, dirs_exist_ok=True)
        folder = CHECKPOINTS / name
    print(f'checkpoint: {folder}, made in {(time.monotonic() - began) / 60:.1f} minutes')
    return 0


def _make_data(args: argparse.Namespace, config: ModelFile, out: Path) -> tuple[Path, Path]:
    """Collect play data and render scenes into ``out``, unless these files exist."""
    from jepa_arm.datasets.collection import collect
    from jepa_arm.datasets.rendered_scenes import PlaySource, render_scenes

    arm, sim = options.arm(args), options.sim()
    data, scenes = out / 'play.h5', out / 'scenes.h5'
    if not data.exists():
        collect(data, arm, sim, load(CollectConfig, config_path('collect.yaml')))
    if not scenes.exists():
        render = load(RenderedScenesConfig, config_path('rendered_scenes.yaml'))
        play = PlaySource(data, args.seed, config.train.held_out)
        render_scenes(scenes, play, arm, sim, render)
    return data, scenes


def _train_all(
    args: argparse.Namespace, config: ModelFile, out: Path, data: Path, scenes: Path | None
) -> Path:
    """Train the world model and its heads, and return the checkpoint's folder."""
    from jepa_arm.training.encoding import HeadTraining
    from jepa_arm.training.gates import format_report
    from jepa_arm.training.heads import train_heads
    from jepa_arm.training.world_model import RunOptions, train_world_model

    if args.steps:
        config = replace(config, train=replace(config.train, steps=args.steps))
    run = RunOptions(
        args.seed, resume=not args.restart, tensorboard=args.curves, rendered_scenes=scenes
    )
    folder, encoded = train_world_model(data, out / 'run', config, run)
    print(format_report(json.loads((out / 'run/gates.json').read_text())))
    print(f'report: {out / "run/report.html"}')
    if not args.world_model_only:
        page = out / 'run/imagined.html'
        train_heads(HeadTraining(folder, encoded, args.seed), config, page)
        if config.decoder is not None:
            print(f'imagined images: {page}')
    return folder


def _train_part(args: argparse.Namespace, config: ModelFile) -> int:
    """Retrain the part of a checkpoint that ``--only`` names."""
    options.refuse(args, WORLD_MODEL_OPTIONS, 'with --only')
    if args.only != 'probes':
        options.refuse(args, ('labels', 'scenes'), f'with --only {args.only}')
    if args.only != 'decoder':
        options.refuse(args, ('page',), f'with --only {args.only}')
    if args.data is None:
        raise ConfigError('--only: expected --data FILE, an HDF5 file of jepa-arm data collect')
    args.checkpoint = args.checkpoint or options.DEFAULT_CHECKPOINT
    folder = options.checkpoint(args)
    PARTS[args.only](args, config, folder)
    print(f'{args.only} of {folder} trained anew')
    return 0


def _train_probes(args: argparse.Namespace, config: ModelFile, folder: Path) -> None:
    from jepa_arm.training.cpu import prepare_cpu
    from jepa_arm.training.gates import format_probe_errors
    from jepa_arm.training.probes import train_probes

    prepare_cpu()
    settings = replace(config.train, probe_labels=args.labels or config.train.probe_labels)
    scenes = Path(args.scenes) if args.scenes else None
    if scenes and settings.probe_labels:
        raise ConfigError('expected --labels or --scenes, got both: rendered scenes are labelled')
    errors = train_probes(folder, Path(args.data), settings, args.seed, scenes)
    print(format_probe_errors(errors))
    print('actor-critic and belief read positions with the probes: train both anew')


def _train_actor_critic(args: argparse.Namespace, config: ModelFile, folder: Path) -> None:
    from jepa_arm.training.actor_critic import train_actor_critic

    train_actor_critic(_inputs(args, folder), config.actor_critic)


def _train_pose(args: argparse.Namespace, config: ModelFile, folder: Path) -> None:
    from jepa_arm.training.pose import train_pose

    report = train_pose(_inputs(args, folder), _part(args, config, 'pose'))
    median, p90 = report['yaw_median_deg'], report['yaw_p90_deg']
    print(f'yaw, held out: {median:.1f} degrees (median), {p90:.1f} (90th percentile)')


def _train_belief(args: argparse.Namespace, config: ModelFile, folder: Path) -> None:
    from jepa_arm.training.belief.belief import train_belief
    from jepa_arm.training.belief.report import format_belief
    from jepa_arm.training.cpu import prepare_cpu

    settings = _part(args, config, 'belief')
    prepare_cpu(1)  # one thread, as in the training of all parts, so the result is equal
    print(format_belief(train_belief(_inputs(args, folder), settings)))


def _train_decoder(args: argparse.Namespace, config: ModelFile, folder: Path) -> None:
    from jepa_arm.training.cpu import prepare_cpu
    from jepa_arm.training.decoder import format_decoder, train_decoder

    settings = _part(args, config, 'decoder')
    prepare_cpu()
    page = Path(args.page or 'out/imagined.html')
    print(format_decoder(train_decoder(_inputs(args, folder), settings, page)))
    print(f'imagined images: {page}')


def _inputs(args: argparse.Namespace, folder: Path) -> HeadTraining:
    """Return the inputs for training a head: the checkpoint and the encoded ``--data``."""
    from jepa_arm.training.encoding import HeadTraining, encode_for

    encoded = encode_for(options.load_checkpoint(args), Path(args.data))
    return HeadTraining(folder, encoded, args.seed)


def _part(args: argparse.Namespace, config: ModelFile, name: str) -> Any:
    settings = getattr(config, name)
    if settings is None:
        raise ConfigError(f'config/model/{args.model}.yaml: expected a section {name}, got none')
    return settings


def import_checkpoint(args: argparse.Namespace) -> int:
    """Convert LeWorldModel's released files (weights.pt, config.json) into a checkpoint."""
    from jepa_arm.model.lewm.released_checkpoint import import_released

    model = import_released(Path(args.source), Path(args.out))
    print(f'{_describe(model)} in {args.out}')
    return 0


def export_checkpoint(args: argparse.Namespace) -> int:
    """Convert a checkpoint with a LeWorldModel into its authors' layout."""
    from jepa_arm.model.lewm.released_checkpoint import (
        load_lewm,
        transformers_5_name,
        write_released,
    )

    model = load_lewm(checkpoint_path(args.checkpoint))
    names = [transformers_5_name] if args.transformers == 5 else []
    write_released(Path(args.out), model, *names)
    print(f'{_describe(model)} in {args.out}')
    return 0


def _describe(model: Any) -> str:
    tensors = model.state_dict().values()
    return f'LeWorldModel, {len(tensors)} tensors of {sum(t.numel() for t in tensors):,} values,'


PARTS = {
    'probes': _train_probes,
    'actor-critic': _train_actor_critic,
    'pose': _train_pose,
    'belief': _train_belief,
    'decoder': _train_decoder,
}
"""Training function for each value of ``--only``."""
