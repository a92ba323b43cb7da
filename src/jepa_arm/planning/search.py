"""What every search for actions shares: start, budget, pricing, and what it finds.

After the first sweep there is a plan; later sweeps only improve it, until the deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..config import PlannerConfig
from ..model.bounded import bounded
from .costs import Task

OTHERS = 12
"""How many of the next best sequences are kept for people to look at."""


class Dynamics(Protocol):
    """What a search needs of a world model."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """(B, D) next latent after one action block (B, K*A)."""
        ...

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """(B, H, D) latents after each of the action blocks (B, H, K*A), open loop."""
        ...


@dataclass(frozen=True)
class Start:
    """Where a plan starts.

    Attributes:
        z: (1, D), the latent now. z_prev: (1, past*D), one model step ago, and so on.
        warm: (T, A) control actions left of the last plan, or None.
        room: (2, A) how far the sum of the actions may go down and up on each axis, so that
            what they move stays inside the workspace; None for no bound.
        late: share of a control step that passes before an action takes effect, in [0, 1].
        before: (A,) the action before the first, where ``z`` does not know of what it has left
            to do; None where it does.
        speed: largest action on each axis, in (0, 1].
        most: candidates to be priced at most, but for the first sweep; the deadline does not
            count then. None: as many as the deadline allows.
    """

    z: Tensor
    z_prev: Tensor
    warm: Tensor | None
    room: Tensor | None = None
    late: float = 0.0
    before: Tensor | None = None
    speed: float = 1.0
    most: int | None = None

    def effect(self, actions: Tensor) -> Tensor:
        """What ``actions`` (S, T, A) move in each control step, from the start on."""
        _, _, late, before = self.bounds(actions.shape[-1])
        return effect(actions, late, before.expand(len(actions), -1))

    def feasible(self, actions: Tensor, done: Tensor | None = None) -> Tensor:
        """``actions`` (S, T, A), none faster than ``speed``, cut where their sum leaves the room.

        At the edge of the workspace a model can be asked for what it never saw, and what it
        then imagines may look better than anything real.

        Args:
            actions: control actions.
            done: (S, A) sum of the actions before the first; zeros if left out.
        """
        room, speed, _, _ = self.bounds(actions.shape[-1])
        done = torch.zeros_like(actions[:, 0]) if done is None else done
        return feasible(actions, done, room, speed)

    def bounds(self, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``room``, ``speed``, ``late`` and ``before``, (2, A), (), () and (1, A), as tensors.

        What is None is there too, as what changes nothing. ``width``: A.
        """
        room, before = self.room, self.before
        if room is None:
            room = torch.tensor([[-torch.inf], [torch.inf]]).expand(2, width)
        before = torch.zeros(1, width) if before is None else before.view(1, width)
        return room, torch.tensor(self.speed), torch.tensor(self.late), before


def feasible(actions: Tensor, done: Tensor, room: Tensor, speed: Tensor) -> Tensor:
    """See ``Start.feasible``; ``done`` (S, A), ``room`` (2, A), ``speed`` ()."""
    cut = []
    for action in bounded(actions, -speed, speed).unbind(1):
        after = bounded(done + action, room[0], room[1])
        cut.append(after - done)
        done = after
    return torch.stack(cut, 1)


def unroll(
    dynamics: Dynamics,
    skip: int,
    z: Tensor,
    z_prev: Tensor,
    actions: Tensor,
    room: Tensor,
    speed: Tensor,
    late: Tensor,
    before: Tensor,
) -> tuple[Tensor, Tensor]:
    """``actions`` (S, T, A) made feasible, and the latents (S, H, D) that they lead to.

    The other arguments are those of ``Start`` and of its ``bounds``. ``skip``: K.
    """
    count = actions.shape[0]
    actions = feasible(actions, torch.zeros_like(actions[:, 0]), room, speed)
    moved = effect(actions, late, before.expand(count, -1))
    blocks = moved.reshape(count, -1, skip * actions.shape[2])
    latents = dynamics.rollout(z.expand(count, -1), z_prev.expand(count, -1), blocks)
    return actions, latents


def effect(actions: Tensor, late: float | Tensor, before: Tensor | None = None) -> Tensor:
    """(S, T, A) what ``actions`` move in each control step if they come ``late``.

    An action that comes late does the rest of its work in the next step. ``before`` (S, A) is
    the action before the first; without it that one is at work already, and the latent knows.
    """
    first = torch.zeros_like(actions[:, :1]) if before is None else before[:, None]
    return torch.lerp(actions, torch.cat([first, actions[:, :-1]], dim=1), late)


@dataclass(frozen=True)
class Solution:
    """The best sequence found.

    Attributes:
        actions: (T, A) control actions, T = H * frame_skip, in [-1, 1].
        latents: (H, D) predicted.
        cost: of the sequence; terms: each cost term's share.
        source: 'actor', 'warm_start' or 'search', what gave it.
        candidates, sweeps: how many were priced, in how many sweeps.
        others: (N, H, D) latents of the next best ones of the last sweep.
    """

    actions: Tensor
    latents: Tensor
    cost: float
    terms: dict[str, float]
    source: str
    candidates: int
    sweeps: int
    others: Tensor


class Optimizer(Protocol):
    """A search for actions."""

    def solve(
        self, start: Start, task: Task, deadline: float, generator: torch.Generator
    ) -> Solution:
        """The best sequence found until ``deadline`` (s, ``time.perf_counter``)."""
        ...


MakeOptimizer = Callable[[Dynamics, PlannerConfig, int, int], Optimizer]
"""(dynamics, planner configuration, frame skip, width of an action) -> a search."""


class Population:
    """Candidates priced so far in one search; remembers the best."""

    def __init__(self, dynamics: Dynamics, start: Start, task: Task, skip: int) -> None:
        self._dynamics, self._start, self._task, self._skip = dynamics, start, task, skip
        self.best: Solution | None = None
        self.candidates = self.sweeps = 0
        self._began = time.perf_counter()

    def has_time_for(self, count: int, deadline: float) -> bool:
        """Whether ``count`` more candidates, at the pace so far, are priced by ``deadline``."""
        return self.affordable(count, deadline) == count

    def affordable(self, count: int, deadline: float) -> int:
        """``count`` if so many more candidates, at the pace so far, are priced by ``deadline``.

        Else 0: other sizes of a sweep are not compiled for. Where the start says how many may be
        priced, it is as many of ``count`` as that leaves.
        """
        if self._start.most is not None:
            return max(0, min(count, self._start.most - self.candidates))
        now = time.perf_counter()
        pace = (now - self._began) / max(1, self.candidates)
        return count if count * pace <= deadline - now else 0

    def price(
        self, actions: Tensor, sources: list[str], latents: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Prices ``actions`` (S, T, A); returns them and their costs (S,).

        Args:
            actions: control actions in [-1, 1].
            sources: (S,) where each comes from.
            latents: (S, H, D) if they are known already.
        """
        if latents is None:
            start, stages = self._start, self._task.stages
            inputs = start.z, start.z_prev, actions, *start.bounds(actions.shape[2])
            if stages is None:
                actions, latents = unroll(self._dynamics, self._skip, *inputs)
            else:
                actions, latents = stages.unroll(*inputs)
        costs, terms = self._task.cost(latents, actions)
        self.candidates += len(actions)
        self.sweeps += 1
        i = int(torch.argmin(costs))
        if self.best is None or float(costs[i]) < self.best.cost:
            shares = {key: float(value[i]) for key, value in terms.items()}
            cost, none = float(costs[i]), latents[:0]
            self.best = Solution(actions[i], latents[i], cost, shares, sources[i], 0, 0, none)
        self._others = latents, costs
        return actions, costs

    def result(self) -> Solution:
        """The best, with the counts of the whole search."""
        assert self.best is not None
        latents, costs = self._others
        others = latents[costs.argsort()[1 : 1 + OTHERS]]
        return replace(self.best, candidates=self.candidates, sweeps=self.sweeps, others=others)
