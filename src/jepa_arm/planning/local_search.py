"""Searches that begin with what an actor proposes: local search, and the actor alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import PlannerConfig
from ..model.world_model import shift
from .costs import Task
from .heads import Heads
from .noise import coloured_noise
from .search import Dynamics, Population, Solution, Start, effect

CHUNK = 16
"""Smaller sweeps have a multiple of it: for each size of batch oneDNN makes and keeps programs."""

Act = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(features, velocity, remaining) of ``Actor`` -> action blocks (B, K*A)."""


class LocalSearch:
    """Actor proposals and the warm start, improved by coloured noise around the elites.

    The noise of the candidates has strengths from fine to coarse, so that one sweep can both
    go somewhere else and come to rest at a place.
    """

    def __init__(
        self, dynamics: Dynamics, config: PlannerConfig, frame_skip: int, action_width: int
    ) -> None:
        self._dynamics, self._config = dynamics, config
        self._skip, self._width = frame_skip, action_width

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """See ``Optimizer.solve``."""
        config = self._config
        population = Population(self._dynamics, start, task, self._skip)
        half = config.candidates // 2
        around, sources = None, ['actor'] * half
        if start.warm is not None:
            around = start.warm + self._noise(config.candidates - half, generator)
            around[0], around[1] = start.warm, 0.0
            around = around.clamp(-1.0, 1.0)
            sources += ['warm_start'] + ['search'] * (len(around) - 1)
        pool, latents = self._propose(start, task, half, generator, around)
        prices = population.price(pool, sources, latents)[1]
        for _ in range(1, config.sweeps):
            count = population.affordable(config.candidates, deadline)
            if count < config.candidates:
                count -= count % CHUNK
            if count == 0:
                break
            elites = pool[torch.argsort(prices)[: config.elites]]
            centres = elites[torch.arange(count) % len(elites)]
            around = centres + self._noise(count, generator)
            around = around.clamp(-1.0, 1.0)
            around, costs = population.price(around, ['search'] * len(around))
            pool, prices = torch.cat([pool, around]), torch.cat([prices, costs])
        return population.result()

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        config = self._config
        steps = config.horizon * self._skip
        noise = coloured_noise(count, steps, self._width, config.noise_exponent, generator)
        scales = torch.logspace(math.log10(config.noise_min), math.log10(config.noise_std), count)[
            torch.randperm(count, generator=generator)
        ]
        return scales[:, None, None] * noise

    def _propose(
        self,
        start: Start,
        task: Task,
        count: int,
        generator: torch.Generator,
        others: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Samples of the actor, each told another remaining time, and ``others``.

        See ``roll_out``.
        """
        heads = _heads(task)

        def sample(features: Tensor, velocity: Tensor, remaining: Tensor) -> Tensor:
            return heads.actor.sample(
                features, velocity, remaining, generator, self._config.temperature
            )

        spread = torch.linspace(self._skip, heads.max_steps, count)
        passed = self._skip * torch.arange(self._config.horizon)
        steps = (spread - passed[:, None]).clamp(min=self._skip)
        return roll_out(
            self._dynamics, start, task, sample, steps, self._skip, self._width, others
        )


class ActorAlone:
    """What the actor would do, unsearched: goal-conditioned behaviour cloning.

    Its likeliest mode, told to be there in so many control steps, again and again.
    """

    def __init__(
        self, dynamics: Dynamics, config: PlannerConfig, frame_skip: int, action_width: int
    ) -> None:
        self._dynamics, self._config = dynamics, config
        self._skip, self._width = frame_skip, action_width

    @torch.inference_mode()
    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """See ``Optimizer.solve``."""
        act = _heads(task).actor.likeliest
        steps = torch.full((self._config.horizon, 1), float(self._config.actor.steps))
        actions, latents = roll_out(
            self._dynamics, start, task, act, steps, self._skip, self._width
        )
        population = Population(self._dynamics, start, task, self._skip)
        population.price(actions, ['actor'], latents)
        return population.result()


def roll_out(
    dynamics: Dynamics,
    start: Start,
    task: Task,
    act: Act,
    steps: Tensor,
    skip: int,
    width: int,
    others: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lets an actor act inside the model: actions (count, T, A) and latents (count, H, D).

    Sequences that are known go along in the same batches: fewer, larger products of matrices.

    Args:
        dynamics: the model.
        start: where it starts.
        task: what it is asked for.
        act: the actor.
        steps: (H, count) control steps to the goal that it is told.
        skip: K, control steps in an action block; width: A.
        others: (N, T, A) that follow those of the actor in what is returned.
    """
    max_steps, count = _heads(task).max_steps, steps.shape[1]
    rows = count if others is None else count + len(others)
    z, z_prev = start.z.expand(rows, -1), start.z_prev.expand(rows, -1)
    chunks, latents = [], []
    done = torch.zeros(rows, width)
    before = None if start.before is None else start.before.expand(rows, -1)
    for i, left in enumerate(steps):
        now, velocity = z[:count], z[:count] - z_prev[:count, : z.shape[-1]]
        chunk = act(task.features(now), velocity, left / max_steps).view(count, skip, width)
        if others is not None:
            chunk = torch.cat([chunk, others[:, i * skip : (i + 1) * skip]])
        chunk = start.feasible(chunk, done)
        done = done + chunk.sum(1)
        moved = effect(chunk, start.late, before)
        z, z_prev = dynamics.predict(z, z_prev, moved.flatten(1)), shift(z, z_prev)
        before = chunk[:, -1]
        chunks.append(chunk)
        latents.append(z)
    return torch.cat(chunks, 1), torch.stack(latents, 1)


def _heads(task: Task) -> Heads:
    assert task.heads is not None
    return task.heads
