"""Verbs ``data …``: play data, rendered scenes, and repair of recordings."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from jepa_arm.config import CollectConfig, ModelFile, RenderedScenesConfig, load
from jepa_arm.core.files import config_path

from . import options

WORKERS = 'number of processes (default: one a core)'


def add_verbs(register: options.Register) -> None:
    """Register ``data collect``, ``data render`` and ``data recover``."""
    example = 'jepa-arm data collect --out play.h5 --episodes 40'
    parser = register('data', 'collect', collect, example)
    options.add_arm(parser)
    options.add_file(parser, '--out', 'HDF5 file to write', required=True)
    about = 'number of episodes (default: that of config/collect.yaml)'
    options.add_count(parser, '--episodes', about)
    parser.add_argument('--seed', type=int, help='default: that of config/collect.yaml')
    options.add_count(parser, '--workers', WORKERS)

    example = 'jepa-arm data render --data play.h5 --out scenes.h5 --batches 20'
    parser = register('data', 'render', render, example)
    options.add_arm(parser)
    options.add_file(parser, '--data', 'HDF5 file of jepa-arm data collect', required=True)
    options.add_file(parser, '--out', 'HDF5 file to write', required=True)
    about = 'number of batches of scenes (default: that of config/rendered_scenes.yaml)'
    options.add_count(parser, '--batches', about)
    about = 'config/model/MODEL.yaml, whose held-out split is left out'
    parser.add_argument('--model', default=options.DEFAULT_CHECKPOINT, help=about)
    parser.add_argument('--seed', type=int, default=0, help='seed of the training that uses them')
    options.add_count(parser, '--workers', WORKERS)

    example = 'jepa-arm data recover run.mcap.partial --out run.mcap'
    parser = register('data', 'recover', recover, example)
    parser.add_argument('source', help='MCAP file that was cut off')
    options.add_file(parser, '--out', 'MCAP file to write', required=True)


def collect(args: argparse.Namespace) -> int:
    """Collect play data on the virtual arm into one HDF5 file."""
    from jepa_arm.datasets.collection import collect as run

    config = load(CollectConfig, config_path('collect.yaml'))
    given = {'seed': args.seed, 'episodes': args.episodes}
    config = replace(config, **{key: v for key, v in given.items() if v is not None})
    path = run(Path(args.out), options.arm(args), options.sim(), config, args.workers)
    print(f'{config.episodes} episodes of {config.frames} frames in {path}')
    return 0


def render(args: argparse.Namespace) -> int:
    """Render recorded arm poses with the object moved elsewhere, to train the object probe."""
    from jepa_arm.datasets.rendered_scenes import PlaySource, render_scenes

    config = load(RenderedScenesConfig, config_path('rendered_scenes.yaml'))
    if args.batches:
        config = replace(config, batches=args.batches)
    train = load(ModelFile, config_path(f'model/{args.model}.yaml')).train
    play = PlaySource(Path(args.data), args.seed, train.held_out)
    given = options.arm(args), options.sim(), config, args.workers
    path = render_scenes(Path(args.out), play, *given)
    print(f'{config.batches * config.scenes_per_batch} rendered scenes in {path}')
    return 0


def recover(args: argparse.Namespace) -> int:
    """Recover a recording that was cut off, up to its last complete chunk."""
    from jepa_arm.datasets.mcap_file import recover as run

    counts = run(Path(args.source), Path(args.out))
    print(f'{sum(counts.values())} messages on {len(counts)} topics in {args.out}')
    return 0
