"""External searches find the known optimum of a point mass within the bounds.

They need the extra ``peers``; our own CEM under the published protocol does not.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')

from jepa_arm.config import ArmConfig, PlannerConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import Goal, LatentGoal, PositionGoal
from jepa_arm.planning.planner import Planner
from jepa_arm.planning.rollout import StartState
from jepa_arm.planning.search.sampling import CEM
from jepa_arm.robot.action_space import make_contract
from jepa_arm_validation.peers.comparison import ComparedPlanner, missing_package
from jepa_arm_validation.peers.external_planners import EXTERNAL_PLANNERS, as_published
from point_mass import point_mass_model

GOAL = np.array([0.06, -0.04, 0.02])
BOUNDS = torch.tensor([[-0.4, -4.0, -4.0], [0.4, 4.0, 4.0]])


OWN_AS_PUBLISHED = ComparedPlanner('cem-latent', 'CEM', '', as_published(CEM), is_latent=True)


@pytest.mark.parametrize(
    'peer', [*EXTERNAL_PLANNERS, OWN_AS_PUBLISHED], ids=lambda peer: peer.name
)
def test_an_external_search_reaches_a_near_goal_and_respects_the_bounds(
    peer: ComparedPlanner, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    if reason := missing_package(peer):
        pytest.skip(reason)
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(loaded, value_weight=0.0, press_weight=0.0, deadline_ms=float('inf'))
    contract = make_contract(arm_config, sim_config.time)
    assert callable(peer.search)

    planner = Planner(point_mass_model(contract), config, optimizer=peer.search)
    start = StartState(*torch.zeros(2, 1, 3))

    def goal(x: float) -> Goal:
        position = GOAL + [x, 0.0, 0.0]
        return LatentGoal(position) if peer.is_latent else PositionGoal('object', position)

    near = planner.plan(start, goal(0.0))
    assert near.candidates in (3000, 9000, 9001)
    # MPPI does not narrow its noise, and a cost in m^2 is small compared with its temperature
    if 'mppi' not in peer.name:
        np.testing.assert_allclose(near.latents[-1], GOAL, atol=0.01)
    rest = planner.plan(start, goal(0.0))
    if peer.is_latent:  # executes its whole plan
        assert rest.candidates == 0
        torch.testing.assert_close(rest.actions[:-1], near.actions[1:], rtol=0, atol=1e-6)
    else:
        assert rest.candidates == near.candidates
    planner.reset()
    again = planner.plan(start, goal(0.0))
    torch.testing.assert_close(again.actions, near.actions, rtol=0, atol=0)
    planner.reset()
    far = planner.plan(replace(start, action_bounds=BOUNDS), goal(5.0)).actions
    assert far.abs().max() <= 1.0 and far.cumsum(0)[:, 0].max() <= 0.4 + 1e-5
