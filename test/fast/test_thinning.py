"""Thinned predictors predict the same with fewer weights, or stay as they are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from jepa_arm.config import ModelFile, load
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.model.networks import AdaptiveBlock, Predictor
from jepa_arm.planning.thinning import thinned
from jepa_arm.resources import checkpoint_path, config_path


@pytest.fixture(scope='module')
def shipped() -> Predictor:
    predictor = load_checkpoint(checkpoint_path('compact')).model.predictor
    assert isinstance(predictor, Predictor)
    return predictor


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def inputs(width: int, rows: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, those before them, and actions that are small, large and at their bounds."""
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(rows, 64, generator=generator)
    z_prev = z + 0.3 * torch.randn(rows, 64, generator=generator)
    actions = torch.linspace(0.0, 3.0, rows)[:, None] * torch.randn(
        rows, width, generator=generator
    )
    return z, z_prev, actions.clamp(-1.0, 1.0)


@torch.inference_mode()
def test_the_shipped_predictor_says_nearly_the_same_with_fewer_weights(
    shipped: Predictor,
) -> None:
    before, thin = size(shipped), thinned(shipped)
    assert size(thin) < 0.6 * before == 0.6 * size(shipped)
    z, z_prev, actions = inputs(6)
    change = shipped(z, z_prev, actions) - z
    off = (thin(z, z_prev, actions) - z - change).square().mean(1).sqrt()
    scale = change.square().mean().sqrt()
    assert off.mean() < 0.004 * scale and off.max() < 0.02 * scale


@torch.inference_mode()
def test_what_is_not_of_low_rank_or_not_finite_stays_as_it_is(shipped: Predictor) -> None:
    config = load(ModelFile, config_path('model/compact.yaml')).model
    wide = Predictor(replace(config, predictor_width=32), 64)
    for block in wide.blocks:
        assert isinstance(block, AdaptiveBlock)
        nn.init.orthogonal_(block.condition.weight)
    assert size(thinned(wide)) == size(wide)
    broken = thinned(shipped)
    broken.action[0].weight[0, 0] = torch.nan
    assert size(thinned(broken)) == size(broken)
    z, z_prev, actions = inputs(6, 4)
    assert thinned(broken)(z, z_prev, actions).isnan().any()


@torch.inference_mode()
def test_an_untrained_predictor_can_be_thinned() -> None:
    config = load(ModelFile, config_path('model/compact.yaml')).model
    fresh = Predictor(config, 6)
    z, z_prev, actions = inputs(6, 100)
    expected = fresh(z, z_prev, actions)
    torch.testing.assert_close(thinned(fresh)(z, z_prev, actions), expected, rtol=0, atol=1e-5)
