"""OpenVINO model cache on disk: tracing and converting take most of a planner's start-up time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import nn

from jepa_arm.model.checkpoint_files import fingerprint

from .openvino_import import openvino

PACKAGE = Path(__file__).parents[2]
SOURCES = 'model', 'planning'
MAX_MODELS = 40
"""Number of models that are kept; a checkpoint with one configuration needs five."""


def load_or_convert(name: str, convert: Callable[[], openvino.Model]) -> openvino.Model:
    """Return the cached model called ``name``; convert and cache it if there is none.

    A cached model with a wrong checksum is converted anew. If the cache cannot be written, the
    model is converted on every call.
    """
    try:
        file = _folder() / f'{name}.xml'
    except RuntimeError:  # the user has no home directory
        return convert()
    with suppress(OSError, RuntimeError):
        if file.with_suffix('.sum').read_text() == _checksum(file):
            os.utime(file)
            return core().read_model(file)
    model = convert()
    with suppress(OSError, RuntimeError):
        _save(model, file)
    return model


def model_name(modules: nn.Module, cache_key: str) -> str:
    """Return a model's name: a hash of ``cache_key`` and the weights of ``modules``.

    The hash also covers the source code and the versions of OpenVINO and torch.
    """
    versions = f'{openvino.__version__} {torch.__version__}'
    parts = f'{fingerprint(modules)} {cache_key} {versions} {_source_digest()}'
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


@cache
def core() -> openvino.Core:
    """Return the OpenVINO core of this process; creating one takes longer than reading a model."""
    return openvino.Core()


def _save(model: openvino.Model, file: Path) -> None:
    """Write a model and its checksum, and delete the least recently used models."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder) / file.name
        openvino.save_model(model, partial, compress_to_fp16=False)
        partial.with_suffix('.sum').write_text(_checksum(partial))
        for suffix in ('.bin', '.xml', '.sum'):
            os.replace(partial.with_suffix(suffix), file.with_suffix(suffix))
    oldest_first = sorted(file.parent.glob('*.xml'), key=lambda f: f.stat().st_mtime)
    for old in oldest_first[:-MAX_MODELS]:
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
def _source_digest() -> str:
    """Return a digest of all source code that converted functions may run."""
    digest = hashlib.blake2b(digest_size=16)
    files = [f for folder in SOURCES for f in sorted((PACKAGE / folder).rglob('*.py'))]
    for file in [*files, PACKAGE / 'robot' / 'action_space.py']:
        digest.update(file.read_bytes())
    return digest.hexdigest()
