"""Predictor compression: low-rank versions of the layers that depend on actions alone.

An action block is only a few numbers, so features computed from it span few of a layer's
dimensions. A weight matrix applied to such features is replaced by a product of two low-rank
matrices that approximates it on them (data whitening of SVD-LLM, arXiv:2403.07378).
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from jepa_arm.model.networks import AdaLnBlock, Predictor

TOLERANCE = 1.5e-3
"""Largest rms error of a compressed layer relative to its output; that of bfloat16 is 4e-3."""
RANK_STEP = 16
"""Ranks are multiples of this number, which suits processors."""
SAMPLES = 4096
"""Number of random action blocks from which the features are sampled."""
Module = TypeVar('Module', bound=nn.Module)


@torch.no_grad()
def compress_predictor(module: Module, seed: int = 0) -> Module:
    """Return a copy of ``module`` in which every ``Predictor`` is compressed where it saves time.

    Args:
        module: contains predictors. seed: seed of the sampled actions.
    """
    module = copy.deepcopy(module)
    for predictor in [m for m in module.modules() if isinstance(m, Predictor)]:
        _compress(predictor, torch.Generator().manual_seed(seed))
    return module


def _compress(predictor: Predictor, generator: torch.Generator) -> None:
    """Compress the action encoder and the blocks' modulation layers in place."""
    first, *rest = predictor.action_encoder
    assert isinstance(first, nn.Linear)
    size = SAMPLES, first.in_features
    speed = torch.rand(SAMPLES, 1, generator=generator)
    features = first(speed * (2.0 * torch.rand(size, generator=generator) - 1.0))
    layers: list[nn.Module] = [first]
    for layer in rest:
        factors = _low_rank([layer], features) if isinstance(layer, nn.Linear) else None
        layers += [layer] if factors is None else [factors[0], *factors[1]]
        features = layer(features)
    blocks = cast('list[AdaLnBlock]', predictor.blocks)
    factors = _low_rank([block.modulation for block in blocks], features)
    if factors is not None:
        layers.append(factors[0])
        for block, modulation in zip(blocks, factors[1], strict=True):
            block.modulation = modulation
    predictor.action_encoder = nn.Sequential(*layers)


def _low_rank(
    layers: list[nn.Linear], features: Tensor
) -> tuple[nn.Linear, list[nn.Linear]] | None:
    """Factorise linear layers that are applied to the same features.

    Args:
        layers: layers to replace. features: (N, W) samples of their input.

    Returns:
        A shared layer to apply first, and for each layer the one to apply after it; None if they
        would not be cheaper, or if a weight or feature is not finite.
    """
    weight = torch.cat([layer.weight for layer in layers]).double()
    if not (weight.isfinite().all() and features.isfinite().all()):
        return None
    mean = features.mean(0).double()
    covariance = torch.cov(features.double().T) + 1e-9 * torch.eye(features.shape[1])
    root = torch.linalg.cholesky_ex(covariance)[0]
    directions, strength, _ = torch.linalg.svd(weight @ root, full_matrices=False)
    lost = strength.square().flip(0).cumsum(0).flip(0)  # lost[k]: squared error at rank k
    needed = int((lost > TOLERANCE**2 * lost[0]).sum())
    rank = RANK_STEP * max(1, -(-needed // RANK_STEP))
    if rank * sum(weight.shape) >= weight.numel():
        return None
    directions = directions[:, :rank]
    shared = _linear(directions.T @ weight, -directions.T @ (weight @ mean))
    parts = directions.split([layer.out_features for layer in layers])
    return shared, [
        _linear(part, layer.weight.double() @ mean + layer.bias)
        for part, layer in zip(parts, layers, strict=True)
    ]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer.requires_grad_(False)
