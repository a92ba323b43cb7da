"""What a decision and a solved task take of this machine."""

from __future__ import annotations

from typing import Any

import torch

from .comparison import OURS, Run, Scene
from .comparison_table import MAIN_CM, summarise
from .config import PlannerConfig
from .metering import EnergyError, Rapl
from .model.checkpoint import Checkpoint
from .sim.tasks import EVALUATION_SEED

TASKS = 'reach', 'push'
FIGURES = (
    'processor_s_per_decision',
    'processor_s_per_solved',
    'gflop_per_decision',
    'gflop_per_solved',
    'joules_per_decision',
    'joules_per_solved',
)


def bench_energy(
    checkpoint: Checkpoint, scene: Scene, planner: PlannerConfig, episodes: int, seed: int
) -> dict[str, Any]:
    """Figures of ``comparison_table.summarise`` for reach and push, and joules if they can be had.

    Joules are those of all processor packages while the planner decided: run nothing beside it.
    """
    torch.set_num_threads(planner.threads)
    figures: dict[str, Any] = {'planner': planner.optimizer, 'episodes': episodes}
    rapl, figures['joules'] = None, 'measured by RAPL'
    try:
        rapl = Rapl()
    except EnergyError as error:
        figures['joules'] = f'not measured: {error}'
    contender = next(c for c in OURS if c.search == planner.optimizer)
    for task in TASKS:
        run = Run(checkpoint, scene, planner, contender, task, rapl)
        result = run.begin(seed)
        seeds = range(EVALUATION_SEED + seed, EVALUATION_SEED + seed + episodes)
        result['episodes'] = [run.episode(s) for s in seeds]
        run.close()
        summary = summarise(result)
        figures[f'{task}_success'] = summary['success'][f'{MAIN_CM[task]:g}']['rate']
        told = {key: summary[key] for key in FIGURES if summary.get(key) is not None}
        figures |= {f'{task}_{key}': round(value, 5) for key, value in told.items()}
        figures['machine'] = summary['machine']
    return figures
