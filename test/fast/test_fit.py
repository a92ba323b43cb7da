"""Training loop: what it minimises, reports and refuses, for every network that it trains."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_arm.model.heads.camera_pose import CameraPoseHead
from jepa_arm.model.heads.probes import PositionProbe
from jepa_arm.model.world_model import Normaliser
from jepa_arm.training.belief.camera_pose import train_camera_pose
from jepa_arm.training.fit import (
    TrainingError,
    adamw,
    adamw_one_cycle,
    fit,
    muon_and_adamw,
    recent_mean,
)
from jepa_arm.training.probes import fit_covariance, fit_probe

pytestmark = pytest.mark.usefixtures('one_thread')
LATENTS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
NAN = np.full((64, 3), np.nan, np.float32)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))


def regression(net: nn.Module) -> Callable[[int], Tensor]:
    inputs = torch.rand(64, 2, generator=torch.Generator().manual_seed(1))
    return lambda step: (net(inputs)[:, 0] - inputs.sum(1)).square().mean()


@pytest.mark.parametrize('make', [adamw, adamw_one_cycle, muon_and_adamw])
def test_every_optimiser_fits_a_regression_and_leaves_the_network_frozen(make) -> None:
    net = network()
    losses = fit(net, regression(net), make(net, 150, 2e-2), 'toy')
    assert len(losses) == 150 and losses[-1] < 0.02 * losses[0]
    assert recent_mean(losses) == pytest.approx(np.mean(losses))
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_each_step_reports_its_loss_and_gradient_before_clipping() -> None:
    net, steps = network(), list[tuple[float, ...]]()

    def record(*step: float) -> None:
        steps.append(step)

    losses = fit(net, regression(net), adamw(net, 4, 1e-3), 'toy', after_step=record)
    assert [(step, loss) for step, loss, _ in steps] == list(enumerate(losses))
    copy = network()
    regression(copy)(0).backward()
    norm = nn.utils.get_total_norm([p.grad for p in copy.parameters() if p.grad is not None])
    assert steps[0][2] == pytest.approx(float(norm), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_training_before_it_changes_the_weights() -> None:
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(TrainingError, match='toy, step 0: .*finite'):
        fit(net, lambda step: regression(net)(step) * torch.nan, adamw(net, 5, 1e-3), 'toy')
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def train_nan_covariance() -> None:
    fit_covariance(PositionProbe(4), LATENTS, NAN, seed=0, steps=2)


def train_nan_camera_pose() -> None:
    head = CameraPoseHead(Normaliser(0.5, 0.2, (0.0,) * 8, (1.0,) * 8), 16, 16)
    images = np.zeros((4, 16, 16, 3), np.uint8)
    train_camera_pose(
        head, images, np.full((4, 8), np.nan, np.float32), 2, np.random.default_rng(0)
    )


@pytest.mark.parametrize(
    'train',
    [
        lambda: fit_probe(LATENTS, NAN, seed=0, steps=2),
        train_nan_covariance,
        train_nan_camera_pose,
    ],
    ids=['probe', 'probe covariance', 'camera pose'],
)
def test_data_that_is_not_finite_is_a_training_error(train: Callable[[], object]) -> None:
    with pytest.raises(TrainingError, match='finite loss'):
        train()
