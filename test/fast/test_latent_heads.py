"""Heads that are told goals as latents: what they learn from, and that the planner uses them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.config import ArmConfig, ModelFile, PlannerConfig, SimConfig, load
from jepa_arm.goals import LatentGoal, PositionGoal
from jepa_arm.motion import make_contract
from jepa_arm.planning.heads import Heads
from jepa_arm.planning.planner import Planner
from jepa_arm.resources import config_path
from jepa_arm.training.hindsight import train_actor, train_value
from jepa_arm.training.latent_hindsight import LatentHindsight

LENGTHS = np.array([13, 31, 3])
STARTS = np.array([0, 13, 44])
SKIP = 5
LINE = 40


def hindsight(latents: np.ndarray, actions: np.ndarray) -> LatentHindsight:
    return LatentHindsight(latents, actions, STARTS, LENGTHS, SKIP, np.random.default_rng(0))


@pytest.fixture
def numbered() -> LatentHindsight:
    """Latents and actions of a frame tell its number."""
    number = np.arange(LENGTHS.sum(), dtype=np.float32)[:, None]
    return hindsight(number, number)


def ends(now: Tensor) -> Tensor:
    return torch.where(now < 13, 12.0, 43.0)


def test_goals_lie_whole_model_steps_ahead_in_the_same_episode(numbered: LatentHindsight) -> None:
    rows = numbered.sample(4000, max_steps=20, random_goals=0.0)
    now, goal = rows['z'][:, 0], rows['goal'][:, 0]
    assert torch.equal(goal - now, rows['remaining'])
    assert torch.all(rows['remaining'] % SKIP == 0) and torch.all(goal <= ends(now))
    assert set(rows['remaining'].tolist()) == {5.0, 10.0, 15.0, 20.0}
    torch.testing.assert_close(rows['action'], now[:, None] + torch.arange(float(SKIP)))
    assert torch.equal(rows['z_next'][:, 0], now + SKIP)
    start = torch.where(now < 13, 0.0, 13.0)
    assert torch.equal(rows['z_prev'][:, 0], torch.maximum(now - SKIP, start))


def test_a_goal_is_reached_in_its_own_frame_alone(numbered: LatentHindsight) -> None:
    rows = numbered.sample(8000, max_steps=20, random_goals=0.5)
    is_there = (rows['goal'] == rows['z'])[:, 0]
    assert torch.equal(numbered.is_reached(rows, 0.01), is_there)
    assert 0.05 < is_there.float().mean() < 0.5


def test_actor_and_value_learn_a_line() -> None:
    """Latents are places on a line; an action of 1 or -1 moves by 0.2 in each control step."""
    loaded = load(ModelFile, config_path('model/compact.yaml')).heads
    assert loaded is not None
    config = replace(
        loaded, actor_steps=40, value_steps=60, batch=128, learning_rate=3e-3, max_steps=20
    )
    rng = np.random.default_rng(1)
    actions = rng.choice([-1.0, 1.0], (200, LINE // 4)).repeat(4, 1).astype(np.float32)
    places = np.cumsum(np.concatenate([np.zeros((200, 1)), 0.2 * actions], 1), 1)[:, :LINE]
    data = LatentHindsight(
        places.reshape(-1, 1).astype(np.float32),
        actions.reshape(-1, 1),
        LINE * np.arange(200),
        np.full(200, LINE),
        2,
        np.random.default_rng(0),
    )
    torch.manual_seed(0)
    heads = Heads(1, 2, 20, of_latents=True)
    train_actor(heads, data, config, progress=False)
    train_value(heads, data, config, progress=False)
    ways = {'z': torch.zeros(2, 1), 'goal': torch.tensor([[0.8], [-0.8]])}
    with torch.inference_mode():
        likeliest = torch.zeros(2, heads.actor.modes), torch.zeros(2, heads.actor.block)
        block = heads.actor.pick(
            data.features(ways), torch.zeros(2, 1), torch.full((2,), 0.2), *likeliest
        )
        goals = torch.tensor([[0.0], [1.2], [2.4]])
        values = heads.value(data.features({'z': torch.zeros(3, 1), 'goal': goals}))
    assert torch.all(block[0] > 0.5) and torch.all(block[1] < -0.5)
    assert values[0] > values[1] > values[2]


class PointMass:
    """A latent that is a position: each action block moves it by 0.05 times its sum."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + 0.05 * action_block.view(len(z), 2, 3).sum(1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        return z[:, None] + 0.05 * actions.view(*actions.shape[:2], 2, 3).sum(2).cumsum(1)


@pytest.mark.parametrize('of_latents', [True, False])
def test_heads_propose_and_price_the_kind_of_goal_they_know(
    of_latents: bool, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(loaded, press_weight=0.0, deadline_ms=float('inf'), latent_weight=3.0)
    contract = make_contract(arm_config, sim_config.time)
    torch.manual_seed(0)
    heads = Heads(3, 6, 40, of_latents).eval().requires_grad_(False)

    def read(subject: str, latents: Tensor) -> Tensor:
        return latents

    planner = Planner(PointMass(), read, heads, contract, config)
    origin, place = torch.zeros(1, 3), np.array([0.06, -0.04, 0.02])
    plan = planner.plan(origin, origin, LatentGoal(place))
    local = config.candidates * config.sweeps
    distance = float(((plan.latents - torch.tensor(place)) ** 2).mean())
    if of_latents:
        assert plan.candidates == local and set(plan.terms) == {'latent', 'value'}
        assert plan.terms['latent'] == pytest.approx(3.0 * distance, rel=1e-4)
    else:  # the fallback searches without heads, by the distance alone
        assert plan.candidates > local and plan.terms == pytest.approx({'latent': distance})
        known = planner.plan(origin, origin, PositionGoal('object', place))
        assert 'value' in known.terms
