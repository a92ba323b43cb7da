"""Hindsight goals are true positions later in the same episode; first frames are frequent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa_arm.config import ModelFile, load
from jepa_arm.core.files import config_path
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.training.actor_critic import train_actor, train_value
from jepa_arm.training.hindsight import (
    FIRST_FRAME_REPEATS,
    NEAR_GOAL_STD,
    HindsightSampler,
    Trajectories,
)
from jepa_arm_validation.public_benchmarks.train import LatentHindsightSampler

LENGTHS = np.array([12, 30])
STARTS = np.array([0, 12])
FRAMES = int(LENGTHS.sum())
SKIP = 2


@pytest.fixture
def sampler() -> HindsightSampler:
    """Return a sampler of frames whose latents, actions and positions are the frame's number."""
    number = np.arange(FRAMES, dtype=np.float32)
    tip = np.repeat(number[:, None], 3, axis=1)
    positions = np.stack([tip, 1000.0 + tip])
    trajectories = Trajectories(number[:, None], number[:, None], STARTS, LENGTHS, SKIP)
    return HindsightSampler(trajectories, positions, positions + 0.5, np.random.default_rng(0))


def test_goals_are_true_positions_later_in_the_same_episode(sampler: HindsightSampler) -> None:
    rows = sampler.sample(4000, max_steps=8, random_goals=0.0)
    now = rows['z'][:, 0]
    goal = rows['goal'][:, 0] - 1000.0 * rows['subject']
    end = torch.where(now < LENGTHS[0], LENGTHS[0] - 1, FRAMES - 1)
    assert torch.all(goal == now + rows['remaining'])
    assert torch.all(goal <= end) and rows['remaining'].max() == 8
    torch.testing.assert_close(rows['read'][:, 0] - 1000.0 * rows['subject'], now + 0.5)


def test_a_transition_holds_the_actions_between_its_latents(sampler: HindsightSampler) -> None:
    rows = sampler.sample(4000, max_steps=8, random_goals=0.5)
    now = rows['z'][:, 0]
    torch.testing.assert_close(rows['action'], torch.stack([now, now + 1], 1))
    torch.testing.assert_close(rows['z_next'][:, 0], now + SKIP)
    start = torch.where(now < LENGTHS[0], 0.0, float(STARTS[1]))
    torch.testing.assert_close(rows['z_prev'][:, 0], torch.maximum(now - SKIP, start))


def test_random_goals_are_near_the_subject_or_anywhere_with_their_true_distance(
    sampler: HindsightSampler,
) -> None:
    rows = sampler.sample(4000, max_steps=8, random_goals=1.0)
    here = (rows['z'] + 1000.0 * rows['subject'][:, None]).expand(-1, 3)
    gap = (rows['goal'] - here).norm(dim=1)
    torch.testing.assert_close(rows['gap'], gap, rtol=1e-3, atol=1e-3)
    near = (gap > 0.0) & (gap < 6 * NEAR_GOAL_STD)
    assert near.float().mean() == pytest.approx(0.5, abs=0.05)
    assert (gap > 20.0).any()
    of_object = near & (rows['subject'] == 1)
    torch.testing.assert_close(rows['goal'][of_object, 2], here[of_object, 2])


def test_the_first_frame_of_an_episode_is_drawn_more_often(sampler: HindsightSampler) -> None:
    now = sampler.sample(20_000, max_steps=8, random_goals=0.0)['z'][:, 0]
    first, second = (now == 12).float().mean(), (now == 13).float().mean()
    assert first / second == pytest.approx(1 + FIRST_FRAME_REPEATS, rel=0.15)


LATENT_STARTS, LATENT_LENGTHS, LATENT_SKIP = np.array([0, 13, 44]), np.array([13, 31, 3]), 5


@pytest.fixture
def latent_sampler() -> LatentHindsightSampler:
    """Return a sampler of frames whose latents and actions are the frame's number."""
    number = np.arange(LATENT_LENGTHS.sum(), dtype=np.float32)[:, None]
    trajectories = Trajectories(number, number, LATENT_STARTS, LATENT_LENGTHS, LATENT_SKIP)
    return LatentHindsightSampler(trajectories, np.random.default_rng(0))


def test_latent_goals_lie_whole_model_steps_ahead_in_the_same_episode(
    latent_sampler: LatentHindsightSampler,
) -> None:
    rows = latent_sampler.sample(4000, max_steps=20, random_goals=0.0)
    now, goal = rows['z'][:, 0], rows['goal'][:, 0]
    assert torch.equal(goal - now, rows['remaining'])
    assert torch.all(goal <= torch.where(now < 13, 12.0, 43.0))
    assert set(rows['remaining'].tolist()) == {5.0, 10.0, 15.0, 20.0}
    torch.testing.assert_close(rows['action'], now[:, None] + torch.arange(float(LATENT_SKIP)))
    assert torch.equal(rows['z_next'][:, 0], now + LATENT_SKIP)
    start = torch.where(now < 13, 0.0, 13.0)
    assert torch.equal(rows['z_prev'][:, 0], torch.maximum(now - LATENT_SKIP, start))


def test_a_latent_goal_is_reached_in_its_own_frame_only(
    latent_sampler: LatentHindsightSampler,
) -> None:
    rows = latent_sampler.sample(8000, max_steps=20, random_goals=0.5)
    is_there = (rows['goal'] == rows['z'])[:, 0]
    assert torch.equal(latent_sampler.is_reached(rows, 0.01), is_there)
    assert 0.05 < is_there.float().mean() < 0.5


def test_actor_and_value_learn_to_move_along_a_line() -> None:
    """Latents are positions on a line, which an action of 1 or -1 changes by 0.2 a step."""
    config = replace(
        load(ModelFile, config_path('model/compact.yaml')).actor_critic,
        **{'actor_steps': 40, 'value_steps': 60, 'batch': 128, 'max_steps': 20},
        learning_rate=3e-3,
    )
    length = 40
    actions = np.random.default_rng(1).choice([-1.0, 1.0], (200, length // 4))
    actions = actions.repeat(4, 1).astype(np.float32)
    path = np.cumsum(np.concatenate([np.zeros((200, 1)), 0.2 * actions], 1), 1)[:, :length]
    trajectories = Trajectories(
        path.reshape(-1, 1).astype(np.float32),
        actions.reshape(-1, 1),
        length * np.arange(200),
        np.full(200, length),
        frame_skip=2,
    )
    sampler = LatentHindsightSampler(trajectories, np.random.default_rng(0))
    torch.manual_seed(0)
    networks = ActorCritic(1, 2, 20, uses_latent_goals=True)
    train_actor(networks, sampler, config)
    train_value(networks, sampler, config)
    goals = torch.tensor([[0.8], [-0.8]])
    features = sampler.features({'z': torch.zeros(2, 1), 'goal': goals})
    mode = torch.zeros(2, networks.actor.modes), torch.zeros(2, networks.actor.block)
    with torch.inference_mode():
        blocks = networks.actor.sample(features, torch.zeros(2, 1), torch.full((2,), 0.2), *mode)
        distances = torch.tensor([[0.0], [1.2], [2.4]])
        values = networks.value(sampler.features({'z': torch.zeros(3, 1), 'goal': distances}))
    assert torch.all(blocks[0] > 0.5) and torch.all(blocks[1] < -0.5)
    assert values[0] > values[1] > values[2]
