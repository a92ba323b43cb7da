"""Planners of an agent: one for positions, and one for positions with a yaw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from jepa_arm.config import PlannerConfig
from jepa_arm.core.goals import Goal, GoalError, PositionGoal
from jepa_arm.model.checkpoint import Checkpoint, load_pose_actor_critic
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.world_model import WorldModel
from jepa_arm.planning.backends.stage_compiler import make_stage_compiler
from jepa_arm.planning.candidate_budget import CandidateBudget, measure_candidate_budget
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.obstacles.constraints import ObstacleConstraints
from jepa_arm.planning.planner import Plan, Planner
from jepa_arm.planning.pose_dynamics import POSE_WIDTH, PoseDynamics
from jepa_arm.planning.rollout import StartState
from jepa_arm.planning.search.problem import MakeOptimizer
from jepa_arm.robot.arm import Arm

from .yaw_tracker import YawTracker


class Planners:
    """Position planner and pose planner of one agent; the latter is created when first needed.

    Attributes:
        deadline_ms: time limit of a plan; must not be set while a plan is computed.
        constraints: obstacles that tip and object avoid, or None.
        yaw_tracker: tracks the object's yaw; None if the checkpoint cannot plan for pose goals.
        candidate_range: allowed values of ``candidates_per_iteration``; empty with a custom
            optimizer, or without an actor for position goals.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arm: Arm,
        config: PlannerConfig,
        seed: int,
        optimizer: MakeOptimizer | None,
        candidates_per_iteration: int | None = None,
    ) -> None:
        """Create the position planner; the arguments are those of ``Agent``."""
        self._checkpoint, self._config = checkpoint, config
        self._seed, self._optimizer = seed, optimizer
        self.deadline_ms = config.deadline_ms
        self.constraints: ObstacleConstraints | None = None
        low, high = arm.workspace_min + config.edge_margin, arm.workspace_max - config.edge_margin
        self._region = torch.tensor(np.stack([low, high])[:, :2], dtype=torch.float32)
        self._model = PlanningModel.from_checkpoint(checkpoint)
        networks = self._model.actor_critic
        has_actor = isinstance(networks, ActorCritic) and not networks.uses_latent_goals
        has_choice = optimizer is None and has_actor
        self.candidate_range = config.candidate_range if has_choice else range(0)
        is_allowed = candidates_per_iteration in self.candidate_range
        candidates = candidates_per_iteration if is_allowed else None
        self._position_planner = self._make_planner(candidates or config.candidates)
        self._pose_dynamics: PoseDynamics | None = None
        self._pose_model: PlanningModel | None = None
        self._pose_planner: Planner | None = None
        self.yaw_tracker: YawTracker | None = None
        heads = load_pose_actor_critic(checkpoint)
        if heads is not None and isinstance(checkpoint.model, WorldModel):
            self._pose_dynamics = PoseDynamics(checkpoint.model, checkpoint.probes, heads)
            self._pose_model = self._pose_dynamics.planning_model(heads)
            self.yaw_tracker = YawTracker(heads.yaw_probe, checkpoint.contract.camera)

    def plan(self, start: StartState, goal: Goal, max_candidates: int | None = None) -> Plan:
        """Return a plan from ``start`` towards ``goal``.

        A goal with a yaw is treated as a position until the object's yaw has been read once.
        Switching between the planners drops the warm start.

        Args:
            start, max_candidates: see ``Planner.plan``.
            goal: position, pose or latent.

        Raises:
            PlanningError: the model gives no finite plan.
        """
        yaw = None if self.yaw_tracker is None else self.yaw_tracker.estimate.yaw
        wants_yaw = isinstance(goal, PositionGoal) and goal.yaw is not None
        if not wants_yaw or yaw is None:
            if self._pose_planner is not None:
                self._pose_planner.reset()
            return self._up_to_date(self._position_planner).plan(start, goal, max_candidates)
        self._position_planner.reset()
        assert self._pose_dynamics is not None
        z, z_prev = self._pose_dynamics.augment(start.z, start.z_prev, yaw)
        start, planner = replace(start, z=z, z_prev=z_prev), self._ready_pose_planner()
        plan = self._up_to_date(planner).plan(start, goal, max_candidates)
        latents, others = plan.latents[..., :-POSE_WIDTH], plan.alternatives[..., :-POSE_WIDTH]
        return replace(plan, latents=latents, alternatives=others)

    def reset(self) -> None:
        """Drop the warm starts and reseed the random numbers."""
        self._position_planner.reset()
        if self._pose_planner is not None:
            self._pose_planner.reset()

    def check(self, goal: Goal) -> None:
        """Check ``goal`` and prepare the planner for it, see ``Agent.check_goal``.

        Raises:
            GoalError: the goal cannot be pursued.
        """
        if not isinstance(goal, PositionGoal):
            return
        if goal.yaw is not None:
            if self.yaw_tracker is None:
                raise GoalError(
                    'goal yaw: expected none, as this checkpoint has no pose.safetensors; train '
                    'it (jepa-arm train --only pose)'
                )
            self._ready_pose_planner()
        if self.constraints is not None:
            self.constraints.check(goal)

    @property
    def candidates_per_iteration(self) -> int:
        """Candidates evaluated in each iteration of a search.

        Setting another number restarts the planners, which takes seconds if they are compiled.

        Raises:
            ValueError: the number is not in ``candidate_range``.
        """
        return self._position_planner.config.candidates

    @candidates_per_iteration.setter
    def candidates_per_iteration(self, candidates: int) -> None:
        if candidates == self.candidates_per_iteration:
            return
        if candidates not in self.candidate_range:
            raise ValueError(
                f'candidates_per_iteration: expected one of {self.candidate_range}, got '
                f'{candidates}'
            )
        self._position_planner, self._pose_planner = self._make_planner(candidates), None

    def measure_candidate_budget(self) -> CandidateBudget | None:
        """Measure how many candidates per iteration fit into the deadline on this machine.

        The warm start is dropped. None if there is no choice, no deadline or no finite plan.
        """
        if len(self.candidate_range) < 2:
            return None
        model = self._checkpoint.model
        z, z_prev = torch.zeros(1, model.latent_dim), torch.zeros(1, model.past * model.latent_dim)
        planner = self._up_to_date(self._position_planner)
        return measure_candidate_budget(planner, self._config.candidates, z, z_prev)

    def _up_to_date(self, planner: Planner) -> Planner:
        """Return ``planner`` after giving it the current deadline and obstacles."""
        planner.deadline_ms, planner.constraints = self.deadline_ms, self.constraints
        return planner

    def _make_planner(self, candidates: int, poses: PoseDynamics | None = None) -> Planner:
        config = replace(self._config, candidates=candidates)
        model = self._model if poses is None else self._pose_model
        assert model is not None
        compiler = make_stage_compiler(self._checkpoint, config, poses)
        return Planner(model, config, self._seed, self._optimizer, self._region, compiler)

    def _ready_pose_planner(self) -> Planner:
        """Return the pose planner; the first call creates it, which takes seconds."""
        if self._pose_planner is None:
            candidates = self.candidates_per_iteration
            self._pose_planner = self._make_planner(candidates, self._pose_dynamics)
        return self._pose_planner
