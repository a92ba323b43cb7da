"""Sizes of the compact world model: each variant encodes, predicts and plans as specified."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import synthetic
from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel, shift_history, stack_history
from jepa_arm.planning.backends.openvino_function import OpenVINOFunction
from jepa_arm.planning.backends.stage_compiler import StageCompiler
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.objective import PositionObjective, torch_stages
from jepa_arm.planning.rollout import StartState

NORMALISER = Normaliser(0.4, 0.2, (0.1, -0.2) * 4, (0.6, 0.5) * 4)
VARIANTS = {
    'base': {},
    'history_1': {'history': 1},
    'history_3': {'history': 3},
    'image_only': {'uses_proprioception': False},
    'small': {'image_size': (8, 12)},
}
ALL = pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)


def build(changes: dict) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(replace(synthetic.MODEL, **changes), synthetic.CONTRACT, NORMALISER)
    for parameter in model.predictor.parameters():  # the blocks start as the identity
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def seen() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.observations(synthetic.episode(np.random.default_rng(0), 20))


@ALL
def test_prediction_errors_equal_those_of_plain_loops(changes: dict) -> None:
    model = build(changes)
    z = torch.randn(4, 7, model.latent_dim)
    actions = torch.rand(4, 6, model.block_width) * 2 - 1
    past = model.past
    open_loop, one_step = [], []
    known = [z[:, t] for t in range(past + 1)]
    for t in range(past, 6):
        history = torch.cat([known[t - ago] for ago in range(1, past + 1)], dim=-1)
        known.append(model.predict(known[t], history, actions[:, t]))
        open_loop.append((known[-1] - z[:, t + 1]).square().mean())
        true = torch.cat([z[:, t - ago] for ago in range(1, past + 1)], dim=-1)
        one_step.append(
            (model.predict(z[:, t], true, actions[:, t]) - z[:, t + 1]).square().mean()
        )
    found = model.prediction_errors(z, actions)
    torch.testing.assert_close(found[0], torch.stack(open_loop).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], torch.stack(one_step).mean(), rtol=1e-4, atol=1e-5)


def test_history_shifts_by_one_step() -> None:
    z = torch.arange(12.0).view(1, 6, 2)
    z_prev = stack_history(z, 3, 4, past=2)[:, 0]
    assert z_prev.tolist() == [[4.0, 5.0, 2.0, 3.0]]
    assert shift_history(z[:, 3], z_prev).tolist() == stack_history(z, 4, 5, past=2)[:, 0].tolist()


@torch.inference_mode()
def test_inputs_that_a_variant_ignores_do_not_change_its_output() -> None:
    pixels, proprio = seen()
    image_only = build(VARIANTS['image_only'])
    one, other = (image_only.encode(pixels[:1], proprio[k : k + 1]) for k in (0, 5))
    torch.testing.assert_close(one, other)
    z, z_prev, actions = torch.randn(2, 8), torch.randn(2, 8), torch.rand(2, 4)
    short = build(VARIANTS['history_1'])
    torch.testing.assert_close(
        short.predict(z, z_prev, actions), short.predict(z, torch.zeros(2, 8), actions)
    )
    long = build(VARIANTS['history_3'])
    older = torch.cat([z_prev, torch.randn(2, 8)], dim=-1)
    same = torch.cat([z_prev, z_prev], dim=-1)
    assert not torch.allclose(long.predict(z, older, actions), long.predict(z, same, actions))


@torch.inference_mode()
def test_a_downsampled_image_still_changes_the_latent() -> None:
    pixels, proprio = seen()
    z = build(VARIANTS['small']).encode(pixels, np.repeat(proprio[:1], len(pixels), axis=0))
    assert z.shape == (20, synthetic.MODEL.latent_dim)
    assert z.std(0).min() > 1e-4


@pytest.mark.parametrize(
    'name',
    [
        'history_3',
        *(pytest.param(name, marks=pytest.mark.extended) for name in ('base', 'history_1')),
    ],
)
def test_compiled_stages_of_each_size_agree_with_torch(name: str) -> None:
    model = build(VARIANTS[name]).requires_grad_(False)
    networks = ActorCritic(model.latent_dim, model.block_width, 40).eval().requires_grad_(False)
    probes = Probes(model.latent_dim).eval().requires_grad_(False)
    config = load(PlannerConfig, config_path('planner.yaml'))
    planning_model = PlanningModel(
        model, model.contract, probes.read, probes.expected_error, networks
    )
    objective = PositionObjective('object', planning_model, config, None)
    reference = torch_stages(objective)
    compiled = StageCompiler(OpenVINOFunction, model, probes, config)(objective)
    z, z_prev = torch.randn(1, model.latent_dim), torch.randn(1, model.past * model.latent_dim)
    start, width = StartState(z, z_prev), model.contract.action_width
    steps = config.horizon * model.contract.time.frame_skip
    candidates = torch.rand(config.candidates, steps, width) * 2 - 1
    inputs = start.rollout_state(width), candidates, start.action_limits(width)
    goal = objective.goal_tensor(PositionGoal('object', np.array([0.3, 0.1, 0.0])))
    with torch.inference_mode():
        actions, latents = compiled.rollout(*inputs)
        expected_actions, expected_latents = reference.rollout(*inputs)
        costs = [
            stages.cost_terms(z, expected_latents, goal)[0].sum(0)
            for stages in (compiled, reference)
        ]
    torch.testing.assert_close(actions, expected_actions)
    error = (latents - expected_latents).square().mean() / expected_latents.square().mean()
    assert error < 0.05**2
    assert torch.corrcoef(torch.stack(costs))[0, 1] > 0.99
