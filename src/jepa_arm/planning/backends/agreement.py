"""Agreement of the backends: how similarly OpenVINO and torch rank the same candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import PlannerConfig
from jepa_arm.core.goals import PositionGoal
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.objective import PositionObjective, torch_stages
from jepa_arm.planning.rollout import StartState
from jepa_arm.planning.search.noise import coloured_noise
from jepa_arm.planning.search.problem import PlanningProblem, Solution

from .stage_compiler import make_stage_compiler


@torch.inference_mode()
def agreement(
    checkpoint: Checkpoint, config: PlannerConfig, plans: Sequence[Solution]
) -> dict[str, float]:
    """Measure how similarly the configured backend and torch rank the same candidates.

    Rollouts start from the first two predicted latents of each of ``plans``; the goal is 5 cm
    from the object along x.

    Returns:
        ``rank_correlation`` and ``rank_correlation_p1``: median and first percentile, over the
        plans, of Spearman's rank correlation of the costs. ``regret``: mean excess, over the
        cheapest candidate, of the cost of the backend's choice, as a share of the range of all
        costs; these costs are computed by torch.
    """
    model, skip = PlanningModel.from_checkpoint(checkpoint), checkpoint.contract.time.frame_skip
    objective = PositionObjective('object', model, config, region=None)
    compiler = make_stage_compiler(checkpoint, config)
    reference = torch_stages(objective)
    stages = reference if compiler is None else compiler(objective)
    shape = config.candidates, config.horizon * skip, checkpoint.contract.action_width
    generator = torch.Generator().manual_seed(0)
    correlations, regrets = [], []
    for plan in plans:
        start = StartState(plan.latents[1:2], plan.latents[:1])
        position = model.read_position('object', start.z)[0].numpy() + [0.05, 0.0, 0.0]
        goal = objective.goal_tensor(PositionGoal('object', position))
        candidates = coloured_noise(shape, 2.0, generator).clamp(-1.0, 1.0)
        costs = []
        for run in (reference, stages):
            problem = PlanningProblem(start, goal, objective, run)
            actions, latents = problem.roll_out(candidates)
            costs.append(problem.score(latents, actions)[0])
        expected, found = costs
        correlations.append(rank_correlation(expected, found))
        regret = expected[found.argmin()] - expected.min()
        regrets.append(float(regret / (expected.max() - expected.min())))
    return {
        'rank_correlation': round(float(np.median(correlations)), 5),
        'rank_correlation_p1': round(float(np.percentile(correlations, 1)), 5),
        'regret': round(float(np.mean(regrets)), 5),
    }


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors without ties."""
    ranks = torch.stack([costs.argsort().argsort() for costs in (first, second)])
    return float(torch.corrcoef(ranks.double())[0, 1])
