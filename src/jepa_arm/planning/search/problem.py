"""Planning problem of one planner call, and the interface of the searches that solve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from jepa_arm.config import Contract, PlannerConfig
from jepa_arm.planning.costs.cost_term import Rollouts
from jepa_arm.planning.costs.obstacle import ObstacleCost
from jepa_arm.planning.costs.total_cost import total_cost
from jepa_arm.planning.objective import Objective, Stages
from jepa_arm.planning.rollout import ActionLimits, RolloutState, StartState


@dataclass(frozen=True)
class PlanningProblem:
    """Start, goal and cost of one plan.

    Attributes:
        start: state that the plan starts from.
        goal: (1, G), see ``Objective.goal_tensor``.
        objective: proposals and cost of this kind of goal.
        stages: functions of ``objective``, run by torch or compiled.
        warm_start: (T, A) last plan, shifted by one control step, or None.
        obstacle_cost: cost term for declared obstacles, or None.
    """

    start: StartState
    goal: Tensor
    objective: Objective
    stages: Stages
    warm_start: Tensor | None = None
    obstacle_cost: ObstacleCost | None = None

    @property
    def action_limits(self) -> ActionLimits:
        """Limits of the actions."""
        return self.start.action_limits(self.objective.model.contract.action_width)

    @property
    def rollout_state(self) -> RolloutState:
        """State before the first action."""
        return self.start.rollout_state(self.objective.model.contract.action_width)

    def roll_out(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``actions`` (S, T, A) made feasible, and the latents (S, H, D) they lead to."""
        actions, latents = self.stages.rollout(self.rollout_state, actions, self.action_limits)
        return actions, latents

    def score(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total cost (S,) of rollouts, and each term's part (S,) of it by name.

        Args:
            latents: (S, H, D) predicted latents. actions: (S, T, A) that lead to them.
        """
        scores, positions = self.stages.cost_terms(self.start.z, latents, self.goal)[:2]
        names = [term.name for term in self.objective.terms]
        shares = dict(zip(names, scores.unbind(0), strict=True))
        if self.obstacle_cost is not None:
            rollouts = Rollouts(self.start.z, latents, self.goal, positions, actions=actions)
            shares[self.obstacle_cost.name] = self.obstacle_cost.score(rollouts)
        return total_cost(shares), shares


class SearchBudget(NamedTuple):
    """Limits of a search.

    Attributes:
        deadline: s (``time.perf_counter``) by which the last iteration should end.
        max_candidates: number of candidates after which no iteration starts; the first iteration
            is always whole. If it is set, the deadline is ignored.
    """

    deadline: float
    max_candidates: int | None = None


@dataclass(frozen=True)
class Solution:
    """Cheapest action sequence that a search found.

    Attributes:
        actions: (T, A) control actions in [-1, 1], T = horizon * frame_skip.
        latents: (H, D) predicted latents, one per model step.
        cost: total cost. terms: part of each cost term in it, by name.
        source: 'actor', 'warm_start' or 'search'.
        candidates, iterations: numbers of sequences evaluated and of iterations made.
        alternatives: (N, H, D) latents of the next best sequences of the last iteration.
    """

    actions: Tensor
    latents: Tensor
    cost: float
    terms: dict[str, float]
    source: str
    candidates: int
    iterations: int
    alternatives: Tensor


class Optimizer(Protocol):
    """Interface of a search for the cheapest action sequence."""

    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the cheapest sequence found within the budget."""
        ...


MakeOptimizer = Callable[[PlannerConfig, Contract], Optimizer]
"""(planner configuration, contract of the model) -> a search."""
