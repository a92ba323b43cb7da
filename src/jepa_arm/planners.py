"""The searches that an agent plans by: one for places, and one for places with a yaw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from .arm import Arm
from .config import PlannerConfig
from .goals import Goal, GoalError, PositionGoal
from .model.checkpoint import Checkpoint
from .model.world_model import WorldModel
from .planning.fitting import Fit, fitted
from .planning.heads import load_heads
from .planning.obstacles import KeepOut
from .planning.planner import Planner
from .planning.pose import PoseDynamics
from .planning.pose_heads import PoseHeads, load_pose_heads
from .planning.runtime import stage_compiler
from .planning.search import MakeOptimizer
from .turning import Turning


class Planners:
    """All of them are alike but for what they plan for.

    Attributes:
        turning: that plans for yaws; None where the checkpoint has nothing for it.
        sweep_sizes: what ``sweep_size`` may be set to.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arm: Arm,
        config: PlannerConfig,
        seed: int,
        optimizer: MakeOptimizer | None,
        sweep_size: int | None = None,
    ) -> None:
        """See ``Agent``."""
        self._checkpoint, self._config, self._seed = checkpoint, config, seed
        self._optimizer = optimizer
        low, high = arm.workspace_min + config.edge_room, arm.workspace_max - config.edge_room
        self._reach = torch.tensor(np.stack([low, high])[:, :2], dtype=torch.float32)
        heads, probes = load_heads(checkpoint), checkpoint.probes

        def make(config: PlannerConfig) -> Planner:
            return Planner(
                checkpoint.model,
                probes.read,
                heads,
                checkpoint.model.contract,
                config,
                seed,
                optimizer,
                probes.spread,
                self._reach,
                stage_compiler(checkpoint, config),
            )

        first = replace(config, candidates=sweep_size or config.candidates)
        self._make, self.plain = make, make(first)
        self.sweep_sizes = config.sweep_sizes if self.plain.sweep_sizes else range(0)
        if sweep_size is not None and not self.sweep_sizes:
            self.plain = make(config)  # a search without a choice prices those configured
        self.turning: Turning | None = None
        poses = load_pose_heads(checkpoint)
        if poses is not None and isinstance(checkpoint.model, WorldModel):
            camera = checkpoint.model.contract.camera
            dynamics = PoseDynamics(checkpoint.model, probes, poses)
            make_planner = self._for_poses(dynamics, poses)
            self.turning = Turning(poses.reader, camera, dynamics, make_planner)

    def _for_poses(self, poses: PoseDynamics, heads: PoseHeads) -> Callable[[], Planner]:
        def make() -> Planner:
            checkpoint = self._checkpoint
            config = replace(self._config, candidates=self.sweep_size)
            return Planner(
                poses,
                poses.read,
                heads,
                poses.model.contract,
                config,
                self._seed,
                self._optimizer,
                poses.spread,
                self._reach,
                stage_compiler(checkpoint, config, poses),
            )

        return make

    @property
    def deadline_ms(self) -> float:
        """ms, of each plan."""
        return self.plain.deadline_ms

    @deadline_ms.setter
    def deadline_ms(self, deadline: float) -> None:
        self.plain.deadline_ms = deadline

    @property
    def keep_out(self) -> KeepOut | None:
        """What tip and object must not enter, or None."""
        return self.plain.keep_out

    @keep_out.setter
    def keep_out(self, keep_out: KeepOut | None) -> None:
        self.plain.keep_out = keep_out

    @property
    def sweep_size(self) -> int:
        """Candidates priced in a sweep. With another number plans begin anew, with the seed.

        To set it takes seconds where plans run compiled.

        Raises:
            ValueError: it is none of ``sweep_sizes``.
        """
        return self.plain.config.candidates

    @sweep_size.setter
    def sweep_size(self, candidates: int) -> None:
        before = self.plain
        if candidates == self.sweep_size:
            return
        if candidates not in self.sweep_sizes:
            raise ValueError(f'sweep_size: expected one of {self.sweep_sizes}, got {candidates}')
        planner = self._make(replace(self._config, candidates=candidates))
        planner.keep_out, planner.deadline_ms = before.keep_out, before.deadline_ms
        self.plain = planner
        if self.turning is not None:
            self.turning.renew()

    def fitted(self) -> Fit | None:
        """How many candidates a sweep may price in time here, see ``planning.fitting``.

        None, too, where the configuration names one number, or a search has no use for another.
        Plans begin anew; what they are made with stays.
        """
        if len(self.sweep_sizes) < 2:
            return None
        model = self._checkpoint.model
        z, z_prev = torch.zeros(1, model.latent), torch.zeros(1, model.past * model.latent)
        return fitted(self.plain, self._config.candidates, z, z_prev)

    def check(self, goal: Goal) -> None:
        """Raises GoalError for a goal that cannot be pursued; see ``Agent.check_goal``."""
        if not isinstance(goal, PositionGoal):
            return
        if goal.yaw is not None:
            if self.turning is None:
                raise GoalError(
                    'goal yaw: expected none, as this checkpoint has no pose.safetensors; teach '
                    'it (jepa-arm pose)'
                )
            self.turning.make_ready()
        if self.keep_out is not None:
            self.keep_out.check(goal)

    def forget_plans(self) -> None:
        """The next plan goes on from none before it."""
        self.plain.reset()
        if self.turning is not None:
            self.turning.forget_plans()

    def plans_for(self, goal: Goal) -> Planner | Turning:
        """What plans for ``goal`` now; the other goes on from none of its plans.

        Before the yaw was seen the object is pushed to its place.
        """
        turning, plain = self.turning, self.plain
        is_pose = isinstance(goal, PositionGoal) and goal.yaw is not None
        if turning is None or not is_pose or turning.yaw is None:
            if turning is not None:
                turning.forget_plans()
            return plain
        if plain.has_warm_start:
            plain.reset()
        poses = turning.make_ready()
        poses.deadline_ms, poses.keep_out = plain.deadline_ms, plain.keep_out
        return turning
