"""Weights and inputs for comparing LeWorldModel with its authors' package.

Everything follows from NumPy's legacy random numbers, whose streams are frozen, and from the
tensors' names in the released files, so that both sides make the same without exchanging it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).parent / 'data' / 'lewm_reference.npz'
BLOCK_WIDTH = 10
"""Values of an action block of the released models: 5 control steps of 2."""
SIGREG_SEED, SIGREG_PROJECTIONS, SIGREG_KNOTS = 3, 1024, 17


def weights(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Return weights for the released names and shapes, large enough to affect the output."""
    return {name: _filled(name, tuple(shape)) for name, shape in shapes.items()}


def images() -> list[np.ndarray]:
    """Return five images (h, w, 3) uint8 of coloured squares; the last two are large and small."""
    rng = np.random.RandomState(0)
    sizes = (224, 224, 224, 320, 80)
    return [
        np.kron(rng.randint(0, 256, (size // 16, size // 16, 3)), np.ones((16, 16, 1))).astype(
            np.uint8
        )
        for size in sizes
    ]


def actions(*shape: int) -> Tensor:
    """Action blocks (*shape, K*A) in [-1, 1]."""
    rng = np.random.RandomState(1)
    return _tensor(rng.uniform(-1.0, 1.0, (*shape, BLOCK_WIDTH)))


def latents(*shape: int) -> Tensor:
    """Latents (*shape, 192) of unit variance."""
    return _tensor(np.random.RandomState(2).uniform(-1.0, 1.0, (*shape, 192)) * 3**0.5)


def _filled(name: str, shape: tuple[int, ...]) -> Tensor:
    values = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1.0, 1.0, shape)
    if name.endswith('num_batches_tracked'):
        return torch.tensor(1)
    if 'token' in name or 'pos' in name:
        return _tensor(0.5 * values)
    if len(shape) > 1:
        return _tensor(values * (3.0 / np.prod(shape[1:])) ** 0.5)
    if name.endswith(('weight', 'running_var')):
        return _tensor(1.0 + 0.3 * values)
    return _tensor(0.2 * values)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
