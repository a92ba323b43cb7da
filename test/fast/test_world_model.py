"""World model: encoding, prediction and rollout; metrics of the gates; probes."""

import itertools

import numpy as np
import pytest
import torch

import synthetic
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.training.encoding import encode_frames
from jepa_arm.training.gates import effective_rank, failed_gates, linear_r2
from jepa_arm.training.probes import (
    calibrate_covariance,
    coverage,
    fit_covariance,
    fit_probe,
    position_error_cm,
)

NORMALISER = Normaliser(0.4, 0.2, (0.1, -0.2) * 4, (0.6, 0.5) * 4)


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(synthetic.MODEL, synthetic.CONTRACT, NORMALISER)
    for parameter in model.predictor.parameters():  # the blocks start as the identity
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def seen() -> tuple[np.ndarray, np.ndarray]:
    one = synthetic.episode(np.random.default_rng(0), 20)
    return synthetic.observations(one)


def test_encoding_a_batch_equals_encoding_one_by_one(model: WorldModel, seen) -> None:
    pixels, proprio = seen
    with torch.inference_mode():
        together = model.encode(pixels, proprio)
        apart = torch.cat(
            [model.encode(p[None], j[None]) for p, j in zip(pixels, proprio, strict=True)]
        )
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_encoding_leaves_its_inputs_unchanged(model: WorldModel, seen) -> None:
    pixels, proprio = torch.from_numpy(seen[0].copy()), torch.from_numpy(seen[1].copy())
    model.encode(pixels, proprio)
    np.testing.assert_array_equal(pixels, seen[0])
    np.testing.assert_array_equal(proprio, seen[1])


def test_encoding_of_all_frames_in_mixed_precision_is_close_to_float32(
    model: WorldModel, seen
) -> None:
    with torch.inference_mode():
        exact = model.encode(*seen).numpy()
    fast, _ = encode_frames(model, *seen, batch=7)
    assert np.abs(fast - exact).max() < 0.05 * exact.std()


def test_the_latent_depends_on_the_image_and_on_proprioception(model: WorldModel, seen) -> None:
    pixels, proprio = seen
    with torch.inference_mode():
        z = model.encode(pixels[:1], proprio[:1])
        assert not torch.allclose(z, model.encode(pixels[5:6], proprio[:1]), atol=1e-3)
        assert not torch.allclose(z, model.encode(pixels[:1], proprio[5:6]), atol=1e-3)


def test_the_latent_depends_on_all_corners_of_the_image(model: WorldModel, seen) -> None:
    pixels, proprio = np.repeat(seen[0][:1], 5, axis=0), np.repeat(seen[1][:1], 5, axis=0)
    for image, (row, column) in zip(pixels[1:], itertools.product((0, -1), (0, -1)), strict=True):
        image[row, column] ^= 255
    with torch.inference_mode():
        z = model.encode(pixels, proprio)
    assert (torch.cdist(z, z) + torch.eye(5)).min() > 1e-5


@pytest.mark.parametrize(
    ('pixels', 'proprio', 'message'),
    [
        (np.zeros((1, 8, 16, 3), np.uint8), np.zeros((1, 8)), r'expected \(B, 16, 16, 3\) uint8'),
        (np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 8)), 'uint8'),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 7)), r'x_joint.*got \(1, 7\)'),
    ],
)
def test_inputs_that_do_not_match_the_contract_are_refused(
    model: WorldModel, pixels, proprio, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(pixels, proprio)


def test_rollout_equals_a_loop_of_predictions(model: WorldModel) -> None:
    z, z_prev = torch.randn(2, 3, model.latent_dim).unbind(0)
    actions = torch.rand(3, 4, model.block_width) * 2 - 1
    rolled = model.rollout(z, z_prev, actions)
    previous, present = z_prev, z
    for step in range(4):
        previous, present = present, model.predict(present, previous, actions[:, step])
        torch.testing.assert_close(rolled[:, step], present, atol=1e-4, rtol=1e-4)


def test_a_rollout_does_not_depend_on_the_other_candidates(model: WorldModel) -> None:
    z, z_prev = torch.randn(2, 5, model.latent_dim).unbind(0)
    actions = torch.rand(5, 3, model.block_width)
    together = model.rollout(z, z_prev, actions)
    alone = model.rollout(z[2:3], z_prev[2:3], actions[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


def test_effective_rank_counts_directions_and_sees_collapse() -> None:
    rng = np.random.default_rng(0)
    full = rng.standard_normal((4000, 8)).astype(np.float32)
    assert effective_rank(full) == pytest.approx(8.0, rel=0.01)
    assert effective_rank(full * np.array([1, 1, 1, 0, 0, 0, 0, 0])) == pytest.approx(3, rel=0.01)
    assert effective_rank(np.ones((50, 8), np.float32)) == 1.0


def test_linear_r2_is_one_for_a_linear_target_and_zero_for_noise() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3000, 4)).astype(np.float32)
    linear = (z @ rng.standard_normal((4, 3)) + 1.0).astype(np.float32)
    noise = rng.standard_normal((3000, 3)).astype(np.float32)
    first, last = slice(0, 2000), slice(2000, None)
    assert linear_r2((z[first], linear[first]), (z[last], linear[last])) > 0.999
    assert abs(linear_r2((z[first], noise[first]), (z[last], noise[last]))) < 0.05


GOOD = {'mse': [0.01], 'persistence_mse': [0.1], 'shuffled_mse': 0.1, 'effective_rank': 40.0}


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'mse': [0.03]}, 'persistence'),
        ({'shuffled_mse': 0.015}, 'ignores actions'),
        ({'effective_rank': 9.0}, 'collapse'),
        ({'shuffled_mse': float('nan')}, 'NaN'),
    ],
)
def test_each_gate_catches_its_fault(change: dict, word: str) -> None:
    assert failed_gates(GOOD, latent_dim=64) == []
    (only,) = failed_gates(GOOD | change, latent_dim=64)
    assert word in only


def test_a_probe_reads_positions_from_a_nonlinear_latent() -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(-0.3, 0.3, (3000, 3)).astype(np.float32)
    mixing = rng.standard_normal((3, 16))
    latents = np.tanh(positions @ mixing * 2).astype(np.float32)
    probe = fit_probe(latents[:2000], positions[:2000], seed=0, steps=150)
    few = fit_probe(latents[:20], positions[:20], seed=0, steps=150)
    error = position_error_cm(probe, latents[2000:], positions[2000:])
    worse = position_error_cm(few, latents[2000:], positions[2000:])
    assert error['median_cm'] < 2.0
    assert error['median_cm'] < 0.6 * worse['median_cm']


def test_a_probe_predicts_larger_errors_where_noise_is_larger() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(6000, 8)).astype(np.float32)
    sigma = np.where(latents[:, 7:] > 1.0, 0.05, 0.004)
    noise = sigma * rng.normal(size=(6000, 3))
    positions = (0.3 * np.tanh(latents[:, :3]) + noise).astype(np.float32)
    probe = fit_probe(latents[:3000], positions[:3000], seed=0, steps=250)
    fit_covariance(probe, latents[:3000], positions[:3000], seed=0, steps=600)
    calibrate_covariance(probe, latents[3000:4500], positions[3000:4500])
    assert 0.87 <= coverage(probe, latents[4500:], positions[4500:]) <= 0.93
    with torch.inference_mode():
        factor = probe.precision_factor(torch.from_numpy(latents[4500:]))
        root = torch.linalg.inv(factor) * probe.error_scale
        covariance = (root @ root.mT).numpy()
        rms = probe.rms(torch.from_numpy(latents[4500:])).numpy()
    spread = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(rms, spread, rtol=1e-4)
    is_unsure = latents[4500:, 7] > 1.2
    assert np.median(spread[is_unsure]) > 5 * np.median(spread[latents[4500:, 7] < 0.8])
    np.testing.assert_allclose(covariance, np.swapaxes(covariance, 1, 2), atol=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > 0.0
