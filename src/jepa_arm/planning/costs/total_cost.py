"""Total cost of a rollout: the cost terms for each kind of goal, and their sum.

To add a cost term, write a class with ``name`` and ``score(rollouts) -> (S,)`` in a new file of
this folder, give it a weight in ``PlannerConfig``, and add it to the lists below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_arm.config import PlannerConfig
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic
from jepa_arm.planning.model import PlanningModel

from .cost_term import CostTerm
from .distance import DistanceCost
from .latent_distance import LatentDistanceCost
from .press import PressCost
from .region import RegionCost
from .value import ValueCost
from .yaw import YawCost


def terms_for(
    kind: str,
    model: PlanningModel,
    config: PlannerConfig,
    critic: ActorCritic | PoseActorCritic | None,
    region: Tensor | None = None,
) -> tuple[CostTerm, ...]:
    """Return the cost terms for one kind of goal.

    Args:
        kind: position of the 'tip' or the 'object', 'pose' of the object, or 'latent'.
        model: model whose latents are scored.
        config: weights of the terms.
        critic: actor-critic for this kind of goal, or None.
        region: (2, 2) m, lowest and highest (x, y) where the tip can push the object from every
            side, or None.
    """
    values = () if critic is None else (ValueCost(config.value_weight, critic.value),)
    if kind == 'tip':
        return (DistanceCost(config.distance_weight),)
    if kind == 'latent':
        return (LatentDistanceCost(config.latent_weight if values else 1.0), *values)
    terms: list[CostTerm] = [DistanceCost(config.distance_weight, model.position_std)]
    if kind == 'pose':
        terms.append(YawCost(config.yaw_weight))
    terms += values
    if config.press_weight > 0.0:
        lag = 1.0 / model.contract.time.frame_skip  # one control step
        radius, height = config.press_radius, config.press_height
        terms.append(PressCost(config.press_weight, radius, height, lag, model.read_position))
    if region is not None:
        terms.append(RegionCost(config.region_weight, region))
    return tuple(terms)


def total_cost(scores: dict[str, Tensor]) -> Tensor:
    """Return the sum (S,) of the terms' ``scores`` (S,), with infinity where it is not finite.

    A rollout whose cost is not finite is therefore never chosen.
    """
    total = torch.stack(list(scores.values())).sum(0)
    return torch.where(torch.isfinite(total), total, torch.inf)
