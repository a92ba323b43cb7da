"""Searches of other packages as ours: the same model, start, bounds and costs, their algorithm.

``jepa-arm bench peers`` loads this file from a checkout; what is not installed is left out there
by name. Their settings are their defaults. Each plans anew from the last plan, shifted by what
was executed, as ours do. Their actions know no bounds, so what leaves them is priced as it would
be executed: cut.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_arm.comparison import PLACE, Contender, MakeOptimizer
from jepa_arm.config import PlannerConfig
from jepa_arm.goals import LatentGoal
from jepa_arm.planning.costs import Task
from jepa_arm.planning.search import Dynamics, Population, Solution, Start

Cost = Callable[[Task], Task]
"""A task with the cost that a peer is to make small."""


def as_given(task: Task) -> Task:
    """Our cost."""
    return task


def published(task: Task) -> Task:
    """The cost of LeWorldModel's planner (arXiv:2603.19312): see ``LastLatent``."""
    return LastLatent(task.goal, task.read, task.heads, task.value_weight, task.distance_weight)


class LastLatent(Task):
    """Squared distance from the last latent to the goal's, summed over the latent."""

    def cost(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Task.cost``."""
        assert isinstance(self.goal, LatentGoal)
        target = torch.as_tensor(self.goal.latent, dtype=latents.dtype)
        total = (latents[:, -1] - target).square().sum(-1)
        return torch.where(torch.isfinite(total), total, torch.inf), {'latent': total}


class Priced:
    """A population as the model that stable-worldmodel's solvers ask for costs."""

    def __init__(self, population: Population, width: int) -> None:
        self._population, self._width = population, width

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """(1, S) costs of ``candidates`` (1, S, H, K*A)."""
        actions = candidates[0].reshape(candidates.shape[1], -1, self._width).clamp(-1.0, 1.0)
        return self._population.price(actions, ['search'] * len(actions))[1][None]


class StableWorldmodel:
    """A solver of ``stable_worldmodel`` behind our ``Optimizer``."""

    def __init__(
        self,
        solver: str,
        cost: Cost,
        dynamics: Dynamics,
        config: PlannerConfig,
        skip: int,
        width: int,
    ) -> None:
        from gymnasium.spaces import Box
        from stable_worldmodel import solver as solvers

        self._cost, self._dynamics, self._skip, self._width = cost, dynamics, skip, width
        self._solver = getattr(solvers, solver)(model=None)
        bounds = np.ones((1, width), dtype=np.float32)
        self._solver.configure(
            action_space=Box(-bounds, bounds),
            n_envs=1,
            config=SimpleNamespace(horizon=config.horizon, action_block=skip),
        )

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """Their plan; they know no deadline."""
        task = self._cost(task)
        population = Population(self._dynamics, start, task, self._skip)
        self._solver.model = Priced(population, self._width)
        self._solver.torch_gen = generator
        first = None
        if start.warm is not None:
            first = start.warm.reshape(1, -1, self._skip * self._width)
        with contextlib.redirect_stdout(io.StringIO()):  # they print how long each plan took
            found = self._solver.solve({'z': start.z}, init_action=first)
        plan = found['actions'].reshape(1, -1, self._width).clamp(-1.0, 1.0)
        return answer(self._dynamics, start, task, self._skip, plan, population.candidates)


class TorchWorld:
    """The CEM of ``torch_world`` behind our ``Optimizer``."""

    def __init__(
        self, cost: Cost, dynamics: Dynamics, config: PlannerConfig, skip: int, width: int
    ) -> None:
        from torch_world.planning import CEM

        self._cost, self._dynamics, self._skip, self._width = cost, dynamics, skip, width
        self._cem = CEM(config.horizon, skip * width, bounds=(-1.0, 1.0))

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """Their plan; it knows neither a deadline nor a warm start."""
        task = self._cost(task)
        skip, width = self._skip, self._width

        def rollout(z: Tensor, blocks: Tensor) -> Tensor:
            actions = start.feasible(blocks.reshape(len(blocks), -1, width))
            blocks = actions.reshape(len(blocks), -1, skip * width)
            z_prev = start.z_prev.expand(len(blocks), -1)
            return torch.cat([z, self._dynamics.rollout(z[:, 0], z_prev, blocks)], 1)

        def price(latents: Tensor, goal: Tensor) -> Tensor:
            return task.cost(latents[:, 1:])[0]

        model: Any = SimpleNamespace(rollout=rollout, cost=price)
        blocks = self._cem(model, start.z[:, None], torch.zeros(1, 1), generator=generator)
        count = self._cem.num_samples * self._cem.iterations
        return answer(self._dynamics, start, task, skip, blocks.reshape(1, -1, width), count)


def answer(
    dynamics: Dynamics, start: Start, task: Task, skip: int, plan: Tensor, candidates: int
) -> Solution:
    """``plan`` (1, T, A) as a solution, after ``candidates`` were priced."""
    population = Population(dynamics, start, task, skip)
    population.price(plan, ['search'])
    return replace(population.result(), candidates=candidates)


def make(cls: Callable[..., Any], *first: Any) -> MakeOptimizer:
    """What makes a ``cls`` with ``first`` before the usual arguments."""
    return lambda dynamics, config, skip, width: cls(*first, dynamics, config, skip, width)


LAST = 'published: squared distance of the last latent to the goal latent'
SWM, TORCH_WORLD = 'stable-worldmodel', 'torch-world'
SOLVERS = {'cem': 'CEMSolver', 'icem': 'ICEMSolver', 'mppi': 'MPPISolver'}
TITLES = {'cem': 'CEM', 'icem': 'iCEM', 'mppi': 'MPPI'}

CONTENDERS = (
    *(
        Contender(
            f'swm-{name}-latent', TITLES[name], LAST,
            make(StableWorldmodel, solver, published), is_latent=True, package=SWM,
        )
        for name, solver in SOLVERS.items()
    ),
    *(
        Contender(
            f'swm-{name}', TITLES[name], PLACE, make(StableWorldmodel, solver, as_given),
            package=SWM,
        )
        for name, solver in SOLVERS.items()
    ),
    Contender(
        'torch-world-cem-latent', 'CEM', LAST, make(TorchWorld, published), is_latent=True,
        package=TORCH_WORLD,
    ),
    Contender('torch-world-cem', 'CEM', PLACE, make(TorchWorld, as_given), package=TORCH_WORLD),
)  # fmt: skip
"""Who can be compared with."""
