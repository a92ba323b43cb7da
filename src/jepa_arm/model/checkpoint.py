"""Checkpoints: a folder of safetensors and one config.json; nothing is pickled.

``model.safetensors`` (weights and batch statistics), ``probes.safetensors``, later those of
``heads``, ``belief`` and ``decoder``, and ``config.json``: schema version, resolved model config,
normaliser, contract, gate report, training and data (seeds, configuration), git hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import ConfigError, Contract, from_dict, model_config, to_dict
from ..resources import FileError, git_hash, read_text
from .architectures import AnyWorldModel, build
from .probes import Probes
from .world_model import Normaliser

SCHEMA_VERSION = 1
INFO_LIMIT, WEIGHTS_LIMIT = 10_000_000, 2_000_000_000
"""Bytes of the largest ``config.json`` and safetensors file that are read."""
NOT_COMPARED = ('camera.frame_id', 'camera.wrist.frame_id', 'time.physics_dt')
"""Contract values that may differ: a frame's name, and the physics of the simulator."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; says what was expected, what came, what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        folder: where it was read from.
        model, probes: in eval mode, without gradients.
        contract: what the model was trained for.
        info: the whole of ``config.json``: ``gates``, ``training``, ``data``, ``git``, ...
    """

    folder: Path
    model: AnyWorldModel
    probes: Probes
    contract: Contract
    info: dict[str, Any]


def save_checkpoint(
    folder: Path, model: AnyWorldModel, probes: Probes, info: Mapping[str, Any]
) -> None:
    """Writes a whole checkpoint folder or nothing; replaces one that is there.

    ``info`` holds plain values beside the model's own: gates, training, data.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_module(partial, 'model', model)
    save_module(partial, 'probes', probes)
    content = {
        'schema_version': SCHEMA_VERSION,
        'model': to_dict(model.config),
        'contract': to_dict(model.contract),
        'normaliser': to_dict(model.normaliser),
        **info,
        'git': git_hash(),
    }
    (partial / 'config.json').write_text(json.dumps(content, indent=1) + '\n')
    replace_folder(partial, folder)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads and checks a checkpoint folder.

    Raises:
        CheckpointError: a file missing or truncated, another schema, tensors of other names or
            shapes, values that are not finite.
    """
    folder = Path(folder)
    info = read_info(folder)
    if 'imported' in info:
        raise CheckpointError(
            f'{folder} holds an imported network, which knows no arm, camera or action space; '
            'it can be exported, or read with load_lewm'
        )
    try:
        contract = from_dict(Contract, info['contract'])
        normaliser = from_dict(Normaliser, info['normaliser'])
        model = build(model_config(info['model']), contract, normaliser)
    except (KeyError, ConfigError) as error:
        raise CheckpointError(
            f'{folder}/config.json: expected model, contract and normaliser: {error}; train again'
        ) from error
    load_module(folder, 'model', model)
    probes = Probes(model.latent)
    load_module(folder, 'probes', probes)
    return Checkpoint(folder, model, probes, contract, info)


def add_module(
    folder: Path,
    name: str,
    module: nn.Module,
    about: Mapping[str, Any],
    metadata: dict[str, str] | None = None,
) -> None:
    """Adds ``<name>.safetensors`` to a checkpoint, and ``about`` under ``name`` in its config.

    The config is written last: a checkpoint without the entry has no such module. Processes that
    add modules at the same time wait for one another.
    """
    folder = Path(folder)
    with _locked(folder):
        info = read_info(folder)
        save_module(folder, name, module, metadata)
        info[name] = dict(about)
        write_info(folder, info)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Until the end of the context, or of this process, no other one is in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Replaces ``config.json`` of a checkpoint as a whole, see ``read_info``."""
    partial = folder / 'config.json.partial'
    partial.write_text(json.dumps(info, indent=1) + '\n')
    os.replace(partial, folder / 'config.json')


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Rounds matrices and kernels to what 16 bits hold, in place: half the size on disk.

    Call it before anything is measured, so that what is shipped is what was measured.
    """
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            parameter.copy_(parameter.half())


def fingerprint(module: nn.Module) -> str:
    """16 hexadecimal digits that change with any name or value of the module's tensors.

    The same after saving and loading.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_module(
    folder: Path, name: str, module: nn.Module, metadata: dict[str, str] | None = None
) -> None:
    """Writes the module's tensors to ``<folder>/<name>.safetensors``, see ``save_tensors``.

    Tensors that 16 bits hold exactly (see ``round_weights``) are stored so; nothing is lost.
    """
    path = Path(folder) / f'{name}.safetensors'
    tensors = {k: _smallest(v.detach()) for k, v in module.state_dict().items()}
    save_tensors(path, tensors, metadata)


def read_metadata(folder: Path, name: str) -> dict[str, str] | None:
    """What ``<folder>/<name>.safetensors`` says of itself; None where it is no such file."""
    try:
        with safe_open(Path(folder) / f'{name}.safetensors', framework='pt') as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return None


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes ``tensors`` to the safetensors file ``path``, whole or not at all.

    Raises:
        OSError: the disk is full or not writable; what was at ``path`` is still there.
    """
    partial = path.with_name(path.name + '.partial')
    try:
        save_file(tensors, partial, metadata)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f'{path} could not be written ({error}); what was there before is kept. Free some '
            'space and run the same command again'
        ) from None
    partial.chmod(0o644)  # safetensors makes it readable for its owner alone
    os.replace(partial, path)


def load_module(folder: Path, name: str, module: nn.Module) -> None:
    """Fills ``module`` from ``<folder>/<name>.safetensors``; eval mode, no gradients.

    Raises:
        CheckpointError: missing, truncated, other tensors than the module's, not finite.
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
    module.eval().requires_grad_(False)


def _smallest(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor):
        return tensor.half().contiguous()
    return tensor.contiguous()


def check_contract(contract: Contract, live: Contract) -> None:
    """Compares what a model was trained for with the robot it is to control.

    Raises:
        CheckpointError: listing every difference in words.
    """
    trained, present = _flat(to_dict(contract)), _flat(to_dict(live))
    differences = [
        f'{key}: trained with {trained.get(key)}, here {present.get(key)}'
        for key in sorted(set(trained) | set(present))
        if key not in NOT_COMPARED and not _same(trained.get(key), present.get(key))
    ]
    if not differences:
        return
    advice = 'load a checkpoint trained for this one, or change the arm configuration'
    if contract.arm != live.arm:
        arm = live.arm
        advice = (
            f'load a checkpoint trained for {arm} (to train one: jepa-arm model --arm {arm}); to '
            f'try the arm without: jepa-arm up --no-planner --arm {arm}, or jepa-arm eval --task '
            f'reach --planner scripted --arm {arm}'
        )
    raise CheckpointError(
        'the checkpoint is for another robot\n  ' + '\n  '.join(differences) + f'\n{advice}'
    )


def read_info(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's ``config.json``.

    Raises:
        CheckpointError: missing, not JSON, of another schema.
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


def check_tensors(path: Path, got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compares tensors read from ``path`` with those of the model they are for.

    Raises:
        CheckpointError: other names or shapes, or values that are not finite.
    """
    missing, unknown = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f'{path}: tensors do not match the config: missing {_some(missing)}, '
            f'unknown {_some(unknown)}'
        )
    for name, tensor in got.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f'{path}, {name}: expected shape {tuple(expected[name].shape)}, got '
                f'{tuple(tensor.shape)}; config.json belongs to another model'
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f'{path}, {name}: expected finite values; train again')


def _some(names: list[str]) -> str:
    return f'{names[:5]}' + (f' and {len(names) - 5} more' if len(names) > 5 else '')


def replace_folder(new: Path, folder: Path) -> None:
    """Puts the folder ``new`` in the place of ``folder``, if there is one."""
    old = folder.with_name(folder.name + '.old')
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-6 * max(1.0, abs(a))
    return a == b
