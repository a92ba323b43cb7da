"""External planners: searches of other packages behind our ``Optimizer`` interface.

The searches get the same model, start state, bounds and cost as ours and keep their own default
settings. Each takes part twice: with our cost, replanning at every step from the shifted last
plan as our searches do, and as published. Their actions are unbounded, so a candidate is
evaluated as it would be executed: clipped to the bounds.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import Contract, PlannerConfig
from jepa_arm.planning.costs.cost_term import Rollouts
from jepa_arm.planning.objective import LatentObjective, torch_stages
from jepa_arm.planning.search.candidate_evaluator import CandidateEvaluator
from jepa_arm.planning.search.problem import (
    MakeOptimizer,
    Optimizer,
    PlanningProblem,
    SearchBudget,
    Solution,
)

from .comparison import POSITION_COST, ComparedPlanner


class FinalLatentCost:
    """Squared distance from the last latent to the goal latent."""

    name = 'latent'

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the costs (S,) of the candidates."""
        return (rollouts.latents[:, -1] - rollouts.goal).square().sum(-1)


class CostModel:
    """Adapter: an evaluator as the model from which solvers of stable-worldmodel get costs."""

    def __init__(self, evaluator: CandidateEvaluator, width: int) -> None:
        self._evaluator, self._width = evaluator, width

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """Return the costs (1, S) of ``candidates`` (1, S, H, K*A), K actions per model step."""
        actions = candidates[0].reshape(candidates.shape[1], -1, self._width).clamp(-1.0, 1.0)
        return self._evaluator.evaluate(actions, ['search'] * len(actions))[1][None]


class StableWorldModelSearch:
    """Adapter: a solver of ``stable_worldmodel`` as an ``Optimizer``."""

    def __init__(self, solver: str, config: PlannerConfig, contract: Contract) -> None:
        from gymnasium.spaces import Box
        from stable_worldmodel import solver as solvers

        self._skip, self._width = contract.time.frame_skip, contract.action_width
        self._solver = getattr(solvers, solver)(model=None)
        bounds = np.ones((1, self._width), dtype=np.float32)
        self._solver.configure(
            action_space=Box(-bounds, bounds),
            n_envs=1,
            config=SimpleNamespace(horizon=config.horizon, action_block=self._skip),
        )

    @torch.inference_mode()
    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the plan of the solver, which does not support a deadline."""
        evaluator, first = CandidateEvaluator(problem, budget), None
        self._solver.model = CostModel(evaluator, self._width)
        self._solver.torch_gen = generator
        if problem.warm_start is not None:
            first = problem.warm_start.reshape(1, -1, self._skip * self._width)
        with contextlib.redirect_stdout(io.StringIO()):  # the solver prints the time of each plan
            found = self._solver.solve({'z': problem.start.z}, init_action=first)
        plan = found['actions'].reshape(1, -1, self._width).clamp(-1.0, 1.0)
        return to_solution(problem, plan, evaluator.candidates)


class TorchWorldSearch:
    """Adapter: the CEM of ``torch_world`` as an ``Optimizer``."""

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        from torch_world.planning import CEM

        self._width = contract.action_width
        block = contract.time.frame_skip * self._width
        self._cem = CEM(config.horizon, block, bounds=(-1.0, 1.0))

    @torch.inference_mode()
    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the plan of the CEM, which supports neither a deadline nor a warm start."""
        evaluated: list[Tensor] = []  # actions of the latest rollout

        def rollout(z: Tensor, blocks: Tensor) -> Tensor:
            actions = blocks.reshape(len(blocks), -1, self._width)
            actions, latents = problem.roll_out(actions)
            evaluated[:] = [actions]
            return torch.cat([z, latents], 1)

        def cost(latents: Tensor, goal: Tensor) -> Tensor:
            return problem.score(latents[:, 1:], evaluated[0])[0]

        model: Any = SimpleNamespace(rollout=rollout, cost=cost)
        z = problem.start.z[:, None]
        blocks = self._cem(model, z, torch.zeros(1, 1), generator=generator)
        count = self._cem.num_samples * self._cem.iterations
        return to_solution(problem, blocks.reshape(1, -1, self._width), count)


class PublishedProtocol:
    """Search run as in the publication of LeWorldModel (arXiv:2603.19312).

    The goal is the latent of the goal image, no plan has a warm start, and a whole plan is
    executed before the next one is made. A cost on the last latent alone needs that: replanning at
    every step would postpone the arrival for ever.
    """

    def __init__(self, search: Optimizer, config: PlannerConfig) -> None:
        self._search, self._config = search, config
        self._remaining = torch.empty(0)

    @torch.inference_mode()
    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the rest of the last plan, or a new plan if none is left."""
        objective = LatentObjective('latent', problem.objective.model, self._config)
        objective.terms = (FinalLatentCost(),)
        stages = torch_stages(objective)
        warm_start = problem.warm_start
        problem = replace(
            problem, objective=objective, stages=stages, warm_start=None, obstacle_cost=None
        )
        if warm_start is None or not len(self._remaining):
            found = self._search.solve(problem, budget, generator)
            self._remaining = found.actions[1:]
            return found
        plan = torch.zeros_like(warm_start)
        plan[: len(self._remaining)] = self._remaining
        self._remaining = self._remaining[1:]
        return to_solution(problem, plan[None], 0)


def to_solution(problem: PlanningProblem, plan: Tensor, candidates: int) -> Solution:
    """Convert the ``plan`` (1, T, A) of another package's search to our ``Solution``.

    Args:
        problem: problem that the plan solves; evaluates the plan's cost.
        plan: actions in [-1, 1].
        candidates: number of action sequences that the search evaluated.
    """
    evaluator = CandidateEvaluator(problem, SearchBudget(float('inf')))
    evaluator.evaluate(plan, ['search'])
    return replace(evaluator.solution(), candidates=candidates)


def as_published(make: MakeOptimizer) -> MakeOptimizer:
    """Return a factory that wraps the searches made by ``make`` in the ``PublishedProtocol``."""
    return lambda config, contract: PublishedProtocol(make(config, contract), config)


PUBLISHED_COST = 'published: last latent to goal latent, whole plans executed'
SWM = 'stable-worldmodel'


def with_both_costs(
    name: str, title: str, make: MakeOptimizer, package: str
) -> tuple[ComparedPlanner, ComparedPlanner]:
    """Return two compared planners: a search with our cost, and the same search as published."""
    published = as_published(make)
    return (
        ComparedPlanner(name, title, POSITION_COST, make, package=package),
        ComparedPlanner(f'{name}-latent', title, PUBLISHED_COST, published, True, package),
    )


EXTERNAL_PLANNERS = (
    *with_both_costs('swm-cem', 'CEM', partial(StableWorldModelSearch, 'CEMSolver'), SWM),
    *with_both_costs('swm-icem', 'iCEM', partial(StableWorldModelSearch, 'ICEMSolver'), SWM),
    *with_both_costs('swm-mppi', 'MPPI', partial(StableWorldModelSearch, 'MPPISolver'), SWM),
    *with_both_costs('torch-world-cem', 'CEM', TorchWorldSearch, 'torch-world'),
)
