"""What runs the networks of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..config import ConfigError, PlannerConfig
from ..goals import PositionGoal
from ..model.checkpoint import Checkpoint
from ..model.world_model import WorldModel
from .costs import Stages, Task
from .heads import load_heads
from .noise import coloured_noise
from .planner import Plan
from .pose import PoseDynamics
from .search import Population, Start
from .stages import Compile, StageCompiler


def stage_compiler(
    checkpoint: Checkpoint, config: PlannerConfig, poses: PoseDynamics | None = None
) -> Callable[[Task], Stages] | None:
    """What compiles the stages of a search as ``config`` says; None: they run in torch.

    Of a search in ``poses`` in place of the world model, if they are given.

    Those of official world models, and of other searches than 'local', always do.

    Raises:
        ConfigError: OpenVINO, or a GPU, is asked for and not there.
    """
    model = checkpoint.model
    if config.runtime == 'torch' or config.optimizer != 'local':
        return None
    if not isinstance(model, WorldModel):
        return None
    dynamics = model if poses is None else poses
    return StageCompiler(
        compile_function(config), dynamics, checkpoint.probes, checkpoint.contract, config
    )


def compile_function(config: PlannerConfig) -> Compile:
    """What compiles functions of tensors as ``config`` says; 'torch' leaves them as they are.

    Raises:
        ConfigError: OpenVINO, or a GPU, is asked for and not there.
    """
    if config.runtime == 'torch':
        return lambda function, *_: function
    if config.runtime == 'cuda':
        if not torch.cuda.is_available():
            raise ConfigError(
                'runtime: expected a GPU that torch can use for cuda, got none '
                f'(torch {torch.__version__}); set runtime: openvino in config/planner.yaml'
            )
        from .captured import Captured

        return Captured
    try:
        from .compiled import Compiled
    except ImportError as error:
        raise ConfigError(
            f'runtime: expected the package openvino, got: {error}; install it '
            '(pip install openvino), or set runtime: torch in config/planner.yaml'
        ) from error
    return Compiled


@torch.inference_mode()
def agreement(
    checkpoint: Checkpoint, config: PlannerConfig, plans: Sequence[Plan]
) -> dict[str, float]:
    """How alike the configured runtime and torch price the same candidates.

    They start from the first latents that ``plans`` predict; the object is to go 5 cm further
    than it is read there.

    Returns:
        Spearman's rank correlation of the costs, ``rank_correlation`` the median and
        ``rank_correlation_p1`` the first percentile over the plans, and the mean ``regret``: how
        much what the runtime likes best costs more in torch than the best, as a share of the
        spread of all costs.
    """
    compiler, heads = stage_compiler(checkpoint, config), load_heads(checkpoint)
    probes, time = checkpoint.probes, checkpoint.contract.time
    generator, width = torch.Generator().manual_seed(0), checkpoint.contract.action_width
    stages: Stages | None = None
    correlations, regrets = [], []
    for plan in plans:
        z_prev, z = plan.latents[:1], plan.latents[1:2]
        place = probes.read('object', z)[0].numpy() + [0.05, 0.0, 0.0]
        lag = 1.0 / time.frame_skip
        goal = PositionGoal('object', place)
        task = Task(goal, z, probes.read, heads, config, lag, probes.spread)
        if stages is None and compiler is not None:
            stages = compiler(task)
        steps = config.horizon * time.frame_skip
        noise = coloured_noise(config.candidates, steps, width, 2.0, generator)
        actions, costs = noise.clamp(-1.0, 1.0), []
        for ran in (task, replace(task, stages=stages)):
            start = Start(z, z_prev, None)
            population = Population(checkpoint.model, start, ran, time.frame_skip)
            costs.append(population.price(actions, ['search'] * len(actions))[1])
        correlations.append(_rank_correlation(*costs))
        ours, best = costs[0][costs[1].argmin()], costs[0].min()
        regrets.append(float((ours - best) / (costs[0].max() - best)))
    return {
        'rank_correlation': round(float(np.median(correlations)), 5),
        'rank_correlation_p1': round(float(np.percentile(correlations, 1)), 5),
        'regret': round(float(np.mean(regrets)), 5),
    }


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    ranks = torch.stack([costs.argsort().argsort() for costs in (first, second)])
    return float(torch.corrcoef(ranks.double())[0, 1])
