"""Searches find the optimum where it is known, respect limits, and are deterministic."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.config import OPTIMIZERS, ArmConfig, Contract, PlannerConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import Goal, GoalError, LatentGoal, PositionGoal
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.planning.model import PlanningModel, PositionReader
from jepa_arm.planning.objective import PositionObjective, torch_stages
from jepa_arm.planning.planner import Planner, PlanningError
from jepa_arm.planning.rollout import StartState, apply_delay
from jepa_arm.planning.search.noise import coloured_noise
from jepa_arm.planning.search.problem import PlanningProblem
from jepa_arm.planning.search.sampling import MPPI
from jepa_arm.robot.action_space import make_contract
from point_mass import STEP, PointMass, point_mass_model

ORIGIN = torch.zeros(1, 3)
START = StartState(ORIGIN, ORIGIN)
NEAR = PositionGoal('object', np.array([0.06, -0.04, 0.02]))
FAR = PositionGoal('tip', np.array([10.0, 0.0, 0.0]))
SAMPLING = ('icem', 'cem', 'mppi')

MakePlanner = Callable[..., Planner]


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    """Shipped settings; tip and object are one point here, so nothing can be pressed down."""
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    return replace(loaded, deadline_ms=10_000.0, press_weight=0.0)


@pytest.fixture(scope='module')
def contract(arm_config: ArmConfig, sim_config: SimConfig) -> Contract:
    return make_contract(arm_config, sim_config.time)


@pytest.fixture
def make_planner(config: PlannerConfig, contract: Contract) -> MakePlanner:
    """Makes planners with a random actor-critic whose value is not used."""

    def make(**changes: object) -> Planner:
        settings = replace(config, **{'value_weight': 0.0, **changes})
        return Planner(point_mass_model(contract, random_actor_critic()), settings)

    return make


def random_actor_critic() -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(3, 6, 40).eval().requires_grad_(False)


def with_iterations(config: PlannerConfig, optimizer: str, iterations: int) -> PlannerConfig:
    return replace(
        config,
        optimizer=optimizer,
        iterations=iterations,
        icem_iterations=iterations,
        cem=replace(config.cem, iterations=iterations),
        mppi=replace(config.mppi, iterations=iterations),
    )


@pytest.fixture(params=SAMPLING)
def thorough(request: pytest.FixtureRequest, config: PlannerConfig, contract: Contract) -> Planner:
    """A sampling search with enough candidates to come close to the optimum."""
    settings = replace(
        config,
        optimizer=request.param,
        icem_iterations=12,
        candidates=256,
        min_candidates=0,
        elites=20,
        mppi=replace(config.mppi, candidates=256, iterations=20, temperature=0.2),
    )
    return Planner(point_mass_model(contract), settings)


def test_sampling_reaches_a_near_goal(thorough: Planner) -> None:
    plan = thorough.plan(START, NEAR)
    np.testing.assert_allclose(plan.latents[-1], NEAR.position, atol=0.01)


def test_sampling_moves_at_full_speed_towards_a_far_goal(thorough: Planner) -> None:
    assert thorough.plan(START, FAR).actions[:, 0].mean() > 0.9


@pytest.mark.parametrize('goal', [NEAR, FAR, LatentGoal(np.array([0.1, 0.0, 0.0]))])
def test_actions_stay_within_their_range(make_planner: MakePlanner, goal: Goal) -> None:
    plan = make_planner().plan(START, goal)
    assert plan.actions.shape == (10, 3)
    assert plan.actions.abs().max() <= 1.0


def test_the_same_seed_gives_the_same_plan(make_planner: MakePlanner) -> None:
    planner = make_planner()
    first, second = (planner.plan(START, NEAR).actions for _ in range(2))
    planner.reset()
    torch.testing.assert_close(planner.plan(START, NEAR).actions, first, rtol=0, atol=0)
    assert not torch.equal(first, second)


def test_the_warm_start_improves_replanning(make_planner: MakePlanner) -> None:
    planner = make_planner()
    costs = [planner.plan(START, FAR).cost for _ in range(15)]
    assert costs[-1] < costs[0]
    assert max(costs[1:]) <= costs[0] + 0.2


@pytest.mark.parametrize('optimizer', ['local', 'cem', 'mppi'])
def test_more_iterations_never_cost_more(
    optimizer: str, config: PlannerConfig, contract: Contract
) -> None:
    config, costs = replace(config, value_weight=0.0), []
    for iterations in (1, 2, 4, 8):
        settings = with_iterations(config, optimizer, iterations)
        planner = Planner(point_mass_model(contract, random_actor_critic()), settings)
        costs.append(planner.plan(START, NEAR).cost)
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]


@pytest.mark.parametrize('optimizer', ['local', *SAMPLING])
def test_the_sum_of_actions_stays_within_its_bounds(
    optimizer: str, make_planner: MakePlanner
) -> None:
    planner = make_planner(optimizer=optimizer)
    low, high = torch.tensor([-1.0, -0.5, 0.0]), torch.tensor([2.0, 0.5, 0.0])
    start = replace(START, action_bounds=torch.stack([low, high]))
    for _ in range(3):
        sums = planner.plan(start, FAR).actions.cumsum(0)
        assert torch.all(sums >= low - 1e-5) and torch.all(sums <= high + 1e-5)
    assert sums[-1, 0] > 1.5


def test_the_rest_of_a_delayed_action_falls_into_the_next_step() -> None:
    actions = torch.tensor([[[1.0], [0.0], [-0.5]]])
    delayed = torch.tensor([[[0.75], [0.25], [-0.375]]])
    torch.testing.assert_close(apply_delay(actions, 0.25), delayed)
    torch.testing.assert_close(apply_delay(actions, 0.0), actions)
    moved = apply_delay(actions, 1.0, previous_action=torch.tensor([[0.4]]))
    torch.testing.assert_close(moved[0, :, 0], torch.tensor([0.4, 1, 0]))


@pytest.mark.parametrize('delay_fraction', [0.0, 0.6])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_a_plan_predicts_the_effect_of_delayed_actions(
    delay_fraction: float, optimizer: str, make_planner: MakePlanner
) -> None:
    start = replace(START, delay_fraction=delay_fraction)
    plan = make_planner(optimizer=optimizer).plan(start, NEAR)
    moved = STEP * apply_delay(plan.actions[None], delay_fraction)[0].cumsum(0)
    torch.testing.assert_close(plan.latents, moved[1::2], atol=1e-5, rtol=0)


@pytest.mark.parametrize('optimizer', SAMPLING)
def test_an_expired_deadline_still_gives_a_plan(
    optimizer: str, config: PlannerConfig, contract: Contract
) -> None:
    endless = with_iterations(replace(config, deadline_ms=1e-6), optimizer, 10_000)
    began = time.perf_counter()
    plan = Planner(point_mass_model(contract), endless).plan(START, NEAR)
    assert time.perf_counter() - began < 1.0
    assert plan.candidates <= max(config.cem.candidates, config.candidates + 1)


@pytest.mark.parametrize('max_candidates', [8, 24, 32, 40, 50, 64, 100])
def test_the_last_iteration_uses_the_candidates_that_are_left(
    max_candidates: int, config: PlannerConfig, make_planner: MakePlanner
) -> None:
    plan = make_planner().plan(START, NEAR, max_candidates)
    whole = config.candidates
    assert plan.candidates == min(max(max_candidates, whole), 2 * whole)


def test_without_a_deadline_all_iterations_run(make_planner: MakePlanner) -> None:
    plan = make_planner(optimizer='cem', deadline_ms=float('inf')).plan(START, NEAR)
    assert plan.candidates == 300 * 30 + 1  # the last mean is evaluated too


def test_mppi_moves_the_mean_to_the_weighted_average(
    config: PlannerConfig, contract: Contract
) -> None:
    settings = replace(config.mppi, temperature=0.5, std=0.3)
    mppi = MPPI(replace(config, mppi=settings), contract)
    actions = torch.rand(3, 10, 3, generator=torch.Generator().manual_seed(0))
    costs = torch.tensor([1.0, 1.0 + 0.5 * math.log(2.0), math.inf])
    updated = mppi.update(actions, costs)
    torch.testing.assert_close(updated.mean, (2.0 * actions[0] + actions[1]) / 3.0)
    assert torch.equal(updated.std, torch.full((10, 3), 0.3))


def test_the_actor_alone_takes_its_most_likely_action(
    config: PlannerConfig, make_planner: MakePlanner
) -> None:
    planner, actor = make_planner(optimizer='actor'), random_actor_critic().actor
    plan = planner.plan(START, NEAR)
    goal = torch.tensor(NEAR.position, dtype=torch.float32)[None]
    features = torch.cat([ORIGIN, 10.0 * goal, 10.0 * goal, torch.ones(1, 1)], dim=1)
    remaining = torch.tensor([[config.actor.steps / 40]])
    inputs = torch.cat([features, torch.zeros(1, 3), remaining], dim=1)  # at rest
    logits, means, _ = actor.density(inputs)
    block = means[0, logits[0].argmax()].clamp(-1.0, 1.0)
    torch.testing.assert_close(plan.actions[:2], block.view(2, 3))
    assert plan.candidates == 1 and plan.source == 'actor'
    assert torch.equal(planner.plan(START, NEAR).actions, plan.actions)


def score(
    model: PlanningModel,
    config: PlannerConfig,
    goal: PositionGoal,
    latents: Tensor,
    start: Tensor = ORIGIN,
    region: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the costs of rollouts ``latents`` (S, H, D), and the terms."""
    objective = PositionObjective(goal.subject, model, config, region)
    problem = PlanningProblem(
        StartState(start, start),
        objective.goal_tensor(goal),
        objective,
        torch_stages(objective),
    )
    return problem.score(latents, torch.zeros(len(latents), 10, 3))


def with_reader(contract: Contract, std: PositionReader | None = None) -> PlanningModel:
    """Latents (..., 6) hold the tip's setpoint and the position of an object."""

    def read(subject: str, latents: Tensor) -> Tensor:
        return latents[..., :3] if subject == 'tip' else latents[..., 3:]

    return PlanningModel(PointMass(), contract, read, std)


def paths(*tips: tuple[float, float, float]) -> Tensor:
    """Return latents (N, 1, 6) with these setpoints of the tip and an object at the origin."""
    tip = torch.tensor(tips)[:, None]
    return torch.cat([tip, torch.tensor([0.0, 0.0, 0.025]).expand_as(tip)], dim=-1)


def test_pressing_the_object_down_costs_and_pushing_it_from_the_side_does_not(
    contract: Contract,
) -> None:
    config = load(PlannerConfig, config_path('planner.yaml'))
    goal = PositionGoal('object', np.array([0.0, 0.0, 0.025]))
    beside, onto, over = (-0.06, 0.0, 0.02), (0.0, 0.01, 0.04), (0.0, 0.01, 0.10)
    for frame_skip, start, expected in (
        (10**9, onto, [0.0, 0.025, 0.0]),  # the tip follows its setpoint at once
        (1, onto, [0.025, 0.025, 0.025]),  # it follows a model step late
        (1, beside, [0.0, 0.0, 0.0]),
    ):
        time_chain = replace(contract.time, frame_skip=frame_skip)
        model = with_reader(replace(contract, time=time_chain))
        terms = score(model, config, goal, paths(beside, onto, over), paths(start)[:, 0])[1]
        depth = terms['press'] / config.press_weight
        torch.testing.assert_close(depth, torch.tensor(expected), atol=1e-6, rtol=0)


def test_an_object_that_cannot_be_seen_does_not_count_as_at_its_goal(
    config: PlannerConfig, contract: Contract
) -> None:
    """A search once hid the object behind the arm, where it was read as if at the goal."""
    goal = PositionGoal('object', np.array([0.0, 0.0, 0.0]))
    latents = torch.tensor([[[0.03, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])

    def std(subject: str, latents: Tensor) -> Tensor:
        return torch.where(latents[..., 0] > 0.0, 0.0, 0.04)

    model = replace(point_mass_model(contract), position_std=std)
    seen, hidden = score(model, config, goal, latents)[0]
    assert seen == pytest.approx(0.03 * config.distance_weight) and hidden > seen
    tip = PositionGoal('tip', goal.position)
    assert score(model, config, tip, latents)[0][1] == 0.0


def test_an_object_outside_the_region_costs_unless_the_goal_is_there(
    config: PlannerConfig, contract: Contract
) -> None:
    region = torch.tensor([[0.0, 0.0], [0.3, 0.3]])
    latents = torch.tensor([[[0.1, 0.1, 0.0]], [[0.1, -0.02, 0.0]], [[0.1, 0.32, 0.0]]])
    for goal_y, expected in ((0.1, [0.0, 0.02, 0.02]), (0.4, [0.0, 0.02, 0.0])):
        goal = PositionGoal('object', np.array([0.1, goal_y, 0.0]))
        terms = score(point_mass_model(contract), config, goal, latents, region=region)[1]
        outside = terms['region'] / config.region_weight
        torch.testing.assert_close(outside, torch.tensor(expected))


@pytest.mark.parametrize('optimizer', SAMPLING)
def test_a_candidate_that_is_not_finite_is_never_chosen(
    optimizer: str, config: PlannerConfig, contract: Contract
) -> None:
    class PartlyBroken(PointMass):
        def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
            latents = super().rollout(z, z_prev, actions)
            latents[::2] = torch.nan
            return latents

    model = point_mass_model(contract, dynamics=PartlyBroken())
    plan = Planner(model, replace(config, optimizer=optimizer)).plan(START, NEAR)
    assert torch.isfinite(plan.latents).all()


def test_a_start_that_is_not_finite_gives_an_error(make_planner: MakePlanner) -> None:
    with pytest.raises(PlanningError, match='not finite'):
        make_planner().plan(replace(START, z=torch.full((1, 3), torch.nan)), NEAR)


def test_coloured_noise_has_unit_variance_and_is_smooth() -> None:
    generator = torch.Generator().manual_seed(0)
    white = coloured_noise((4000, 10, 3), 0.0, generator)
    red = coloured_noise((4000, 10, 3), 2.0, generator)
    for noise in (white, red):
        torch.testing.assert_close(noise.std((0, 1)), torch.ones(3), atol=0.03, rtol=0)
    assert red.diff(dim=1).std() < 0.7 * white.diff(dim=1).std()


@pytest.mark.parametrize('bad', [np.zeros(2), np.array([0.0, np.nan, 0.0])])
def test_positions_that_are_not_three_finite_numbers_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(GoalError):
        PositionGoal('object', bad)
