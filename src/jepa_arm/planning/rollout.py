"""Rollouts: feasible actions, their delayed effect, and the latents that they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from jepa_arm.model.numerics import clamp_keep_nan
from jepa_arm.model.world_model import shift_history

from .model import Dynamics


class ActionLimits(NamedTuple):
    """Limits and delay of actions.

    Attributes:
        bounds: (2, A) lowest and highest sum of the actions since the start of the plan.
        speed_scale: () largest magnitude of an action on each axis, in (0, 1].
        delay_fraction: () share of a control step before an action takes effect, in [0, 1].
    """

    bounds: Tensor
    speed_scale: Tensor
    delay_fraction: Tensor


class RolloutState(NamedTuple):
    """State of R rollouts between two model steps.

    Attributes:
        z: (R, D) current latents.
        z_prev: (R, past*D) latents of the model steps before.
        displacement: (R, A) sum of the actions since the start of the plan.
        previous_action: (R, A) last action.
    """

    z: Tensor
    z_prev: Tensor
    displacement: Tensor
    previous_action: Tensor

    def expand(self, rows: int) -> RolloutState:
        """Return ``rows`` copies of a single state."""
        return RolloutState(*(x.expand(rows, -1) for x in self))

    def advance(self, actions: Tensor, displacement: Tensor, z: Tensor) -> RolloutState:
        """Return the state one model step later.

        Args:
            actions: (R, K, A) in that step. displacement, z: their values after it.
        """
        return RolloutState(z, shift_history(self.z, self.z_prev), displacement, actions[:, -1])


@dataclass(frozen=True)
class StartState:
    """State that a plan starts from, with the limits of its actions.

    Attributes:
        z: (1, D) current latent.
        z_prev: (1, past*D) latents of the model steps before.
        action_bounds: (2, A) lowest and highest sum of the actions on each axis that keeps the
            tip's setpoint inside the workspace; None: unbounded.
        delay_fraction: share of a control step before an action takes effect, in [0, 1].
        previous_action: (A,) action before the first, if ``z`` does not reflect its remaining
            effect; None otherwise.
        speed_scale: largest magnitude of an action on each axis, in (0, 1].
        tip_setpoint: (3,) m, tip position commanded before the first action; needed where the
            plan must avoid obstacles.
    """

    z: Tensor
    z_prev: Tensor
    action_bounds: Tensor | None = None
    delay_fraction: float = 0.0
    previous_action: Tensor | None = None
    speed_scale: float = 1.0
    tip_setpoint: Tensor | None = None

    def action_limits(self, width: int) -> ActionLimits:
        """Return the limits for A = ``width``; without ``action_bounds`` the sum is unbounded."""
        bounds = self.action_bounds
        if bounds is None:
            bounds = torch.tensor([[-torch.inf], [torch.inf]]).expand(2, width)
        return ActionLimits(
            bounds, torch.tensor(self.speed_scale), torch.tensor(self.delay_fraction)
        )

    def rollout_state(self, width: int) -> RolloutState:
        """Return the state (one row) before the first action; A = ``width``."""
        previous, zeros = self.previous_action, torch.zeros(1, width)
        previous = zeros if previous is None else previous.view(1, width)
        return RolloutState(self.z, self.z_prev, zeros, previous)


def limit_actions(actions: Tensor, displacement: Tensor, limits: ActionLimits) -> Tensor:
    """Return ``actions`` (S, T, A), clipped to the speed limit and to the bounds of their sum.

    Beyond the edge of the workspace the model would extrapolate, and its predictions there can
    look better than any real motion.

    Args:
        actions: control actions. displacement: (S, A) sum of all earlier actions of the plan.
    """
    limited = []
    for action in clamp_keep_nan(actions, -limits.speed_scale, limits.speed_scale).unbind(1):
        after = clamp_keep_nan(displacement + action, limits.bounds[0], limits.bounds[1])
        limited.append(after - displacement)
        displacement = after
    return torch.stack(limited, 1)


def apply_delay(
    actions: Tensor, delay_fraction: float | Tensor, previous_action: Tensor | None = None
) -> Tensor:
    """Return the motion (S, T, A) in each control step if ``actions`` take effect with a delay.

    The delayed share of each action takes effect in the next control step.

    Args:
        actions: (S, T, A). delay_fraction: share of a control step, in [0, 1].
        previous_action: (S, A) action before the first; None if the latent reflects it already.
    """
    first = (
        torch.zeros_like(actions[:, :1]) if previous_action is None else previous_action[:, None]
    )
    return torch.lerp(actions, torch.cat([first, actions[:, :-1]], dim=1), delay_fraction)


def rollout(
    dynamics: Dynamics, frame_skip: int, start: RolloutState, actions: Tensor, limits: ActionLimits
) -> tuple[Tensor, Tensor]:
    """Return the feasible actions (S, T, A) and the latents (S, H, D) that they lead to.

    Args:
        dynamics: world model. frame_skip: K, control steps in a model step.
        start: single state that all rollouts start from.
        actions: (S, T, A) candidates, T = H*K.
        limits: limits of the actions.
    """
    state = start.expand(actions.shape[0])
    actions = limit_actions(actions, state.displacement, limits)
    moved = apply_delay(actions, limits.delay_fraction, state.previous_action)
    blocks = moved.reshape(actions.shape[0], -1, frame_skip * actions.shape[2])
    return actions, dynamics.rollout(state.z, state.z_prev, blocks)
