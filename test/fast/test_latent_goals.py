"""Goals as latents: the planner uses the actor-critic for the kind of goal it was trained for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa_arm.config import ArmConfig, PlannerConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import LatentGoal, PositionGoal
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.planning.planner import Planner
from jepa_arm.planning.rollout import StartState
from jepa_arm.robot.action_space import make_contract
from point_mass import point_mass_model


@pytest.mark.parametrize('uses_latent_goals', [True, False])
def test_a_goal_of_the_other_kind_is_searched_without_the_actor_critic(
    uses_latent_goals: bool, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(loaded, press_weight=0.0, deadline_ms=float('inf'), latent_weight=3.0)
    contract = make_contract(arm_config, sim_config.time)
    torch.manual_seed(0)
    networks = ActorCritic(3, 6, 40, uses_latent_goals).eval().requires_grad_(False)
    planner = Planner(point_mass_model(contract, networks), config)
    start, position = StartState(*torch.zeros(2, 1, 3)), np.array([0.06, -0.04, 0.02])
    plan = planner.plan(start, LatentGoal(position))
    candidates = config.candidates * config.iterations
    distance = float(((plan.latents - torch.tensor(position)) ** 2).mean())
    if uses_latent_goals:
        assert plan.candidates == candidates and set(plan.terms) == {'latent', 'value'}
        assert plan.terms['latent'] == pytest.approx(3.0 * distance, rel=1e-4)
    else:
        assert plan.candidates > candidates and plan.terms == pytest.approx({'latent': distance})
        assert 'value' in planner.plan(start, PositionGoal('object', position)).terms
