"""Local search: actor proposals and the warm start, refined by sampling around the elites."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa_arm.config import Contract, PlannerConfig
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic
from jepa_arm.planning.objective import ActorQuery

from .candidate_evaluator import CandidateEvaluator
from .noise import coloured_noise
from .problem import PlanningProblem, SearchBudget, Solution


class LocalSearch:
    """Search from actor proposals and the warm start, with coloured noise around the elites.

    The noise ranges from fine to coarse over the candidates, so that one iteration can both find
    a different solution and settle at the goal.
    """

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        self._config, self._contract = config, contract

    @torch.inference_mode()
    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the cheapest sequence found within the budget."""
        config, evaluator = self._config, CandidateEvaluator(problem, budget)
        proposals = config.candidates // 2
        perturbed = self._perturb(problem.warm_start, config.candidates - proposals, generator)
        queries = self._actor_queries(problem, proposals, generator)
        population, latents = roll_out_actor(problem, queries, perturbed)
        sources = ['actor'] * proposals + ['search'] * len(perturbed)
        if problem.warm_start is not None:
            sources[-1] = 'warm_start'
        costs = evaluator.evaluate_rollouts(population, latents, sources)
        for _ in range(1, config.iterations):
            count = evaluator.affordable(config.candidates)
            if count == 0:
                break
            elites = population[torch.argsort(costs)[: config.elites]]
            means = elites[torch.arange(count) % len(elites)]
            candidates = (means + self._noise(count, generator)).clamp(-1.0, 1.0)
            candidates, new_costs = evaluator.evaluate(candidates, ['search'] * count)
            population = torch.cat([population, candidates])
            costs = torch.cat([costs, new_costs])
        return evaluator.solution()

    def _perturb(
        self, warm_start: Tensor | None, count: int, generator: torch.Generator
    ) -> Tensor:
        """Return ``count`` sequences (count, T, A): the warm start, or zeros, plus noise.

        The first is all zeros; the last is the warm start without noise.
        """
        candidates = self._noise(count, generator)
        if warm_start is not None:
            candidates = candidates + warm_start
            candidates[-1] = warm_start
        candidates[0] = 0.0
        return candidates.clamp(-1.0, 1.0)

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return coloured noise (count, T, A); the sequences' stds differ, in random order."""
        config, contract = self._config, self._contract
        steps = config.horizon * contract.time.frame_skip
        noise = coloured_noise(
            (count, steps, contract.action_width), config.noise_exponent, generator
        )
        stds = torch.logspace(math.log10(config.noise_min), math.log10(config.noise_std), count)
        stds = stds[torch.randperm(count, generator=generator)]
        return stds[:, None, None] * noise

    def _actor_queries(
        self, problem: PlanningProblem, count: int, generator: torch.Generator
    ) -> list[ActorQuery]:
        """Return the queries for ``count`` proposals, each with a different time to the goal."""
        config, skip, heads = self._config, self._contract.time.frame_skip, _actor_critic(problem)
        first = torch.linspace(skip, heads.max_steps, count)
        passed = skip * torch.arange(config.horizon)
        steps = (first - passed[:, None]).clamp(min=skip)
        uniform = torch.rand(*steps.shape, heads.actor.modes, generator=generator)
        noise = torch.randn(*steps.shape, heads.actor.block, generator=generator)
        gumbel, noise = -torch.log(-torch.log(uniform)), config.temperature * noise
        return _queries(problem, steps, gumbel, noise)


class ActorOnly:
    """Goal-conditioned behaviour cloning: the actor's most likely actions, without a search.

    The actor is conditioned on the same remaining time in every model step.
    """

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        self._config, self._contract = config, contract

    @torch.inference_mode()
    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the actor's proposal, whatever the budget."""
        actor, horizon = _actor_critic(problem).actor, self._config.horizon
        steps = torch.full((horizon, 1), float(self._config.actor.steps))
        gumbel, noise = torch.zeros(horizon, 1, actor.modes), torch.zeros(horizon, 1, actor.block)
        queries = _queries(problem, steps, gumbel, noise)
        shape = 0, horizon * self._contract.time.frame_skip, self._contract.action_width
        actions, latents = roll_out_actor(problem, queries, torch.zeros(shape))
        evaluator = CandidateEvaluator(problem, budget)
        evaluator.evaluate_rollouts(actions, latents, ['actor'])
        return evaluator.solution()


def roll_out_actor(
    problem: PlanningProblem, queries: list[ActorQuery], fixed_actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Roll out the actor and given action sequences in the model, in the same batches.

    Args:
        problem: start, goal and actor. queries: one per model step, each for C proposals.
        fixed_actions: (N, T, A) given sequences; sharing batches saves time.

    Returns:
        Feasible actions (C+N, T, A) and latents (C+N, H, D), those of the actor first.
    """
    state = problem.rollout_state.expand(len(queries[0].remaining) + len(fixed_actions))
    limits, step = problem.action_limits, problem.stages.actor_step
    assert step is not None
    blocks, latents = [], []
    for query, fixed_block in zip(queries, fixed_actions.chunk(len(queries), dim=1), strict=True):
        block, displacement, z = step(state, fixed_block, query, limits)[:3]
        state = state.advance(block, displacement, z)
        blocks.append(block)
        latents.append(z)
    return torch.cat(blocks, 1), torch.stack(latents, 1)


def _queries(
    problem: PlanningProblem, steps: Tensor, gumbel: Tensor, noise: Tensor
) -> list[ActorQuery]:
    """Return the queries for H model steps.

    Args:
        problem: goal and actor.
        steps: (H, C) control steps to the goal that the actor is conditioned on.
        gumbel: (H, C, M). noise: (H, C, K*A). See ``ActorQuery``.
    """
    remaining = steps / _actor_critic(problem).max_steps
    inputs = zip(remaining, gumbel, noise, strict=True)
    return [ActorQuery(problem.goal, *values) for values in inputs]


def _actor_critic(problem: PlanningProblem) -> ActorCritic | PoseActorCritic:
    assert problem.objective.actor_critic is not None
    return problem.objective.actor_critic
