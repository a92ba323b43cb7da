"""OpenVINO models kept on disk: to trace and to convert takes longer than all else at a start."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn

from .quiet_openvino import openvino

PACKAGE = Path(__file__).parents[1]
SOURCES = 'model', 'planning'
MOST_KEPT = 40
"""Models; of a checkpoint and its settings there are five."""


def kept(name: str, make: Callable[[], openvino.Model]) -> openvino.Model:
    """The model of this name, else one that is made and kept.

    What is kept is not used if its checksum is wrong.
    """
    try:
        file = _folder() / f'{name}.xml'
    except RuntimeError:  # a user without a home
        return make()
    try:
        if file.with_suffix('.sum').read_text() == _checksum(file):
            os.utime(file)
            return core().read_model(file)
    except (OSError, RuntimeError):
        pass
    model = make()
    try:
        _keep(model, file)
    except (OSError, RuntimeError):
        pass  # it is made again next time
    return model


def fingerprint(modules: nn.Module, told: str) -> str:
    """A name for what is made of ``modules`` and ``told`` by the source as it is."""
    digest = hashlib.blake2b(digest_size=16)
    for key, tensor in modules.state_dict().items():
        digest.update(f'{key} {tuple(tensor.shape)} {tensor.dtype}'.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(f'{told} {openvino.__version__} {torch.__version__} {_sources()}'.encode())
    return digest.hexdigest()


@cache
def core() -> openvino.Core:
    """The one of this process: making one takes longer than reading a model."""
    return openvino.Core()


def _keep(model: openvino.Model, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        openvino.save_model(model, made, compress_to_fp16=False)
        made.with_suffix('.sum').write_text(_checksum(made))
        for suffix in ('.bin', '.xml', '.sum'):
            os.replace(made.with_suffix(suffix), file.with_suffix(suffix))
    oldest_first = sorted(file.parent.glob('*.xml'), key=lambda f: f.stat().st_mtime)
    for old in oldest_first[:-MOST_KEPT]:
        for suffix in ('.sum', '.xml', '.bin'):
            old.with_suffix(suffix).unlink(missing_ok=True)


def _checksum(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for suffix in ('.xml', '.bin'):
        digest.update(file.with_suffix(suffix).read_bytes())
    return digest.hexdigest()


def _folder() -> Path:
    home = os.environ.get('XDG_CACHE_HOME', '')
    return (Path(home) if home else Path.home() / '.cache') / 'jepa_arm'


@cache
def _sources() -> str:
    digest = hashlib.blake2b(digest_size=16)
    files = [f for folder in SOURCES for f in sorted((PACKAGE / folder).glob('*.py'))]
    for file in [*files, PACKAGE / 'motion.py']:
        digest.update(file.read_bytes())
    return digest.hexdigest()
