"""Hindsight goals are true places of the same episode, and rest at the start is well known."""

import numpy as np
import pytest
import torch

from jepa_arm.training.hindsight import FIRST_FRAMES, MISSED_BY, Hindsight

LENGTHS = np.array([12, 30])
STARTS = np.array([0, 12])
FRAMES = int(LENGTHS.sum())
SKIP = 2


@pytest.fixture
def hindsight() -> Hindsight:
    """Latents, actions, places and readings of a frame all tell its number."""
    number = np.arange(FRAMES, dtype=np.float32)
    places = np.repeat(number[:, None], 3, axis=1)
    truth = np.stack([places, 1000.0 + places])
    return Hindsight(
        latents=number[:, None],
        actions=number[:, None],
        truth=truth,
        reads=truth + 0.5,
        starts=STARTS,
        lengths=LENGTHS,
        frame_skip=SKIP,
        rng=np.random.default_rng(0),
    )


def test_goals_are_true_future_places_of_the_same_episode(hindsight: Hindsight) -> None:
    rows = hindsight.sample(4000, max_steps=8, random_goals=0.0)
    now = rows['z'][:, 0]
    place = rows['goal'][:, 0] - 1000.0 * rows['subject']
    end = torch.where(now < LENGTHS[0], LENGTHS[0] - 1, FRAMES - 1)
    assert torch.all(place == now + rows['remaining'])
    assert torch.all(place <= end) and rows['remaining'].max() == 8
    torch.testing.assert_close(rows['read'][:, 0] - 1000.0 * rows['subject'], now + 0.5)


def test_rows_hold_the_actions_between_their_latents(hindsight: Hindsight) -> None:
    rows = hindsight.sample(4000, max_steps=8, random_goals=0.5)
    now = rows['z'][:, 0]
    torch.testing.assert_close(rows['action'], torch.stack([now, now + 1], 1))
    torch.testing.assert_close(rows['z_next'][:, 0], now + SKIP)
    start = torch.where(now < LENGTHS[0], 0.0, float(STARTS[1]))
    torch.testing.assert_close(rows['z_prev'][:, 0], torch.maximum(now - SKIP, start))


def test_random_goals_are_near_misses_or_anywhere_with_their_true_distance(
    hindsight: Hindsight,
) -> None:
    rows = hindsight.sample(4000, max_steps=8, random_goals=1.0)
    here = (rows['z'] + 1000.0 * rows['subject'][:, None]).expand(-1, 3)
    gap = (rows['goal'] - here).norm(dim=1)
    torch.testing.assert_close(rows['gap'], gap, rtol=1e-3, atol=1e-3)
    near = (gap > 0.0) & (gap < 6 * MISSED_BY)
    assert near.float().mean() == pytest.approx(0.5, abs=0.05)
    assert (gap > 20.0).any()
    of_object = near & (rows['subject'] == 1)
    torch.testing.assert_close(rows['goal'][of_object, 2], here[of_object, 2])


def test_the_first_frame_of_an_episode_is_drawn_more_often(hindsight: Hindsight) -> None:
    now = hindsight.sample(20_000, max_steps=8, random_goals=0.0)['z'][:, 0]
    first, second = (now == 12).float().mean(), (now == 13).float().mean()
    assert first / second == pytest.approx(1 + FIRST_FRAMES, rel=0.15)
