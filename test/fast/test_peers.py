"""Searches of other packages find what ours find where the optimum is known.

Needs the extra ``peers``, but for our own CEM used as published.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')

from jepa_arm.comparison import Contender, missing_package, outside_contenders
from jepa_arm.config import ArmConfig, PlannerConfig, SimConfig, load
from jepa_arm.goals import Goal, LatentGoal, PositionGoal
from jepa_arm.motion import make_contract
from jepa_arm.planning.planner import Planner
from jepa_arm.planning.sampling import CEM
from jepa_arm.resources import config_path

STEP = 0.05
PLACE = np.array([0.06, -0.04, 0.02])
ROOM = torch.tensor([[-0.4, -4.0, -4.0], [0.4, 4.0, 4.0]])


class PointMass:
    """A latent that is a position: each action block moves it by STEP times its sum."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + STEP * action_block.view(len(z), 2, 3).sum(1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        moves = STEP * actions.view(*actions.shape[:2], 2, 3).sum(2)
        return z[:, None] + moves.cumsum(1)


PEERS = outside_contenders()
OURS = Contender(
    'cem-latent', 'CEM', '', sys.modules['jepa_arm_peers'].as_published(CEM), is_latent=True
)


@pytest.mark.parametrize('peer', [*PEERS, OURS], ids=lambda peer: peer.name)
def test_a_peer_reaches_a_near_goal_and_keeps_to_the_room(
    peer: Contender, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    if reason := missing_package(peer):
        pytest.skip(reason)
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(loaded, value_weight=0.0, press_weight=0.0, deadline_ms=float('inf'))
    contract = make_contract(arm_config, sim_config.time)
    assert callable(peer.search)

    def read(subject: str, latents: Tensor) -> Tensor:
        return latents[..., :3]

    planner = Planner(PointMass(), read, None, contract, config, optimizer=peer.search)
    origin = torch.zeros(1, 3)

    def goal(x: float) -> Goal:
        place = PLACE + [x, 0.0, 0.0]
        return LatentGoal(place) if peer.is_latent else PositionGoal('object', place)

    near = planner.plan(origin, origin, goal(0.0))
    assert near.candidates in (3000, 9000, 9001)
    # MPPI does not narrow its noise, and a cost in squared metres is small beside its temperature
    if 'mppi' not in peer.name:
        np.testing.assert_allclose(near.latents[-1], PLACE, atol=0.01)
    rest = planner.plan(origin, origin, goal(0.0))
    if peer.is_latent:  # carries out its whole plan
        assert rest.candidates == 0
        torch.testing.assert_close(rest.actions[:-1], near.actions[1:], rtol=0, atol=1e-6)
    else:
        assert rest.candidates == near.candidates
    planner.reset()
    again = planner.plan(origin, origin, goal(0.0))
    torch.testing.assert_close(again.actions, near.actions, rtol=0, atol=0)
    planner.reset()
    far = planner.plan(origin, origin, goal(5.0), ROOM).actions
    assert far.abs().max() <= 1.0 and far.cumsum(0)[:, 0].max() <= 0.4 + 1e-5
