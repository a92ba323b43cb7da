"""Sampling-based searches around one mean: CEM, iCEM and MPPI. They need no actor-critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_arm.config import Contract, PlannerConfig

from .candidate_evaluator import CandidateEvaluator
from .noise import coloured_noise
from .problem import PlanningProblem, SearchBudget, Solution

MIN_STD = 0.05
"""Smallest standard deviation of iCEM's actions, so that it never stops exploring."""


@dataclass(frozen=True)
class SamplingDistribution:
    """Distribution that the next iteration samples from.

    Attributes:
        mean, std: (T, A).
        kept: (N, T, A) sequences that are evaluated besides the samples.
    """

    mean: Tensor
    std: Tensor
    kept: Tensor


class SamplingSearch(ABC):
    """Search that samples around a mean and updates it in every iteration.

    In CEM and MPPI, each mean is among the candidates of the next iteration. The last mean is
    evaluated by itself if the budget allows. The solution is the cheapest of all candidates. (As
    published, CEM and MPPI return the last mean, whatever its cost.)
    """

    samples: int
    iterations: int
    std: float
    noise_exponent: float

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        self._config = config
        self._shape = config.horizon * contract.time.frame_skip, contract.action_width

    @torch.inference_mode()
    def solve(
        self, problem: PlanningProblem, budget: SearchBudget, generator: torch.Generator
    ) -> Solution:
        """Return the cheapest sequence found within the budget."""
        evaluator = CandidateEvaluator(problem, budget)
        mean = torch.zeros(self._shape) if problem.warm_start is None else problem.warm_start
        distribution = SamplingDistribution(mean, torch.full_like(mean, self.std), mean[None])
        for iteration in range(self.iterations):
            if iteration and evaluator.affordable(self.samples) < self.samples:
                break
            noise = coloured_noise((self.samples, *self._shape), self.noise_exponent, generator)
            samples = distribution.mean + distribution.std * noise
            candidates = torch.cat([distribution.kept, samples]).clamp(-1.0, 1.0)
            sources = ['search'] * len(candidates)
            if iteration == 0:
                sources[0] = 'warm_start'
            candidates, costs = evaluator.evaluate(candidates, sources)
            distribution = self.update(candidates, costs)
        if evaluator.affordable(1):
            evaluator.evaluate(distribution.mean[None], ['search'])
        return evaluator.solution()

    @abstractmethod
    def update(self, candidates: Tensor, costs: Tensor) -> SamplingDistribution:
        """Return the distribution of the next iteration.

        Args:
            candidates: (S, T, A) evaluated candidates. costs: (S,) their costs.
        """


class CEM(SamplingSearch):
    """Cross-entropy method: white noise, mean and standard deviation of the elites.

    With the shipped settings it is the search of LeWorldModel (arXiv:2603.19312) and
    stable-worldmodel, except that actions are bounded.
    """

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        super().__init__(config, contract)
        self.samples, self.iterations = config.cem.candidates - 1, config.cem.iterations
        self.std, self.noise_exponent = config.cem.std, 0.0

    def update(self, candidates: Tensor, costs: Tensor) -> SamplingDistribution:
        """Return mean and standard deviation of the elites."""
        elites = candidates[torch.argsort(costs)[: self._config.cem.elites]]
        mean = elites.mean(0)
        return SamplingDistribution(mean, elites.std(0), mean[None])


class ICEM(SamplingSearch):
    """Improved cross-entropy method (arXiv:2008.06389): coloured noise, elites kept, warm start.

    It is the fallback for goals without an actor-critic.
    """

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        super().__init__(config, contract)
        self.samples, self.iterations = config.candidates, config.icem_iterations
        self.std, self.noise_exponent = config.icem_std, config.noise_exponent

    def update(self, candidates: Tensor, costs: Tensor) -> SamplingDistribution:
        """Return mean and standard deviation of the elites, and keep the best third of them."""
        elites = candidates[torch.argsort(costs)[: self._config.elites]]
        kept = elites[: max(1, self._config.elites // 3)]
        return SamplingDistribution(elites.mean(0), elites.std(0).clamp(min=MIN_STD), kept)


class MPPI(SamplingSearch):
    """Model predictive path integral control (arXiv:1509.01149), with several updates per plan.

    The mean moves to the average of the candidates weighted by ``exp(-cost / temperature)``; the
    standard deviation stays. Deviation: the noise can be coloured.
    """

    def __init__(self, config: PlannerConfig, contract: Contract) -> None:
        super().__init__(config, contract)
        self.samples, self.iterations = config.mppi.candidates - 1, config.mppi.iterations
        self.std, self.noise_exponent = config.mppi.std, config.mppi.noise_exponent

    def update(self, candidates: Tensor, costs: Tensor) -> SamplingDistribution:
        """Return the distribution around the weighted average of the candidates."""
        weights = torch.softmax((costs.min() - costs) / self._config.mppi.temperature, 0)
        mean = (weights[:, None, None] * candidates).sum(0)
        return SamplingDistribution(mean, torch.full_like(mean, self.std), mean[None])
