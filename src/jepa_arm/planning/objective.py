"""Objectives: proposals and costs of plans for each kind of goal, and the stages of a search.

There is one objective per kind of goal: a position of the object or of the tip, a position and a
yaw of the object, or the latent of a goal image. The stages of a search are the functions that
take most of its time. Their goal is an input tensor, so that they are compiled only once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import PlannerConfig
from jepa_arm.core.goals import Goal, LatentGoal, PositionGoal
from jepa_arm.model.heads.actor_critic import ActorCritic, goal_features, latent_goal_features
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic, pose_features
from jepa_arm.model.heads.push_dynamics import ObjectFrame

from .costs.cost_term import Rollouts
from .costs.total_cost import terms_for
from .costs.value import ValueCost
from .model import Dynamics, PlanningModel
from .rollout import ActionLimits, RolloutState, apply_delay, limit_actions, rollout

StageFunction = Callable[..., tuple[Tensor, ...]]
"""Function that takes tensors and NamedTuples of tensors."""
StageInputs = tuple[Tensor | tuple[Tensor, ...], ...]
"""Inputs of a ``StageFunction``."""


class ActorQuery(NamedTuple):
    """Inputs of the actor for C proposals, besides the latents.

    Attributes:
        goal: (1, G), see ``Objective.goal_tensor``.
        remaining: (C,) time to the goal as a share of the longest in training, in [0, 1].
        gumbel: (C, M) Gumbel noise that selects one of the actor's M modes.
        noise: (C, K*A) noise in standard deviations of that mode.
    """

    goal: Tensor
    remaining: Tensor
    gumbel: Tensor
    noise: Tensor


class Objective(ABC):
    """Proposals and cost of plans towards one kind of goal.

    Attributes:
        model: model in whose latent space plans are searched.
        actor_critic: actor and value for this kind of goal, or None.
        terms: cost terms that depend on the predicted latents alone.
        cache_key: identifies what compiled functions depend on, except weights and source code.
        subject: 'tip' or 'object', whose positions are read from latents.
        goal_width: G, numbers in a goal; 0 if it varies.
    """

    goal_width = 0

    def __init__(
        self, kind: str, model: PlanningModel, config: PlannerConfig, region: Tensor | None = None
    ) -> None:
        """Assemble the cost terms.

        Args:
            kind: 'object' or 'tip' (positions), 'pose' or 'latent'.
            model: world model, probes and actor-critic.
            config: weights of the cost terms.
            region: (2, 2) m, lowest and highest (x, y) where the tip can push the object from
                every side, or None.
        """
        self.model, self.subject = model, 'tip' if kind == 'tip' else 'object'
        self.actor_critic = _actor_critic(model, kind)
        self.terms = terms_for(kind, model, config, self.actor_critic, region)
        self._uses_value = any(isinstance(term, ValueCost) for term in self.terms)
        names, has_std = [term.name for term in self.terms], model.position_std is not None
        bounds = None if region is None else region.tolist()
        self.cache_key = f'{kind} {names} {has_std} {bounds} {config}'

    @abstractmethod
    def goal_tensor(self, goal: Goal) -> Tensor:
        """Return ``goal`` as a tensor (1, G)."""

    @abstractmethod
    def actor_inputs(
        self, z: Tensor, z_prev: Tensor, positions: Tensor, goal: Tensor
    ) -> tuple[Tensor, Any]:
        """Return the features for actor and value, and the state for the actor's ``sample``.

        Args:
            z, z_prev: (B, D) latents, and those one model step before.
            positions: (B, 3) m, see ``positions``. goal: (1, G).
        """

    def positions(self, latents: Tensor) -> Tensor:
        """Return the subject's positions (..., 3) m in ``latents`` (..., D)."""
        return self.model.read_position(self.subject, latents)

    def propose(self, z: Tensor, z_prev: Tensor, query: ActorQuery) -> tuple[Tensor, Tensor]:
        """Return action blocks sampled from the actor, and the features (C, F) it was given.

        Args:
            z, z_prev: (C, D) current latents, and those one model step before.
            query: goal, remaining time and noise.
        """
        assert self.actor_critic is not None
        features, state = self.actor_inputs(z, z_prev, self.positions(z), query.goal)
        actor = self.actor_critic.actor
        return actor.sample(features, state, query.remaining, query.gumbel, query.noise), features

    def cost_terms(self, start: Tensor, latents: Tensor, goal: Tensor) -> tuple[Tensor, ...]:
        """Return the costs (N, S) of N terms, the subject's positions and the value's features.

        The features are returned only so that the backend computes them in single precision.

        Args:
            start: (1, D). latents: (S, H, D). goal: (1, G).
        """
        rollouts = Rollouts(start, latents, goal, self.positions(latents))
        if self._uses_value:
            before = rollouts.path[:, :-1].flatten(0, 1)
            positions = rollouts.positions.flatten(0, 1)
            features, _ = self.actor_inputs(latents.flatten(0, 1), before, positions, goal)
            rollouts = replace(rollouts, features=features)
        scores = torch.stack([term.score(rollouts) for term in self.terms])
        features = rollouts.positions if rollouts.features is None else rollouts.features
        return scores, rollouts.positions, features


class PositionObjective(Objective):
    """Objective for a position of the object or of the tip."""

    goal_width = 3

    def goal_tensor(self, goal: Goal) -> Tensor:
        """Return the goal position (1, 3) m."""
        assert isinstance(goal, PositionGoal)
        return torch.tensor(np.asarray(goal.position)[None], dtype=torch.float32)

    def actor_inputs(
        self, z: Tensor, z_prev: Tensor, positions: Tensor, goal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the features (B, D + 7) and the latents' change (B, D)."""
        is_object = torch.full_like(z[:, 0], 1.0 if self.subject == 'object' else 0.0)
        return goal_features(z, positions, is_object, goal.expand(len(z), 3)), z - z_prev


class PoseObjective(Objective):
    """Objective for a position and a yaw of the object, in the latents of ``PoseDynamics``."""

    goal_width = 4

    def goal_tensor(self, goal: Goal) -> Tensor:
        """Return the goal (1, 4): position (m) and yaw (rad)."""
        assert isinstance(goal, PositionGoal) and goal.yaw is not None
        return torch.tensor([[*goal.position, goal.yaw]], dtype=torch.float32)

    def actor_inputs(
        self, z: Tensor, z_prev: Tensor, positions: Tensor, goal: Tensor
    ) -> tuple[Tensor, ObjectFrame]:
        """Return the features (B, F), and the object's frame in which the actor acts."""
        tip = self.model.read_position('tip', z), self.model.read_position('tip', z_prev)
        position = positions, self.positions(z_prev)
        return pose_features(z[:, -1], tip, position, goal.expand(len(z), 4))


class LatentObjective(Objective):
    """Objective for the latent of a goal image."""

    def goal_tensor(self, goal: Goal) -> Tensor:
        """Return the goal latent (1, D)."""
        assert isinstance(goal, LatentGoal)
        return torch.tensor(np.asarray(goal.latent)[None], dtype=torch.float32)

    def positions(self, latents: Tensor) -> Tensor:
        """Return empty positions: this kind of goal needs no probes."""
        return latents[..., :0]

    def actor_inputs(
        self, z: Tensor, z_prev: Tensor, positions: Tensor, goal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the features (B, 2*D) and the latents' change (B, D)."""
        return latent_goal_features(z, goal), z - z_prev


def _actor_critic(model: PlanningModel, kind: str) -> ActorCritic | PoseActorCritic | None:
    """Return the actor-critic of ``model`` if it was trained for this kind of goal."""
    networks = model.actor_critic
    if isinstance(networks, ActorCritic) and networks.uses_latent_goals != (kind == 'latent'):
        return None
    return networks


@dataclass(frozen=True)
class Stages:
    """Stages of searches towards one kind of goal, run by torch or compiled by a backend.

    Attributes:
        actor_step: function ``actor_step``, from its argument ``state`` on; None or unusable
            without an actor.
        rollout: function ``rollout.rollout``, from its argument ``start`` on.
        cost_terms: function ``Objective.cost_terms``.
    """

    actor_step: StageFunction | None
    rollout: StageFunction
    cost_terms: StageFunction


def torch_stages(objective: Objective) -> Stages:
    """Return the stages of searches towards goals of ``objective``, run by torch."""
    model = objective.model
    return Stages(
        partial(actor_step, model.dynamics, objective),
        partial(rollout, model.dynamics, model.contract.time.frame_skip),
        objective.cost_terms,
    )


def actor_step(
    dynamics: Dynamics,
    objective: Objective,
    state: RolloutState,
    fixed_actions: Tensor,
    query: ActorQuery,
    limits: ActionLimits,
) -> tuple[Tensor, ...]:
    """Advance R rollouts by one model step, the first C of them with actions from the actor.

    Args:
        dynamics: world model. objective: provides the actor.
        state: state of the rollouts before the step.
        fixed_actions: (R-C, K, A) actions of the other rollouts.
        query: goal, remaining time and noise for the actor.
        limits: limits of the actions.

    Returns:
        The actions (R, K, A), their sum since the start (R, A), the latents after the step (R, D)
        and the features that the actor was given (C, F).
    """
    count, (frame_skip, width) = query.remaining.shape[0], fixed_actions.shape[1:]
    z_prev = state.z_prev[:count, : state.z.shape[1]]
    proposed, features = objective.propose(state.z[:count], z_prev, query)
    actions = torch.cat([proposed.view(-1, frame_skip, width), fixed_actions])
    actions = limit_actions(actions, state.displacement, limits)
    moved = apply_delay(actions, limits.delay_fraction, state.previous_action)
    z = dynamics.predict(state.z, state.z_prev, moved.flatten(1))
    return actions, state.displacement + actions.sum(1), z, features
