"""Searches of other packages as ours: the same model, start, bounds and costs, their algorithm.

``jepa-arm bench peers`` loads this file from a checkout; what is not installed is left out there
by name. Their settings are their defaults. With our cost they plan anew at each step, from the
last plan shifted, as ours do; with the published one as published. Their actions know no bounds,
so what leaves them is priced as it would be executed: cut.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_arm.comparison import PLACE, Contender
from jepa_arm.config import PlannerConfig
from jepa_arm.goals import LatentGoal
from jepa_arm.planning.costs import Task
from jepa_arm.planning.search import (
    Dynamics,
    MakeOptimizer,
    Optimizer,
    Population,
    Solution,
    Start,
)


class LastLatent(Task):
    """Squared distance from the last latent to the goal's, summed over the latent."""

    def cost(
        self, latents: Tensor, actions: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
        self, solver: str, dynamics: Dynamics, config: PlannerConfig, skip: int, width: int
    ) -> None:
        from gymnasium.spaces import Box
        from stable_worldmodel import solver as solvers

        self._dynamics, self._skip, self._width = dynamics, skip, width
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

    def __init__(self, dynamics: Dynamics, config: PlannerConfig, skip: int, width: int) -> None:
        from torch_world.planning import CEM

        self._dynamics, self._skip, self._width = dynamics, skip, width
        self._cem = CEM(config.horizon, skip * width, bounds=(-1.0, 1.0))

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """Their plan; it knows neither a deadline nor a warm start."""
        skip, width = self._skip, self._width

        rolled: list[Tensor] = []

        def rollout(z: Tensor, blocks: Tensor) -> Tensor:
            actions = start.feasible(blocks.reshape(len(blocks), -1, width))
            rolled[:] = [actions]
            blocks = actions.reshape(len(blocks), -1, skip * width)
            z_prev = start.z_prev.expand(len(blocks), -1)
            return torch.cat([z, self._dynamics.rollout(z[:, 0], z_prev, blocks)], 1)

        def price(latents: Tensor, goal: Tensor) -> Tensor:
            return task.cost(latents[:, 1:], rolled[0])[0]

        model: Any = SimpleNamespace(rollout=rollout, cost=price)
        blocks = self._cem(model, start.z[:, None], torch.zeros(1, 1), generator=generator)
        count = self._cem.num_samples * self._cem.iterations
        return answer(self._dynamics, start, task, skip, blocks.reshape(1, -1, width), count)


class AsPublished:
    """A search as LeWorldModel is planned with (arXiv:2603.19312).

    Towards the latent of the goal image, from nothing, and a whole plan is carried out before the
    next is made. (With a cost of the last latent alone, who plans anew at each step puts off
    arriving.)
    """

    def __init__(self, search: Optimizer, dynamics: Dynamics, skip: int) -> None:
        self._search, self._dynamics, self._skip = search, dynamics, skip
        self._left = torch.empty(0)

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """A new plan, or what is left of the last one."""
        last = LastLatent(**vars(task))
        if start.warm is None or not len(self._left):
            found = self._search.solve(replace(start, warm=None), last, deadline, generator)
            self._left = found.actions[1:]
            return found
        plan = torch.zeros_like(start.warm)
        plan[: len(self._left)] = self._left
        self._left = self._left[1:]
        return answer(self._dynamics, start, last, self._skip, plan[None], 0)


def answer(
    dynamics: Dynamics, start: Start, task: Task, skip: int, plan: Tensor, candidates: int
) -> Solution:
    """``plan`` (1, T, A) as a solution, after ``candidates`` were priced."""
    population = Population(dynamics, start, task, skip)
    population.price(plan, ['search'])
    return replace(population.result(), candidates=candidates)


def swm(solver: str) -> MakeOptimizer:
    """Makes ``solver`` of stable-worldmodel."""
    return lambda *given: StableWorldmodel(solver, *given)


def as_published(make: MakeOptimizer) -> MakeOptimizer:
    """Makes what ``make`` makes, used as LeWorldModel uses it."""
    return lambda dynamics, config, skip, width: AsPublished(
        make(dynamics, config, skip, width), dynamics, skip
    )


LAST = 'published: last latent to goal latent, whole plans carried out'
SWM, TORCH_WORLD = 'stable-worldmodel', 'torch-world'


def both(name: str, title: str, make: MakeOptimizer, package: str) -> tuple[Contender, Contender]:
    """A search with our cost and planning anew at each step, and as published."""
    return (
        Contender(name, title, PLACE, make, package=package),
        Contender(
            f'{name}-latent', title, LAST, as_published(make), is_latent=True, package=package
        ),
    )


CONTENDERS = (
    *both('swm-cem', 'CEM', swm('CEMSolver'), SWM),
    *both('swm-icem', 'iCEM', swm('ICEMSolver'), SWM),
    *both('swm-mppi', 'MPPI', swm('MPPISolver'), SWM),
    *both('torch-world-cem', 'CEM', TorchWorld, TORCH_WORLD),
)
"""Who can be compared with."""
