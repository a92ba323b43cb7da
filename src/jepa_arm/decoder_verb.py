"""What ``jepa-arm decoder`` does."""

from __future__ import annotations

import argparse
from pathlib import Path

from .config import ConfigError, ModelFile, load
from .resources import checkpoint_path, config_path


def decoder(args: argparse.Namespace) -> int:
    """Trains pictures of what the world model imagines, for people to look at (minutes)."""
    from .decoding import format_decoder, train_decoder
    from .training import prepare_cpu

    config = load(ModelFile, config_path(f'model/{args.model}.yaml')).decoder
    if config is None:
        raise ConfigError(f'config/model/{args.model}.yaml: expected a part decoder, got none')
    prepare_cpu()
    folder, page = checkpoint_path(args.checkpoint), Path(args.out)
    report = train_decoder(folder, Path(args.data), config, args.seed, progress=True, page=page)
    print(format_decoder(report))
    print(f'{folder}/decoder.safetensors; film strips: {page}')
    return 0
