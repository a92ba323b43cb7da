"""Searches that begin with what an actor proposes: local search, and the actor alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import PlannerConfig
from ..model.world_model import shift
from .costs import Task
from .heads import Heads
from .noise import coloured_noise
from .pose_heads import PoseHeads
from .search import Dynamics, Population, Solution, Start, effect, feasible


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
        around = self._noise(config.candidates - half, generator)
        if start.warm is not None:
            around = around + start.warm
            around[-1] = start.warm
        around[0] = 0.0
        around = around.clamp(-1.0, 1.0)
        sources = ['actor'] * half + ['search'] * len(around)
        if start.warm is not None:
            sources[-1] = 'warm_start'
        pool, latents = self._propose(start, task, half, generator, around)
        prices = population.price(pool, sources, latents)[1]
        for _ in range(1, config.sweeps):
            count = population.affordable(config.candidates, deadline)
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
        heads, config = _heads(task), self._config
        spread = torch.linspace(self._skip, heads.max_steps, count)
        passed = self._skip * torch.arange(config.horizon)
        steps = (spread - passed[:, None]).clamp(min=self._skip)
        uniform = torch.rand(*steps.shape, heads.actor.modes, generator=generator)
        gumbel = -torch.log(-torch.log(uniform))
        noise = torch.randn(*steps.shape, heads.actor.block, generator=generator)
        drawn = gumbel, config.temperature * noise
        return roll_out(self._dynamics, start, task, steps, drawn, self._skip, self._width, others)


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
        actor = _heads(task).actor
        steps = torch.full((self._config.horizon, 1), float(self._config.actor.steps))
        nothing = torch.zeros(*steps.shape, actor.modes), torch.zeros(*steps.shape, actor.block)
        actions, latents = roll_out(
            self._dynamics, start, task, steps, nothing, self._skip, self._width
        )
        population = Population(self._dynamics, start, task, self._skip)
        population.price(actions, ['actor'], latents)
        return population.result()


def roll_out(
    dynamics: Dynamics,
    start: Start,
    task: Task,
    steps: Tensor,
    drawn: tuple[Tensor, Tensor],
    skip: int,
    width: int,
    others: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lets the actor act inside the model: actions (count, T, A) and latents (count, H, D).

    Sequences that are known go along in the same batches: fewer, larger products of matrices.

    Args:
        dynamics: the model.
        start: where it starts.
        task: what it is asked for.
        steps: (H, count) control steps to the goal that the actor is told.
        drawn: (H, count, M) and (H, count, K*A), see ``Actor.pick``.
        skip: K, control steps in an action block; width: A.
        others: (N, T, A) that follow those of the actor in what is returned.
    """
    others = torch.zeros(0, len(steps) * skip, width) if others is None else others
    rows = steps.shape[1] + len(others)
    room, speed, late, before = start.bounds(width)
    z, z_prev = start.z.expand(rows, -1), start.z_prev.expand(rows, -1)
    done, before = torch.zeros(rows, width), before.expand(rows, -1)
    remaining, place = steps / _heads(task).max_steps, task.place
    chunks, latents = [], []
    for i, known in enumerate(others.split(skip, dim=1)):
        inputs = (z, z_prev, known, done, before, place, remaining[i], drawn[0][i], drawn[1][i])
        if task.stages is None:
            found = advance(dynamics, task, *inputs, room, speed, late)
        else:
            found = task.stages.advance(*inputs, room, speed, late)
        chunk, done, after = found[:3]
        z, z_prev, before = after, shift(z, z_prev), chunk[:, -1]
        chunks.append(chunk)
        latents.append(z)
    return torch.cat(chunks, 1), torch.stack(latents, 1)


def advance(
    dynamics: Dynamics,
    task: Task,
    z: Tensor,
    z_prev: Tensor,
    known: Tensor,
    done: Tensor,
    before: Tensor,
    place: Tensor,
    remaining: Tensor,
    gumbel: Tensor,
    noise: Tensor,
    room: Tensor,
    speed: Tensor,
    late: Tensor,
) -> tuple[Tensor, ...]:
    """A model step of sequences (R rows): what is done, (R, K, A), and where that leads.

    Args:
        dynamics: the model. task: what it is asked for.
        z, z_prev: (R, D) and (R, past*D), before the step.
        known: (N, K, A) what the last N rows do; what the first C do is the actor's.
        done: (R, A) sum of the actions so far. before: (R, A) the last of them.
        place: see ``Task.place``.
        remaining: (C,) told to the actor, as are gumbel (C, M) and noise (C, K*A), see
            ``Actor.pick``.
        room, speed, late: see ``Start.bounds``.

    Returns:
        The actions, their sum with what was done (R, A), the next latents (R, D), and what was
        told to the actor (C, D + G).
    """
    count, (skip, width) = remaining.shape[0], known.shape[1:]
    last = z_prev[:count, : z.shape[1]]
    acts, features = task.act(z[:count], last, place, remaining, gumbel, noise)
    chunk = torch.cat([acts.view(-1, skip, width), known])
    chunk = feasible(chunk, done, room, speed)
    moved = effect(chunk, late, before)
    return chunk, done + chunk.sum(1), dynamics.predict(z, z_prev, moved.flatten(1)), features


def _heads(task: Task) -> Heads | PoseHeads:
    assert task.heads is not None
    return task.heads
