"""Checkpoint files: weights as safetensors and one ``config.json`` in a folder; no pickles.

Every file is written whole or not at all, and checked when it is read: names, shapes, finite
values.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.files import FileError, read_text

M = TypeVar('M', bound=nn.Module)
SCHEMA_VERSION = 2
INFO_LIMIT, WEIGHTS_LIMIT = 10_000_000, 2_000_000_000
"""Largest ``config.json`` and safetensors file that are read, in bytes."""


class CheckpointError(JepaArmError, RuntimeError):
    """Error for an unusable checkpoint; says what was expected, what was found and what to do."""


def read_info(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's ``config.json``.

    Raises:
        CheckpointError: the file is missing, not JSON, or of another schema version.
    """
    path = folder / 'config.json'
    if not path.is_file():
        raise CheckpointError(
            f'no config.json in {folder}: expected a checkpoint folder; run jepa-arm train'
        )
    try:
        info = json.loads(read_text(path, INFO_LIMIT))
    except (FileError, OSError, RecursionError) as error:
        raise CheckpointError(f'{path}: {error}') from error
    except ValueError as error:
        raise CheckpointError(f'{path}: not JSON: {error}; copy the checkpoint again') from error
    version = info.get('schema_version') if isinstance(info, dict) else None
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f'{path}: expected schema_version {SCHEMA_VERSION}, got {version}; train again with '
            'this version'
        )
    return info


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write ``config.json`` of a checkpoint atomically, see ``read_info``."""
    partial = folder / 'config.json.partial'
    partial.write_text(json.dumps(info, indent=1) + '\n')
    os.replace(partial, folder / 'config.json')


def add_module(
    folder: Path,
    name: str,
    module: nn.Module,
    info: Mapping[str, Any],
    metadata: dict[str, str] | None = None,
) -> None:
    """Add ``<name>.safetensors`` to a checkpoint, and ``info`` as ``name`` to its ``config.json``.

    ``config.json`` is written last, so that an interrupted call leaves a checkpoint without the
    module. Processes that add modules concurrently wait for each other.
    """
    folder = Path(folder)
    with _locked(folder):
        content = read_info(folder)
        save_module(folder, name, module, metadata)
        content[name] = dict(info)
        write_info(folder, content)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``, which the system releases if the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def save_module(
    folder: Path, name: str, module: nn.Module, metadata: dict[str, str] | None = None
) -> None:
    """Write the module's tensors to ``<folder>/<name>.safetensors``, see ``save_tensors``.

    Tensors that float16 represents exactly (see ``round_weights``) are stored as float16.
    """
    path = Path(folder) / f'{name}.safetensors'
    tensors = {k: _to_half_if_exact(v.detach()) for k, v in module.state_dict().items()}
    save_tensors(path, tensors, metadata)


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write ``tensors`` to the safetensors file ``path`` atomically.

    Raises:
        OSError: the disk is full or not writable; a previous file at ``path`` is kept.
    """
    partial = path.with_name(path.name + '.partial')
    try:
        save_file(tensors, partial, metadata)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f'{path} could not be written ({error}); the previous file is kept. Free some space '
            'and run the same command again'
        ) from None
    partial.chmod(0o644)  # safetensors creates it readable by its owner only
    os.replace(partial, path)


def load_module(folder: Path, name: str, module: M) -> M:
    """Load ``<folder>/<name>.safetensors`` into ``module``; return it in eval mode, frozen.

    Raises:
        CheckpointError: the file is missing or truncated, its tensors have other names or shapes
            than those of ``module``, or values are not finite.
    """
    path = Path(folder) / f'{name}.safetensors'
    if not path.is_file():
        raise CheckpointError(
            f'no {path.name} in {path.parent}: expected a trained checkpoint; run jepa-arm train'
        )
    if path.stat().st_size > WEIGHTS_LIMIT:
        raise CheckpointError(f'{path}: expected at most {WEIGHTS_LIMIT} bytes, got more')
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'{path}: expected a whole safetensors file, got {path.stat().st_size} bytes that '
            f'are not one ({error}); copy it again'
        ) from error
    check_tensors(path, tensors, module.state_dict())
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def read_metadata(folder: Path, name: str) -> dict[str, str] | None:
    """Return the metadata of ``<folder>/<name>.safetensors``; None if it cannot be read."""
    try:
        with safe_open(Path(folder) / f'{name}.safetensors', framework='pt') as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return None


def check_tensors(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check tensors read from ``path`` against the ``expected`` ones of a module.

    Raises:
        CheckpointError: names or shapes differ, or values are not finite.
    """
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f'{path}: tensors do not match the config: missing {_first_names(missing)}, '
            f'unknown {_first_names(unknown)}'
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f'{path}, {name}: expected shape {tuple(expected[name].shape)}, got '
                f'{tuple(tensor.shape)}; config.json belongs to another model'
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f'{path}, {name}: expected finite values; train again')


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round matrices and kernels to float16 values in place, which halves the size on disk.

    Call it before any measurement, so that the shipped weights are the measured ones.
    """
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            parameter.copy_(parameter.half())


def fingerprint(module: nn.Module) -> str:
    """Return a hash (16 hexadecimal digits) of names and values of all tensors of a module.

    Saving and loading the module does not change it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which replaces ``folder`` if no error occurs meanwhile."""
    partial, old = (folder.with_name(f'{folder.name}.{suffix}') for suffix in ('partial', 'old'))
    for path in (partial, old):
        shutil.rmtree(path, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def flatten(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return nested ``values`` as one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def _to_half_if_exact(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
        return tensor.half().contiguous()
    return tensor.contiguous()


def _first_names(names: list[str]) -> str:
    return f'{names[:5]}' + (f' and {len(names) - 5} more' if len(names) > 5 else '')
