"""Candidate evaluator: rolls out and scores candidates, and keeps the cheapest of a search."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from .problem import PlanningProblem, SearchBudget, Solution

ALTERNATIVES = 12
"""Number of the next best sequences that a solution keeps for display."""


class CandidateEvaluator:
    """Evaluates the candidates of one search and remembers the cheapest.

    Attributes:
        candidates, iterations: numbers of candidates and of batches evaluated so far.
    """

    def __init__(self, problem: PlanningProblem, budget: SearchBudget) -> None:
        self._problem, self._budget = problem, budget
        self._began = time.perf_counter()
        self._best: Solution | None = None
        self._last: tuple[Tensor, Tensor] | None = None
        self.candidates = self.iterations = 0

    def affordable(self, count: int) -> int:
        """Return how many of ``count`` more candidates the budget allows.

        With a deadline it is all or none, judged by the time per candidate so far, because
        functions are compiled for one number of candidates. With ``max_candidates`` it is as
        many as are left.
        """
        if self._budget.max_candidates is not None:
            return max(0, min(count, self._budget.max_candidates - self.candidates))
        now = time.perf_counter()
        pace = (now - self._began) / max(1, self.candidates)
        return count if count * pace <= self._budget.deadline - now else 0

    def evaluate(self, actions: Tensor, sources: list[str]) -> tuple[Tensor, Tensor]:
        """Roll out ``actions`` (S, T, A) and return them, made feasible, with their costs (S,).

        Args:
            actions: candidates in [-1, 1]. sources: one per candidate, see ``Solution.source``.
        """
        actions, latents = self._problem.roll_out(actions)
        return actions, self.evaluate_rollouts(actions, latents, sources)

    def evaluate_rollouts(self, actions: Tensor, latents: Tensor, sources: list[str]) -> Tensor:
        """Return the costs (S,) of candidates that have already been rolled out.

        Args:
            actions: (S, T, A) feasible actions. latents: (S, H, D) that they lead to.
            sources: one per candidate, see ``Solution.source``.
        """
        costs, shares = self._problem.score(latents, actions)
        self.candidates += len(actions)
        self.iterations += 1
        i = int(torch.argmin(costs))
        cost = float(costs[i])
        if self._best is None or cost < self._best.cost:
            terms = {name: float(share[i]) for name, share in shares.items()}
            self._best = Solution(
                actions[i], latents[i], cost, terms, sources[i], 0, 0, latents[:0]
            )
        self._last = latents, costs
        return costs

    def solution(self) -> Solution:
        """Return the cheapest candidate so far, with the counts of the whole search."""
        assert self._best is not None and self._last is not None
        latents, costs = self._last
        return replace(
            self._best,
            candidates=self.candidates,
            iterations=self.iterations,
            alternatives=latents[costs.argsort()[1 : 1 + ALTERNATIVES]],
        )
