"""Planner: from a start state and a goal to control actions, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_arm.config import PlannerConfig
from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.goals import SUBJECTS, Goal, LatentGoal
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic

from .costs.obstacle import BLOCKED_COST, ObstacleCost
from .model import PlanningModel
from .objective import (
    LatentObjective,
    Objective,
    PoseObjective,
    PositionObjective,
    Stages,
    torch_stages,
)
from .obstacles.constraints import ObstacleConstraints
from .rollout import StartState
from .search.local_search import ActorOnly, LocalSearch
from .search.problem import MakeOptimizer, PlanningProblem, SearchBudget, Solution
from .search.sampling import CEM, ICEM, MPPI

SEARCHES: dict[str, MakeOptimizer] = {
    'local': LocalSearch,
    'actor': ActorOnly,
    'icem': ICEM,
    'cem': CEM,
    'mppi': MPPI,
}
NEED_ACTOR = ('local', 'actor')


@dataclass(frozen=True)
class Plan(Solution):
    """Solution of a planning problem, with the time that it took.

    Attributes:
        is_continued: whether the search was warm-started with the rest of the last plan.
        latency_ms: wall-clock time of planning.
    """

    is_continued: bool
    latency_ms: float

    @property
    def is_blocked(self) -> bool:
        """True if the plan leads the tip into an obstacle, because no other was found."""
        return self.terms.get('obstacle', 0.0) >= BLOCKED_COST


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Let torch multiply float32 matrices faster, with as little as 16-bit precision.

    On CPUs, oneDNN is then used instead of MKL. It computes in bfloat16, as in training, if the
    processor has a matrix unit for it, and otherwise in full precision.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class PlanningError(JepaArmError, RuntimeError):
    """No usable plan; the caller must hold the arm."""


class Planner:
    """Plans towards one goal at a time and keeps a warm start between calls.

    The same seed, goals and start states give the same plans, unless the deadline cuts a search
    short.

    Attributes:
        config: configuration of the search.
        deadline_ms: time limit of a plan; must not be set while a plan is computed.
        constraints: obstacles that tip and object avoid, or None.
    """

    def __init__(
        self,
        model: PlanningModel,
        config: PlannerConfig,
        seed: int = 0,
        optimizer: MakeOptimizer | None = None,
        region: Tensor | None = None,
        compile_stages: Callable[[Objective], Stages] | None = None,
    ) -> None:
        """Prepare the search for every kind of goal.

        Args:
            model: world model, probes and actor-critic.
            config: configuration of the search.
            seed: seed of the random numbers.
            optimizer: makes the search; None: the configured one.
            region: (2, 2) m, lowest and highest (x, y) where the tip can push the object from
                every side, or None.
            compile_stages: compiles the stages of position and pose goals; None: torch runs them.
        """
        self.config, self.deadline_ms = config, config.deadline_ms
        self.constraints: ObstacleConstraints | None = None
        make = optimizer or SEARCHES[config.optimizer]
        self._optimizer = make(config, model.contract)
        self._needs_actor = optimizer is None and config.optimizer in NEED_ACTOR
        self._fallback = ICEM(config, model.contract)
        self._objectives: dict[str, Objective]
        if isinstance(model.actor_critic, PoseActorCritic):
            self._objectives = {'object': PoseObjective('pose', model, config, region)}
        else:
            positions = {s: PositionObjective(s, model, config, region) for s in SUBJECTS}
            self._objectives = {**positions, 'latent': LatentObjective('latent', model, config)}
        self._stages = {
            kind: torch_stages(objective)
            if compile_stages is None or kind == 'latent'
            else compile_stages(objective)
            for kind, objective in self._objectives.items()
        }
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._warm_start: Tensor | None = None

    def reset(self) -> None:
        """Discard the warm start and reseed the random numbers."""
        self._generator = torch.Generator().manual_seed(self._seed)
        self._warm_start = None

    @torch.inference_mode()
    def plan(self, start: StartState, goal: Goal, max_candidates: int | None = None) -> Plan:
        """Return the cheapest plan found from ``start`` towards ``goal``.

        Args:
            start: latents, limits and setpoint.
            goal: position, pose or latent.
            max_candidates: replaces the deadline, see ``SearchBudget``.

        Raises:
            PlanningError: a start latent is not finite, or no candidate has a finite cost.
        """
        warm_start, self._warm_start = self._warm_start, None
        if not (torch.isfinite(start.z).all() and torch.isfinite(start.z_prev).all()):
            raise PlanningError('the latent to plan from is not finite')
        began = time.perf_counter()
        budget = SearchBudget(began + self.deadline_ms / 1000.0, max_candidates)
        problem = self._problem(start, goal, warm_start)
        is_unknown = self._needs_actor and problem.objective.actor_critic is None
        optimizer = self._fallback if is_unknown else self._optimizer
        with fast_matmul():
            solution = optimizer.solve(problem, budget, self._generator)
        if not (torch.isfinite(solution.actions).all() and solution.cost < float('inf')):
            raise PlanningError(
                f'none of {solution.candidates} candidates has a finite cost: the model or its '
                'actor-critic is not finite'
            )
        self._warm_start = torch.cat([solution.actions[1:], solution.actions[-1:]])
        latency_ms = (time.perf_counter() - began) * 1000.0
        return Plan(**vars(solution), is_continued=warm_start is not None, latency_ms=latency_ms)

    def _problem(
        self, start: StartState, goal: Goal, warm_start: Tensor | None
    ) -> PlanningProblem:
        kind = 'latent' if isinstance(goal, LatentGoal) else goal.subject
        objective, obstacle_cost = self._objectives[kind], None
        if self.constraints is not None:
            assert start.tip_setpoint is not None
            weight, slack = self.config.obstacle_weight, self.config.obstacle_slack
            setpoint, moves_object = start.tip_setpoint, kind == 'object'
            obstacle_cost = ObstacleCost(weight, slack, self.constraints, setpoint, moves_object)
        return PlanningProblem(
            start,
            objective.goal_tensor(goal),
            objective,
            self._stages[kind],
            warm_start,
            obstacle_cost,
        )
