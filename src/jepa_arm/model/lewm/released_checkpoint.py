"""Released checkpoints of LeWorldModel (``weights.pt``, ``config.json``): import and export.

The layout is that of ``save_pretrained`` in https://github.com/galilai-group/stable-worldmodel.
Only tensors are read from the weights: a pickle that would run code is refused.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_arm.config import ConfigError, LewmConfig, model_config, to_dict
from jepa_arm.model.checkpoint_files import (
    SCHEMA_VERSION,
    CheckpointError,
    check_tensors,
    load_module,
    new_folder,
    read_info,
    save_module,
    write_info,
)

from .networks import LeWM
from .released_config import parse_released_config, released_config

WEIGHTS_FILE = 'weights.pt'
_TRANSFORMERS_5_NAMES = (
    ('encoder.encoder.layer.', 'encoder.layers.'),
    ('.attention.attention.query.', '.attention.q_proj.'),
    ('.attention.attention.key.', '.attention.k_proj.'),
    ('.attention.attention.value.', '.attention.v_proj.'),
    ('.attention.output.dense.', '.attention.o_proj.'),
    ('.intermediate.dense.', '.mlp.fc1.'),
    ('.output.dense.', '.mlp.fc2.'),
)
"""Parts of tensor names in the released files, and their names in transformers >= 5."""


def read_released(path: Path) -> LeWM:
    """Return the network of a released checkpoint.

    Args:
        path: folder with one ``.pt`` file and ``config.json``, or that ``.pt`` file.

    Raises:
        CheckpointError: files are missing or truncated, the pickle contains code, or architecture
            or tensors do not match ``config.json``.
    """
    weights = _weights_file(Path(path))
    config, block_width = _read_config(weights.with_name('config.json'))
    tensors = {released_name(k): v for k, v in _read_tensors(weights).items()}
    model = LeWM(config, block_width)
    check_tensors(weights, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def write_released(
    folder: Path, model: LeWM, name: Callable[[str], str] = lambda name: name
) -> None:
    """Write ``weights.pt`` and ``config.json`` into a new folder, whole or not at all.

    ``name`` maps tensor names to those in the file, see ``transformers_5_name``.

    Raises:
        CheckpointError: the folder exists, or the layout cannot express the model's sizes.
    """
    try:
        content = released_config(model.config, model.block_width)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    tensors = {name(k): v.detach().contiguous() for k, v in model.state_dict().items()}
    _expect_new(folder)
    with new_folder(folder) as partial:
        torch.save(tensors, partial / WEIGHTS_FILE)
        (partial / 'config.json').write_text(json.dumps(content, indent=2) + '\n')


def import_released(path: Path, folder: Path) -> LeWM:
    """Convert a released checkpoint to a new checkpoint folder of this package.

    Raises:
        CheckpointError: ``folder`` exists; see also ``read_released``.
    """
    model, weights = read_released(path), _weights_file(Path(path))
    info = {
        'schema_version': SCHEMA_VERSION,
        'model': to_dict(model.config),
        'imported': {
            'block_width': model.block_width,
            'sha256': hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
    }
    _expect_new(folder)
    with new_folder(folder) as partial:
        save_module(partial, 'model', model)
        write_info(partial, info)
    return model


def load_lewm(folder: Path) -> LeWM:
    """Return the network of a checkpoint folder of this package that holds a LeWorldModel.

    Raises:
        CheckpointError: another architecture; see also ``checkpoint.load_checkpoint``.
    """
    folder = Path(folder)
    info = read_info(folder)
    try:
        config = model_config(info['model'])
        width = _block_width(info)
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f'{folder}/config.json: expected model and contract: {error}; import or train again'
        ) from error
    if not isinstance(config, LewmConfig):
        raise CheckpointError(
            f'{folder}: expected a LeWorldModel (config/model/lewm.yaml), got {config.name!r}, '
            'whose architecture the released layout cannot express'
        )
    return load_module(folder, 'model', LeWM(config, width))


def released_name(name: str) -> str:
    """Return the released name of a tensor, whichever transformers version wrote it."""
    return _renamed(name, [(new, old) for old, new in _TRANSFORMERS_5_NAMES])


def transformers_5_name(name: str) -> str:
    """Return the name in transformers >= 5 of a tensor with the released ``name``."""
    return _renamed(name, list(_TRANSFORMERS_5_NAMES))


def _renamed(name: str, pairs: list[tuple[str, str]]) -> str:
    if name.startswith(pairs[0][0]):
        for old, new in pairs:
            name = name.replace(old, new)
    return name


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob('*.pt'))
    if len(files) != 1:
        raise CheckpointError(
            f'{path}: expected a .pt file or a folder with one, got '
            f'{[file.name for file in files] or "none"}; name the file'
        )
    return files[0]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r'GLOBAL (\S+)', str(error))
        if foreign is None:  # torch's message suggests running it
            raise _broken(path, 'its pickle is not one of tensors') from None
        raise CheckpointError(
            f'{path}: expected tensors only, got a pickle that calls for {foreign[1]}; nothing of '
            'it was run; use the state_dict alone, from a source you trust'
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or 'it ends too early').splitlines()[0]
        raise _broken(path, reason) from error
    if not isinstance(content, Mapping) or not all(_is_plain(v) for v in content.values()):
        raise CheckpointError(
            f'{path}: expected a state_dict (dense tensors by name), got {_described(content)}'
        )
    return {str(k): v.float() if v.is_floating_point() else v for k, v in content.items()}


def _broken(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f'{path}: expected a whole file of torch.save, got {path.stat().st_size} bytes that are '
        f'not one ({reason}); copy it again'
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        odd = sorted(str(k) for k, v in content.items() if not _is_plain(v))
        return f'entries that are none: {odd[:5]}'
    return f'a {type(content).__name__}'


def _read_config(path: Path) -> tuple[LewmConfig, int]:
    """Return the network's sizes and its action block width K*A."""
    try:
        return parse_released_config(json.loads(path.read_text()))
    except FileNotFoundError:
        raise CheckpointError(
            f'no config.json in {path.parent}: expected it beside the weights; copy it too'
        ) from None
    except ConfigError as error:
        raise CheckpointError(f'{path}: {error}; expected that of a LeWorldModel') from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f'{path}: not JSON: {error}; copy it again') from error


def _block_width(info: Mapping[str, Any]) -> int:
    if 'imported' in info:
        return int(info['imported']['block_width'])
    contract = info['contract']
    return int(contract['action_width']) * int(contract['time']['frame_skip'])


def _expect_new(folder: Path) -> None:
    if folder.exists():
        raise CheckpointError(f'{folder}: expected a new folder, it exists; give another one')
