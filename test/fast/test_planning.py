"""The searches find the optimum where it is known, keep limits, and stay deterministic."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.config import OPTIMIZERS, ArmConfig, PlannerConfig, SimConfig, load
from jepa_arm.goals import Goal, GoalError, LatentGoal, PositionGoal
from jepa_arm.motion import make_contract
from jepa_arm.planning.costs import Task
from jepa_arm.planning.heads import Heads
from jepa_arm.planning.noise import coloured_noise
from jepa_arm.planning.planner import Planner, PlanningError
from jepa_arm.planning.sampling import MPPI, Gaussian
from jepa_arm.planning.search import effect
from jepa_arm.resources import config_path

STEP = 0.05


class PointMass:
    """A latent that is a position: each action block moves it by STEP times its sum."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + STEP * action_block.view(len(z), 2, 3).sum(1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        moves = STEP * actions.view(*actions.shape[:2], 2, 3).sum(2)
        return z[:, None] + moves.cumsum(1)


def read(subject: str, latents: Tensor) -> Tensor:
    return latents[..., :3]


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    """Tip and object are one here: nothing is pressed down."""
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    return replace(loaded, deadline_ms=10_000.0, press_weight=0.0)


def make(
    config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig, heads: Heads | None
) -> Planner:
    contract = make_contract(arm_config, sim_config.time)
    return Planner(PointMass(), read, heads, contract, config)


def fine(config: PlannerConfig, optimizer: str) -> PlannerConfig:
    """Enough candidates to come close to the optimum."""
    return replace(
        config,
        optimizer=optimizer,
        icem_sweeps=12,
        candidates=256,
        fewest_candidates=0,
        elites=20,
        mppi=replace(config.mppi, candidates=256, sweeps=20, temperature=0.2),
    )


@pytest.fixture(params=['icem', 'cem', 'mppi'])
def sampling(
    request, config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> Planner:
    return make(fine(config, request.param), arm_config, sim_config, None)


@pytest.fixture
def local(config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig) -> Planner:
    torch.manual_seed(0)
    heads = Heads(latent=3, block=6, max_steps=40).eval().requires_grad_(False)
    return make(replace(config, value_weight=0.0), arm_config, sim_config, heads)


ORIGIN = torch.zeros(1, 3)
NEAR = PositionGoal('object', np.array([0.06, -0.04, 0.02]))
FAR = PositionGoal('tip', np.array([10.0, 0.0, 0.0]))


def test_sampling_reaches_a_near_goal_within_a_step(sampling: Planner) -> None:
    plan = sampling.plan(ORIGIN, ORIGIN, NEAR)
    np.testing.assert_allclose(plan.latents[-1], NEAR.position, atol=0.01)


def test_sampling_goes_all_out_towards_a_far_goal(sampling: Planner) -> None:
    plan = sampling.plan(ORIGIN, ORIGIN, FAR)
    assert plan.actions[:, 0].mean() > 0.9


@pytest.mark.parametrize('goal', [NEAR, FAR, LatentGoal(np.array([0.1, 0.0, 0.0]))])
def test_actions_keep_their_bounds(local: Planner, goal: Goal) -> None:
    plan = local.plan(ORIGIN, ORIGIN, goal)
    assert plan.actions.shape == (10, 3)
    assert plan.actions.abs().max() <= 1.0


def test_same_seed_same_plan(local: Planner) -> None:
    first = local.plan(ORIGIN, ORIGIN, NEAR).actions
    second = local.plan(ORIGIN, ORIGIN, NEAR).actions
    local.reset()
    torch.testing.assert_close(local.plan(ORIGIN, ORIGIN, NEAR).actions, first, rtol=0, atol=0)
    assert not torch.equal(first, second)


def test_replanning_improves_by_the_warm_start(local: Planner) -> None:
    costs = [local.plan(ORIGIN, ORIGIN, FAR).cost for _ in range(15)]
    assert costs[-1] < costs[0]
    assert sorted(costs[1:], reverse=True)[0] <= costs[0] + 0.2


def test_more_sweeps_never_cost_more(
    config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    torch.manual_seed(0)
    heads = Heads(3, 6, 40).eval().requires_grad_(False)
    costs = []
    for sweeps in (1, 2, 4, 8):
        settings = replace(config, sweeps=sweeps, value_weight=0.0)
        planner = make(settings, arm_config, sim_config, heads)
        costs.append(planner.plan(ORIGIN, ORIGIN, NEAR).cost)
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize('optimizer', ['local', 'icem', 'cem', 'mppi'])
def test_plans_keep_to_the_room_that_is_left(
    optimizer: str, config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    torch.manual_seed(0)
    heads = Heads(3, 6, 40).eval().requires_grad_(False)
    settings = replace(config, optimizer=optimizer, value_weight=0.0)
    planner = make(settings, arm_config, sim_config, heads)
    room = torch.tensor([[-1.0, -0.5, 0.0], [2.0, 0.5, 0.0]])
    for _ in range(3):
        place = planner.plan(ORIGIN, ORIGIN, FAR, room).actions.cumsum(0)
        assert torch.all(place >= room[0] - 1e-5) and torch.all(place <= room[1] + 1e-5)
    assert place[-1, 0] > 1.5


def test_a_late_action_does_the_rest_of_its_work_in_the_next_step() -> None:
    actions = torch.tensor([[[1.0], [0.0], [-0.5]]])
    late = torch.tensor([[[0.75], [0.25], [-0.375]]])
    torch.testing.assert_close(effect(actions, 0.25), late)
    torch.testing.assert_close(effect(actions, 0.0), actions)
    before = torch.tensor([[0.4]])
    torch.testing.assert_close(effect(actions, 1.0, before)[0, :, 0], torch.tensor([0.4, 1, 0]))


@pytest.mark.parametrize('late', [0.0, 0.6])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_a_plan_predicts_what_late_actions_do(
    late: float,
    optimizer: str,
    config: PlannerConfig,
    arm_config: ArmConfig,
    sim_config: SimConfig,
) -> None:
    torch.manual_seed(0)
    heads = Heads(3, 6, 40).eval().requires_grad_(False)
    settings = replace(config, optimizer=optimizer, value_weight=0.0)
    plan = make(settings, arm_config, sim_config, heads).plan(ORIGIN, ORIGIN, NEAR, None, late)
    moved = STEP * effect(plan.actions[None], late)[0].cumsum(0)
    torch.testing.assert_close(plan.latents, moved[1::2], atol=1e-5, rtol=0)


@pytest.mark.parametrize('optimizer', ['icem', 'cem', 'mppi'])
def test_a_spent_deadline_still_gives_a_plan(
    optimizer: str, config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    endless = replace(
        config,
        optimizer=optimizer,
        deadline_ms=1e-6,
        icem_sweeps=10_000,
        cem=replace(config.cem, sweeps=10_000),
        mppi=replace(config.mppi, sweeps=10_000),
    )
    planner = make(endless, arm_config, sim_config, None)
    began = time.perf_counter()
    plan = planner.plan(ORIGIN, ORIGIN, NEAR)
    assert time.perf_counter() - began < 1.0
    assert plan.candidates <= max(config.cem.candidates, config.candidates + 1)


@pytest.mark.parametrize('most', [8, 24, 32, 40, 50, 64, 100])
def test_a_budget_that_is_too_small_for_a_whole_sweep_pays_for_a_smaller_one(
    most: int, config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    heads = Heads(3, 6, 40).eval().requires_grad_(False)
    planner = make(config, arm_config, sim_config, heads)
    plan = planner.plan(ORIGIN, ORIGIN, NEAR, most=most)
    assert plan.candidates == min(max(most, config.candidates), 2 * config.candidates)


def test_without_a_deadline_all_sweeps_are_made(
    config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    unhurried = replace(config, optimizer='cem', deadline_ms=float('inf'))
    plan = make(unhurried, arm_config, sim_config, None).plan(ORIGIN, ORIGIN, NEAR)
    assert plan.candidates == 300 * 30 + 1  # the last mean is one more


@pytest.mark.parametrize('optimizer', ['cem', 'mppi'])
def test_a_sampling_sweep_more_never_costs_more(
    optimizer: str, config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    costs = []
    for sweeps in (1, 2, 4, 8):
        settings = replace(
            config,
            optimizer=optimizer,
            cem=replace(config.cem, sweeps=sweeps),
            mppi=replace(config.mppi, sweeps=sweeps),
        )
        costs.append(make(settings, arm_config, sim_config, None).plan(ORIGIN, ORIGIN, NEAR).cost)
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]


def test_mppi_moves_the_mean_to_the_weighted_average(
    config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    mppi = MPPI(PointMass(), replace(config, mppi=replace(config.mppi, temperature=0.5)), 2, 3)
    actions = torch.rand(3, 10, 3, generator=torch.Generator().manual_seed(0))
    around = Gaussian(actions[0], torch.full((10, 3), 0.3), actions[:1])
    costs = torch.tensor([1.0, 1.0 + 0.5 * math.log(2.0), math.inf])
    moved = mppi.update(around, actions, costs)
    torch.testing.assert_close(moved.mean, (2.0 * actions[0] + actions[1]) / 3.0)
    assert torch.equal(moved.std, around.std)


def test_the_actor_alone_answers_with_its_likeliest_action(
    config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    torch.manual_seed(0)
    heads = Heads(3, 6, 40).eval().requires_grad_(False)
    settings = replace(config, optimizer='actor', value_weight=0.0)
    planner = make(settings, arm_config, sim_config, heads)
    plan = planner.plan(ORIGIN, ORIGIN, NEAR)
    task = Task(NEAR, ORIGIN, read, heads, settings, 0.5)
    told = torch.tensor([config.actor.steps / 40])
    logits, mean, _ = heads.actor(task.features(ORIGIN), torch.zeros(1, 3), told)
    block = mean[0, logits[0].argmax()].clamp(-1.0, 1.0)
    torch.testing.assert_close(plan.actions[:2], block.view(2, 3))
    assert plan.candidates == 1 and plan.source == 'actor'
    assert torch.equal(planner.plan(ORIGIN, ORIGIN, NEAR).actions, plan.actions)


def paths(*tips: tuple[float, float, float]) -> Tensor:
    """(N, 1, 6) latents: where the tip is told to be, and an object at the origin."""
    tip = torch.tensor(tips)[:, None]
    return torch.cat([tip, torch.tensor([0.0, 0.0, 0.025]).expand_as(tip)], dim=-1)


def read_both(subject: str, latents: Tensor) -> Tensor:
    return latents[..., :3] if subject == 'tip' else latents[..., 3:]


def test_the_tip_may_push_the_object_from_its_side_but_not_press_it_down() -> None:
    config = load(PlannerConfig, config_path('planner.yaml'))
    goal = PositionGoal('object', np.array([0.0, 0.0, 0.025]))
    beside, onto, over = (-0.06, 0.0, 0.02), (0.0, 0.01, 0.04), (0.0, 0.01, 0.10)
    for lag, start, expected in (
        (0.0, onto, [0.0, 0.025, 0.0]),
        (1.0, onto, [0.025, 0.025, 0.025]),
        (1.0, beside, [0.0, 0.0, 0.0]),
    ):
        task = Task(goal, paths(start)[:, 0], read_both, None, config, lag)
        depth = task.cost(paths(beside, onto, over))[1]['press'] / config.press_weight
        torch.testing.assert_close(depth, torch.tensor(expected), atol=1e-6, rtol=0)


def test_an_object_that_cannot_be_seen_is_not_near_its_goal(config: PlannerConfig) -> None:
    """The search had hidden the object behind the arm, where it was read as if at the goal."""
    goal = PositionGoal('object', np.array([0.0, 0.0, 0.0]))
    latents = torch.tensor([[[0.03, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])

    def spread(subject: str, latents: Tensor) -> Tensor:
        return torch.where(latents[..., 0] > 0.0, 0.0, 0.04)

    seen, hidden = Task(goal, ORIGIN, read, None, config, 0.5, spread).cost(latents)[0]
    assert seen == pytest.approx(0.03 * config.distance_weight) and hidden > seen
    tip = PositionGoal('tip', goal.position)
    assert Task(tip, ORIGIN, read, None, config, 0.5, spread).cost(latents)[0][1] == 0.0


def test_objects_are_kept_where_the_tip_can_go_round_them(config: PlannerConfig) -> None:
    reach = torch.tensor([[0.0, 0.0], [0.3, 0.3]])
    latents = torch.tensor([[[0.1, 0.1, 0.0]], [[0.1, -0.02, 0.0]], [[0.1, 0.32, 0.0]]])
    for goal_y, expected in ((0.1, [0.0, 0.02, 0.02]), (0.4, [0.0, 0.02, 0.0])):
        goal = PositionGoal('object', np.array([0.1, goal_y, 0.0]))
        away = Task(goal, ORIGIN, read, None, config, 0.5, reach=reach).cost(latents)[1]['away']
        torch.testing.assert_close(away / config.away_weight, torch.tensor(expected))


@pytest.mark.parametrize('optimizer', ['icem', 'cem', 'mppi'])
def test_a_nan_candidate_is_never_chosen(
    optimizer: str, config: PlannerConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    class PartlyBroken(PointMass):
        def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
            latents = super().rollout(z, z_prev, actions)
            latents[::2] = torch.nan
            return latents

    contract = make_contract(arm_config, sim_config.time)
    settings = replace(config, optimizer=optimizer)
    planner = Planner(PartlyBroken(), read, None, contract, settings)
    assert torch.isfinite(planner.plan(ORIGIN, ORIGIN, NEAR).latents).all()


def test_a_nan_latent_is_an_error_not_a_plan(local: Planner) -> None:
    with pytest.raises(PlanningError, match='not finite'):
        local.plan(torch.full((1, 3), torch.nan), ORIGIN, NEAR)


def test_coloured_noise_has_unit_variance_and_is_smooth() -> None:
    generator = torch.Generator().manual_seed(0)
    white = coloured_noise(4000, 10, 3, 0.0, generator)
    red = coloured_noise(4000, 10, 3, 2.0, generator)
    for noise in (white, red):
        torch.testing.assert_close(noise.std((0, 1)), torch.ones(3), atol=0.03, rtol=0)
    assert red.diff(dim=1).std() < 0.7 * white.diff(dim=1).std()


@pytest.mark.parametrize('bad', [np.zeros(2), np.array([0.0, np.nan, 0.0])])
def test_goals_that_are_no_place_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(GoalError, match='3 finite numbers'):
        PositionGoal('object', bad)
