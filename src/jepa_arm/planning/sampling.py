"""Searches that sample around one mean and move it: CEM, iCEM and MPPI. They need no heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import PlannerConfig
from .costs import Task
from .noise import coloured_noise
from .search import Dynamics, Population, Solution, Start

LEAST_STD = 0.05
"""Of iCEM's actions, so that it never stops searching."""


@dataclass(frozen=True)
class Gaussian:
    """Where the next sweep samples.

    Attributes:
        mean, std: (T, A).
        kept: (K, T, A) sequences that are priced besides the sampled ones.
    """

    mean: Tensor
    std: Tensor
    kept: Tensor


class Sampling(ABC):
    """Sweeps of candidates around a mean, which each sweep moves.

    The mean is among the candidates of the sweep after it, and the last one is priced by itself;
    what is found is the best of all that was priced. (As published, CEM and MPPI answer with the
    last mean, whatever its cost.)
    """

    fresh: int
    sweeps: int
    std: float
    noise_exponent: float

    def __init__(
        self, dynamics: Dynamics, config: PlannerConfig, frame_skip: int, action_width: int
    ) -> None:
        self._dynamics, self._config = dynamics, config
        self._skip, self._width = frame_skip, action_width
        self._steps = config.horizon * frame_skip

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """See ``Optimizer.solve``."""
        population = Population(self._dynamics, start, task, self._skip)
        mean = torch.zeros(self._steps, self._width) if start.warm is None else start.warm
        around = Gaussian(mean, torch.full_like(mean, self.std), mean[None])
        for sweep in range(self.sweeps):
            if sweep and not population.has_time_for(self.fresh, deadline):
                break
            noise = coloured_noise(
                self.fresh, self._steps, self._width, self.noise_exponent, generator
            )
            sampled = around.mean + around.std * noise
            actions = torch.cat([around.kept, sampled]).clamp(-1.0, 1.0)
            sources = ['search'] * len(actions)
            if not sweep:
                sources[0] = 'warm_start'
            actions, costs = population.price(actions, sources)
            around = self.update(around, actions, costs)
        if population.has_time_for(1, deadline):
            population.price(around.mean[None], ['search'])
        return population.result()

    @abstractmethod
    def update(self, around: Gaussian, actions: Tensor, costs: Tensor) -> Gaussian:
        """Where to sample next, after ``actions`` (S, T, A) were found to cost ``costs`` (S,)."""


class CEM(Sampling):
    """Cross-entropy method: white noise, mean and spread of the elites.

    With the settings shipped it is the search of LeWorldModel (arXiv:2603.19312) and
    stable-worldmodel, but for bounded actions.
    """

    def __init__(
        self, dynamics: Dynamics, config: PlannerConfig, frame_skip: int, action_width: int
    ) -> None:
        super().__init__(dynamics, config, frame_skip, action_width)
        self.fresh, self.sweeps = config.cem.candidates - 1, config.cem.sweeps
        self.std, self.noise_exponent = config.cem.std, 0.0

    def update(self, around: Gaussian, actions: Tensor, costs: Tensor) -> Gaussian:
        """See ``Sampling.update``."""
        elites = actions[torch.argsort(costs)[: self._config.cem.elites]]
        mean = elites.mean(0)
        return Gaussian(mean, elites.std(0), mean[None])


class ICEM(Sampling):
    """Improved cross-entropy method (arXiv:2008.06389): coloured noise, elites kept, warm start.

    The fallback for goals that have no heads.
    """

    def __init__(
        self, dynamics: Dynamics, config: PlannerConfig, frame_skip: int, action_width: int
    ) -> None:
        super().__init__(dynamics, config, frame_skip, action_width)
        self.fresh, self.sweeps = config.candidates, config.icem_sweeps
        self.std, self.noise_exponent = config.icem_std, config.noise_exponent

    def update(self, around: Gaussian, actions: Tensor, costs: Tensor) -> Gaussian:
        """See ``Sampling.update``."""
        elites = actions[torch.argsort(costs)[: self._config.elites]]
        kept = elites[: max(1, self._config.elites // 3)]
        return Gaussian(elites.mean(0), elites.std(0).clamp(min=LEAST_STD), kept)


class MPPI(Sampling):
    """Model predictive path integral control (arXiv:1509.01149), several updates a plan.

    The mean moves to the average of the candidates, weighted by ``exp(-cost / temperature)``; the
    spread stays. Deviation: coloured noise, where that is configured.
    """

    def __init__(
        self, dynamics: Dynamics, config: PlannerConfig, frame_skip: int, action_width: int
    ) -> None:
        super().__init__(dynamics, config, frame_skip, action_width)
        self.fresh, self.sweeps = config.mppi.candidates - 1, config.mppi.sweeps
        self.std, self.noise_exponent = config.mppi.std, config.mppi.noise_exponent

    def update(self, around: Gaussian, actions: Tensor, costs: Tensor) -> Gaussian:
        """See ``Sampling.update``."""
        weights = torch.softmax((costs.min() - costs) / self._config.mppi.temperature, 0)
        mean = (weights[:, None, None] * actions).sum(0)
        return replace(around, mean=mean, kept=mean[None])
