"""LeWorldModel against numbers of its authors' package, and what must hold of it.

The numbers are stored (test/data/make_lewm_reference.py); test_lewm_parity.py compares with the
package itself, where it is installed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import lewm_reference as reference
import synthetic
from jepa_arm.config import ConfigError, LewmConfig, ModelFile, PlannerConfig, load, to_dict
from jepa_arm.config import from_dict as config_from_dict
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import LatentGoal
from jepa_arm.model.checkpoint import build_world_model
from jepa_arm.model.lewm.networks import LeWM, LeWorldModel, normalise_images
from jepa_arm.model.sigreg import sigreg
from jepa_arm.model.world_model import Normaliser
from jepa_arm.planning.costs.latent_distance import latent_distance
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.planner import Planner
from jepa_arm.planning.rollout import StartState
from jepa_arm.training.encoding import encode_frames

NORMALISER = Normaliser(0.4, 0.2, (0.0,) * 8, (1.0,) * 8)
PUBLISHED = load(ModelFile, config_path('model/lewm.yaml'))


@pytest.fixture(scope='module', autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def network() -> LeWM:
    assert isinstance(PUBLISHED.model, LewmConfig)
    model = LeWM(PUBLISHED.model, reference.BLOCK_WIDTH).eval()
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    model.load_state_dict(reference.weights(shapes))
    return model


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    with np.load(reference.FILE) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if k != 'inventory'}


@pytest.fixture(scope='module')
def embeddings(network: LeWM) -> torch.Tensor:
    pixels = [normalise_images(torch.from_numpy(image)[None], 224) for image in reference.images()]
    return network.embed(torch.cat(pixels))


def assert_same(value: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)


def test_tensor_names_and_shapes_match_the_released_files(network: LeWM) -> None:
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert len(shapes) == 303
    assert sum(v.numel() for v in network.state_dict().values()) == 18_042_672
    listed = hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()
    with np.load(reference.FILE) as file:
        assert listed == str(file['inventory'])


def test_embeddings_match_the_published_ones_at_any_image_size(embeddings, published) -> None:
    assert_same(embeddings, published['embeddings'])


def test_teacher_forced_predictions_and_loss_match_the_published_ones(
    network: LeWM, published
) -> None:
    window, actions = reference.latents(4, 4), reference.actions(4, 3)
    predicted = network.predict_next(window[:, :3], actions)
    assert_same(predicted[:1], published['teacher_forced'])
    loss = LeWorldModel.prediction_errors(network, window, actions)[1]  # type: ignore[arg-type]
    assert_same(loss, published['prediction_loss'])


def test_rollouts_match_the_published_ones_with_and_without_history(
    network: LeWM, embeddings, published
) -> None:
    rolled = network.rollout_history(
        embeddings[:1, None].expand(8, -1, -1), reference.actions(8, 5)
    )
    assert_same(rolled[:2], published['rollout'])
    rolled = network.rollout_history(embeddings[None, :3], reference.actions(1, 7))
    assert_same(rolled, published['rollout_with_history'])


def test_cem_costs_match_the_published_ones(network: LeWM, embeddings, published) -> None:
    """The published cost is the summed squared error of the last latent."""
    rolled = network.rollout_history(
        embeddings[:1, None].expand(8, -1, -1), reference.actions(8, 5)
    )
    costs = network.latent_dim * latent_distance(rolled[:, -1:], embeddings[1:2])
    torch.testing.assert_close(costs, published['costs'], atol=1e-4, rtol=1e-6)


def test_sigreg_matches_the_published_one_for_the_same_projections(published) -> None:
    generator = torch.Generator().manual_seed(reference.SIGREG_SEED)
    z = reference.latents(4, 16)
    value = sigreg(z, reference.SIGREG_PROJECTIONS, reference.SIGREG_KNOTS, generator)
    assert_same(value, published['sigreg'])


@pytest.fixture
def model() -> LeWorldModel:
    torch.manual_seed(0)
    model = build_world_model(synthetic.LEWM, synthetic.CONTRACT, NORMALISER)
    assert isinstance(model, LeWorldModel)
    for block in model.predictor.transformer['layers']:  # it starts as the identity
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=1.0)
    torch.nn.init.normal_(model.action_encoder.embed[2].weight)
    return model.eval()


def test_predictions_do_not_depend_on_later_latents(model: LeWorldModel) -> None:
    z, actions = torch.randn(2, 3, model.latent_dim), torch.rand(2, 3, model.block_width)
    before = model.predict_next(z, actions)
    z[:, 2], actions[:, 2] = torch.randn(2, model.latent_dim), 0.0
    after = model.predict_next(z, actions)
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-6, rtol=0)
    assert not torch.allclose(after[:, 2], before[:, 2], atol=1e-2)


def test_a_rollout_is_a_loop_of_predictions_over_the_last_latents(model: LeWorldModel) -> None:
    z, actions = torch.randn(2, model.latent_dim), torch.rand(2, 5, model.block_width)
    rolled = model.rollout(z, z, actions)
    known = [z]
    for step in range(5):
        first = max(0, step + 1 - synthetic.LEWM.history)
        seen = torch.stack(known[first:], 1)
        known.append(model.predict_next(seen, actions[:, first : step + 1])[:, -1])
        torch.testing.assert_close(rolled[:, step], known[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.predict(z, z, actions[:, 0]), rolled[:, 0])


def test_encoding_checks_the_contract_and_ignores_joints(model: LeWorldModel) -> None:
    pixels, proprio = synthetic.observations(synthetic.episode(np.random.default_rng(0), 8))
    z = model.encode(pixels, proprio)
    torch.testing.assert_close(model.encode(pixels, 0.0 * proprio), z, atol=0, rtol=0)
    assert not torch.allclose(z[0], z[5], atol=1e-3)
    fast, _ = encode_frames(model, pixels, proprio, batch=3)
    assert np.abs(fast - z.numpy()).max() < 0.05 * z.std()
    with pytest.raises(ValueError, match=r'expected \(B, 16, 16, 3\) uint8'):
        model.encode(pixels[:, :8], proprio)


def test_icem_plans_in_lewm(model: LeWorldModel) -> None:
    """A goal that the model says can be reached: iCEM's path is no worse than the known one."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, optimizer='icem', horizon=3, icem_iterations=6, deadline_ms=6e4)
    z, block = torch.randn(1, model.latent_dim), torch.ones(1, 3, model.block_width)
    goal = model.rollout(z, z, block)[:, -1]
    planner = Planner(PlanningModel(model, model.contract, lambda subject, z: z), config)
    plan = planner.plan(StartState(z, z), LatentGoal(goal[0].numpy()))
    known, resting = (latent_distance(model.rollout(z, z, a), goal) for a in (block, 0.0 * block))
    assert plan.cost < 1.02 * float(known) < 0.9 * float(resting)
    blocks = plan.actions.reshape(1, 3, -1)
    rolled = model.rollout(z, z, blocks)[0]
    spread = 0.01  # of bfloat16, in which a machine with a matrix unit for it plans
    torch.testing.assert_close(rolled, plan.latents, atol=spread, rtol=0)
    assert float((rolled[1:] - rolled[:-1]).abs().max()) > 10 * spread


def test_the_training_window_must_be_the_history_plus_one() -> None:
    values = to_dict(PUBLISHED)
    values['train']['window'] = 5
    with pytest.raises(ConfigError, match=r'train\.window: expected 4 frames .*, got 5'):
        config_from_dict(ModelFile, values)


def test_an_unknown_key_is_reported_for_the_intended_architecture() -> None:
    values = to_dict(PUBLISHED)
    values['model']['channels'] = values['model'].pop('action_channels')
    with pytest.raises(ConfigError, match=r'unknown key model\.channels; .*action_channels'):
        config_from_dict(ModelFile, values)
