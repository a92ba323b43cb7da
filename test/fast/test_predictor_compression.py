"""Compressed predictors predict nearly the same with fewer weights, or stay as they are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from jepa_arm.config import ModelFile, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.model.networks import AdaLnBlock, Predictor
from jepa_arm.planning.backends.predictor_compression import compress_predictor


@pytest.fixture(scope='module')
def shipped() -> Predictor:
    predictor = load_checkpoint(checkpoint_path('compact')).model.predictor
    assert isinstance(predictor, Predictor)
    return predictor


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def inputs(width: int, rows: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, previous latents, and actions from small ones to those at the bounds."""
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(rows, 64, generator=generator)
    z_prev = z + 0.3 * torch.randn(rows, 64, generator=generator)
    actions = torch.linspace(0.0, 3.0, rows)[:, None] * torch.randn(
        rows, width, generator=generator
    )
    return z, z_prev, actions.clamp(-1.0, 1.0)


@torch.inference_mode()
def test_the_compressed_shipped_predictor_predicts_nearly_the_same(
    shipped: Predictor,
) -> None:
    before, compressed = size(shipped), compress_predictor(shipped)
    assert size(compressed) < 0.6 * before == 0.6 * size(shipped)
    z, z_prev, actions = inputs(6)
    change = shipped(z, z_prev, actions) - z
    error = (compressed(z, z_prev, actions) - z - change).square().mean(1).sqrt()
    scale = change.square().mean().sqrt()
    assert error.mean() < 0.004 * scale and error.max() < 0.02 * scale


@torch.inference_mode()
def test_layers_of_full_rank_or_with_nan_stay_as_they_are(shipped: Predictor) -> None:
    config = load(ModelFile, config_path('model/compact.yaml')).model
    wide = Predictor(replace(config, predictor_width=32), 64)
    for block in wide.blocks:
        assert isinstance(block, AdaLnBlock)
        nn.init.orthogonal_(block.modulation.weight)
    assert size(compress_predictor(wide)) == size(wide)
    broken = compress_predictor(shipped)
    broken.action_encoder[0].weight[0, 0] = torch.nan
    assert size(compress_predictor(broken)) == size(broken)
    z, z_prev, actions = inputs(6, 4)
    assert compress_predictor(broken)(z, z_prev, actions).isnan().any()


@torch.inference_mode()
def test_an_untrained_predictor_can_be_compressed() -> None:
    config = load(ModelFile, config_path('model/compact.yaml')).model
    fresh = Predictor(config, 6)
    z, z_prev, actions = inputs(6, 100)
    expected = fresh(z, z_prev, actions)
    found = compress_predictor(fresh)(z, z_prev, actions)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
