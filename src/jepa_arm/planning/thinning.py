"""Narrower layers for what a predictor makes of actions: almost the same with fewer weights.

Action blocks are a few numbers, so what is made of them fills few of a layer's dimensions. A
matrix that meets such features is replaced by two of low rank that differ from it little there
(data whitening of SVD-LLM, arXiv:2403.07378).
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..model.networks import AdaptiveBlock, Predictor

TOLERANCE = 1.5e-3
"""rms of what a thinned layer is off by, as a share of what leaves it; bfloat16 is off by 4e-3."""
STEP = 16
"""Ranks are multiples of it, as processors like them."""
SAMPLES = 4096
"""Action blocks that tell which dimensions are filled."""
Module = TypeVar('Module', bound=nn.Module)


@torch.no_grad()
def thinned(module: Module, seed: int = 0) -> Module:
    """A copy of ``module`` in which each ``Predictor`` is thinned where that makes it cheaper."""
    module = copy.deepcopy(module)
    for predictor in [m for m in module.modules() if isinstance(m, Predictor)]:
        _thin(predictor, torch.Generator().manual_seed(seed))
    return module


def _thin(predictor: Predictor, generator: torch.Generator) -> None:
    """In place: of ``predictor.action`` and the conditions of its blocks."""
    first, *rest = predictor.action
    assert isinstance(first, nn.Linear)
    width = SAMPLES, first.in_features
    speed = torch.rand(SAMPLES, 1, generator=generator)
    features = first(speed * (2.0 * torch.rand(width, generator=generator) - 1.0))
    layers: list[nn.Module] = [first]
    for layer in rest:
        kept = _narrow([layer], features) if isinstance(layer, nn.Linear) else None
        layers += [layer] if kept is None else [kept[0], *kept[1]]
        features = layer(features)
    blocks = cast('list[AdaptiveBlock]', predictor.blocks)
    kept = _narrow([block.condition for block in blocks], features)
    if kept is not None:
        layers.append(kept[0])
        for block, condition in zip(blocks, kept[1], strict=True):
            block.condition = condition
    predictor.action = nn.Sequential(*layers)


def _narrow(layers: list[nn.Linear], x: Tensor) -> tuple[nn.Linear, list[nn.Linear]] | None:
    """A layer that goes before ``layers``, and what takes the place of each; None: not worth it.

    Args:
        layers: that all meet the same features.
        x: (N, W) such features.
    """
    weight = torch.cat([layer.weight for layer in layers]).double()
    if not (weight.isfinite().all() and x.isfinite().all()):
        return None
    mean = x.mean(0).double()
    root = torch.linalg.cholesky_ex(torch.cov(x.double().T) + 1e-9 * torch.eye(x.shape[1]))[0]
    made, strength, _ = torch.linalg.svd(weight @ root, full_matrices=False)
    left = strength.square().flip(0).cumsum(0).flip(0)  # of what a rank leaves out
    enough = int((left > TOLERANCE**2 * left[0]).sum())
    rank = STEP * max(1, -(-enough // STEP))
    if rank * sum(weight.shape) >= weight.numel():
        return None
    made = made[:, :rank]
    before = _linear(made.T @ weight, -made.T @ (weight @ mean))
    parts = made.split([layer.out_features for layer in layers])
    return before, [
        _linear(part, layer.weight.double() @ mean + layer.bias)
        for part, layer in zip(parts, layers, strict=True)
    ]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer.requires_grad_(False)
