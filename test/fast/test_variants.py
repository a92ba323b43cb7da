"""Variants of the compact world model keep its verbs' promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import synthetic
from jepa_arm.config import PlannerConfig, load
from jepa_arm.data.episodes import EpisodeFile
from jepa_arm.goals import PositionGoal
from jepa_arm.model.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel, before, shift
from jepa_arm.planning.compiled import Compiled
from jepa_arm.planning.costs import Task
from jepa_arm.planning.heads import Heads
from jepa_arm.planning.search import Start, unroll
from jepa_arm.planning.stages import StageCompiler
from jepa_arm.resources import config_path

NORMALISER = Normaliser(0.4, 0.2, (0.1, -0.2) * 4, (0.6, 0.5) * 4)
VARIANTS = {
    'base': {},
    'history_1': {'history': 1},
    'history_3': {'history': 3},
    'direct': {'is_residual': False},
    'image_only': {'sees_joints': False},
    'vit': {'vit': (8, 32, 2, 2)},
    'small': {'image_size': (8, 12)},
    'dropout': {'image_dropout': 0.5},
    'velocity': {'sees_velocity': True},
}
ALL = pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)


def build(changes: dict) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(replace(synthetic.MODEL, **changes), synthetic.CONTRACT, NORMALISER)
    for parameter in model.predictor.parameters():  # the blocks start as the identity
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_velocities_are_those_since_the_frame_before_in_the_same_episode(tmp_path) -> None:
    episodes = EpisodeFile(synthetic.write(tmp_path / 'play.h5', [5, 6]))
    q = np.asarray(episodes.proprio)
    velocity = episodes.proprioception(with_velocity=True)[:, -2:]
    dt = synthetic.CONTRACT.time.control_dt
    np.testing.assert_allclose(velocity[6:], np.diff(q[5:], axis=0) / dt, rtol=1e-5, atol=1e-6)
    assert not velocity[[0, 5]].any()
    np.testing.assert_array_equal(
        episodes.proprioception(), episodes.proprioception(with_velocity=True)[:, :-2]
    )


def seen() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.seen(synthetic.episode(np.random.default_rng(0), 20))


@ALL
def test_errors_of_a_window_are_those_of_plain_loops(changes: dict) -> None:
    model = build(changes)
    z = torch.randn(4, 7, model.latent)
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


def test_the_past_moves_on_by_one() -> None:
    z = torch.arange(12.0).view(1, 6, 2)
    z_prev = before(z, 3, 4, past=2)[:, 0]
    assert z_prev.tolist() == [[4.0, 5.0, 2.0, 3.0]]
    assert shift(z[:, 3], z_prev).tolist() == before(z, 4, 5, past=2)[:, 0].tolist()


@torch.inference_mode()
def test_what_a_variant_does_not_see_changes_nothing() -> None:
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
@pytest.mark.parametrize('name', ['vit', 'small'])
def test_a_variant_of_the_encoder_sees_the_image(name: str) -> None:
    pixels, proprio = seen()
    z = build(VARIANTS[name]).encode(pixels, np.repeat(proprio[:1], len(pixels), axis=0))
    assert z.shape == (20, synthetic.MODEL.latent)
    assert z.std(0).min() > 1e-4


@torch.inference_mode()
def test_an_unseen_image_is_dropped_in_training_only() -> None:
    pixels, proprio = seen()
    model = build(VARIANTS['dropout'])
    torch.testing.assert_close(model.encode(pixels, proprio), model.encode(pixels, proprio))
    torch.nn.init.constant_(model.encoder.unseen, 3.0)
    blind = model.encode_blind(proprio)
    assert not torch.allclose(blind, model.encode(pixels, proprio), atol=1e-3)
    features = []
    model.encoder.fuse.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    model.encoder.train()
    model.encode(pixels, proprio)
    dropped = (features[0][:, : synthetic.MODEL.image_width] == 3.0).all(dim=1)
    assert 0 < dropped.sum() < len(pixels)


@pytest.mark.parametrize('name', ['base', 'history_1', 'history_3', 'direct'])
def test_variants_plan_compiled_as_in_torch(name: str) -> None:
    model = build(VARIANTS[name])
    heads = Heads(model.latent, model.block_width, 40).eval().requires_grad_(False)
    probes = Probes(model.latent).eval().requires_grad_(False)
    config = load(PlannerConfig, config_path('planner.yaml'))
    model.requires_grad_(False)
    goal, z = PositionGoal('object', np.array([0.3, 0.1, 0.0])), torch.randn(1, model.latent)
    task = Task(goal, z, probes.read, heads, config, 0.5, probes.spread)
    stages = StageCompiler(Compiled, model, probes, model.contract, config)(task)
    start = Start(z, torch.randn(1, model.past * model.latent), None)
    skip, width = model.contract.time.frame_skip, model.contract.action_width
    actions = torch.rand(config.candidates, config.horizon * skip, width) * 2 - 1
    inputs = start.z, start.z_prev, actions, *start.bounds(width)
    with torch.inference_mode():
        told, expected = stages.unroll(*inputs), unroll(model, skip, *inputs)
        prices = [replace(task, stages=s).cost(expected[1])[0] for s in (stages, None)]
    torch.testing.assert_close(told[0], expected[0])
    off = (told[1] - expected[1]).square().mean() / expected[1].square().mean()
    assert off < 0.05**2
    assert torch.corrcoef(torch.stack(prices))[0, 1] > 0.99
