"""The planner: from a latent and a goal to control actions, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import Contract, PlannerConfig
from ..goals import SUBJECTS, Goal, PositionGoal
from .costs import ReadOut, Stages, Task
from .heads import Heads
from .local_search import ActorAlone, LocalSearch
from .obstacles import BARRED, KeepOut
from .pose import PoseTask
from .pose_heads import PoseHeads
from .sampling import CEM, ICEM, MPPI
from .search import Dynamics, MakeOptimizer, Optimizer, Solution, Start

SEARCHES = {'local': LocalSearch, 'actor': ActorAlone, 'icem': ICEM, 'cem': CEM, 'mppi': MPPI}
NEED_HEADS = ('local', 'actor')


@dataclass(frozen=True)
class Plan:
    """A plan and how it came about.

    Attributes:
        actions: (T, A) control actions in [-1, 1], T = horizon * frame_skip.
        latents: (H, D) predicted, one a model step.
        cost: of the plan; terms: each cost term's share.
        source: 'actor', 'warm_start' or 'search'.
        candidates, sweeps: sequences priced, in how many sweeps.
        latency_ms: wall-clock time the plan took.
        others: (N, H, D) predicted under the next best ones.
    """

    actions: Tensor
    latents: Tensor
    cost: float
    terms: dict[str, float]
    source: str
    candidates: int
    sweeps: int
    latency_ms: float
    others: Tensor

    @property
    def is_barred(self) -> bool:
        """Whether it leads the tip into an obstacle: no other was found."""
        return self.terms.get('obstacle', 0.0) >= BARRED


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Lets torch multiply float32 matrices as fast as 16 bits of precision allow.

    On CPUs oneDNN then does it in place of MKL, in full precision where the processor has no
    matrix unit for bfloat16; in bfloat16 where it has one, as the model was trained.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class PlanningError(RuntimeError):
    """No usable plan; the caller must hold the arm."""


class Planner:
    """Plans towards one goal at a time; keeps a warm start between calls.

    The same seed, goal and latents give the same plans, as long as no sweep is cut short by
    the deadline.

    Attributes:
        deadline_ms: of each plan.
        keep_out: what tip and object must not enter, or None.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        read: ReadOut,
        heads: Heads | PoseHeads | None,
        contract: Contract,
        config: PlannerConfig,
        seed: int = 0,
        optimizer: MakeOptimizer | None = None,
        spread: ReadOut | None = None,
        reach: Tensor | None = None,
        compile_stages: Callable[[Task], Stages] | None = None,
    ) -> None:
        """``optimizer`` makes what takes the configured one's place; the rest is as in ``Task``.

        ``compile_stages`` makes the stages of tasks that are alike but for goal and start.
        """
        self.config, self.deadline_ms = config, config.deadline_ms
        self._read, self._heads, self._spread, self._reach = read, heads, spread, reach
        skip, width = contract.time.frame_skip, contract.action_width
        self._lag = 1.0 / skip  # a control step
        make = optimizer or SEARCHES[config.optimizer]
        self._search: Optimizer = make(dynamics, config, skip, width)
        self._needs_heads = optimizer is None and config.optimizer in NEED_HEADS
        self._icem = ICEM(dynamics, config, skip, width)
        self._seed = seed
        self.keep_out: KeepOut | None = None
        self._stages: dict[str, Stages] = {}
        if compile_stages is not None:
            anywhere = [PositionGoal(subject, np.zeros(3)) for subject in SUBJECTS]
            if isinstance(heads, PoseHeads):
                anywhere = [PositionGoal('object', np.zeros(3), yaw=0.0)]
            self._stages = {g.subject: compile_stages(self._task(g)) for g in anywhere}
        self.reset()

    def reset(self) -> None:
        """Forgets the warm start and starts the random numbers anew."""
        self._generator = torch.Generator().manual_seed(self._seed)
        self._warm: Tensor | None = None

    @property
    def sweep_sizes(self) -> range:
        """Numbers of candidates in a sweep that it could be made for as well, see the config.

        Without heads for places, or with another optimizer than that, there is no choice.
        """
        heads = self._heads
        is_open = self._needs_heads and heads is not None and not heads.of_latents
        return self.config.sweep_sizes if is_open else range(0)

    @property
    def has_warm_start(self) -> bool:
        """Whether the next plan goes on from one before."""
        return self._warm is not None

    @torch.inference_mode()
    def plan(
        self,
        z: Tensor,
        z_prev: Tensor,
        goal: Goal,
        room: Tensor | None = None,
        late: float = 0.0,
        before: Tensor | None = None,
        speed: float = 1.0,
        most: int | None = None,
        told: Tensor | None = None,
    ) -> Plan:
        """The best plan from ``z`` with ``z_prev`` before it, (1, D) and (1, past*D).

        The other arguments are those of ``Start``, and ``told`` of ``Task``.

        Raises:
            PlanningError: the latent is not finite, or no candidate has a finite cost.
        """
        if not (torch.isfinite(z).all() and torch.isfinite(z_prev).all()):
            self._warm = None
            raise PlanningError('the latent to plan from is not finite')
        began = time.perf_counter()
        deadline = began + self.deadline_ms / 1000.0
        task = self._task(goal, z, told)
        start = Start(z, z_prev, self._warm, room, late, before, speed, most)
        with fast_matmul():
            found = self._optimizer(goal).solve(start, task, deadline, self._generator)
        self._check(found)
        self._warm = torch.cat([found.actions[1:], found.actions[-1:]])
        latency = (time.perf_counter() - began) * 1000.0
        return Plan(
            found.actions,
            found.latents,
            found.cost,
            found.terms,
            found.source,
            found.candidates,
            found.sweeps,
            latency,
            found.others,
        )

    def _task(self, goal: Goal, z: Tensor | None = None, told: Tensor | None = None) -> Task:
        kind = PoseTask if isinstance(self._heads, PoseHeads) else Task
        return kind(
            goal,
            torch.zeros(1, 0) if z is None else z,
            self._read,
            self._heads,
            self.config,
            self._lag,
            self._spread,
            self._reach,
            self.keep_out,
            told,
            self._stages.get(goal.subject) if isinstance(goal, PositionGoal) else None,
        )

    def _optimizer(self, goal: Goal) -> Optimizer:
        can_propose = self._heads is not None and self._heads.know(goal)
        return self._icem if self._needs_heads and not can_propose else self._search

    def _check(self, found: Solution) -> None:
        finite = torch.isfinite(found.actions).all() and found.cost < float('inf')
        if not finite:
            self._warm = None
            raise PlanningError(
                f'none of {found.candidates} candidates has a finite cost: the model or its '
                'heads are not finite'
            )
