"""The strict protocol: held-out seeds, real goals, floor and ceiling beside each figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from .agent import Agent
from .config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig
from .episode_result import EpisodeResult
from .evaluation_report import summarise
from .evaluator import EASY, Conditions, Evaluator
from .model.checkpoint import Checkpoint, check_contract
from .motion import make_contract
from .resources import git_hash
from .sim.tasks import EVALUATION_SEED


def evaluate(
    checkpoint: Checkpoint,
    arm: ArmConfig,
    sim: SimConfig,
    guard: GuardConfig,
    planner: PlannerConfig,
    task: str,
    episodes: int,
    seed: int,
    tolerance: float | None = None,
    baselines: bool = True,
    keep_frames: bool = False,
    progress: bool = True,
    conditions: Conditions = EASY,
) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The report (see ``summarise``) and the episodes behind it.

    Scenes have seeds ``EVALUATION_SEED + seed + i``, which data collection never uses; the
    agent, the floor and the ceiling get the same ones.

    Raises:
        CheckpointError: the checkpoint is for another arm, camera, action space or time chain.
        ConfigError: a delay that cannot be, or of which the guard would refuse everything.
    """
    check_contract(checkpoint.contract, make_contract(arm, sim.time))
    if not 0.0 <= conditions.delay <= guard.max_proposal_age:
        raise ConfigError(
            f'--delay: expected 0 to {guard.max_proposal_age * 1000.0:g} ms, beyond which the '
            f'guard refuses every proposal, got {conditions.delay * 1000.0:g}'
        )
    valid_for = max(planner.valid_for, conditions.delay + guard.late_validity)
    planner = replace(planner, valid_for=valid_for)
    evaluator = Evaluator(arm, sim, guard, task, tolerance, conditions=conditions)
    agent = Agent(checkpoint, evaluator.arm, planner)
    seeds = [EVALUATION_SEED + seed + i for i in range(episodes)]
    results, name = [], planner.optimizer
    with tqdm(seeds, unit='ep', desc=f'{task} {name}', disable=not progress) as bar:
        for scene_seed in bar:
            results.append(evaluator.run_agent(agent, scene_seed, keep_frames))
            bar.set_postfix(success=f'{sum(r.success for r in results)}/{len(results)}')
    rates = baseline_rates(evaluator, seeds, progress) if baselines else {}
    evaluator.world.close()
    report = summarise(results, evaluator.task, name, episodes, seed, rates)
    report['checkpoint'] = f'{checkpoint.folder.name}, trained at {checkpoint.info["git"]}'
    report['git'] = git_hash()
    return report, results


def evaluate_policy(
    policy: str,
    arm: ArmConfig,
    sim: SimConfig,
    guard: GuardConfig,
    task: str,
    episodes: int,
    seed: int,
    tolerance: float | None = None,
    keep_frames: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The same for a ``policy`` that needs no checkpoint: 'scripted', or 'random'.

    The scripted one tells what an arm's kinematics, limits and workspace allow.
    """
    evaluator = Evaluator(arm, sim, guard, task, tolerance)
    seeds = [EVALUATION_SEED + seed + i for i in range(episodes)]
    results = [
        evaluator.run_policy(policy, scene_seed, keep_frames)
        for scene_seed in tqdm(seeds, unit='ep', desc=f'{task} {policy}', disable=not progress)
    ]
    evaluator.world.close()
    report = summarise(results, evaluator.task, policy, episodes, seed)
    report['checkpoint'] = None
    report['git'] = git_hash()
    return report, results


def baseline_rates(evaluator: Evaluator, seeds: Sequence[int], progress: bool) -> dict[str, float]:
    """Success of 'random', the floor, and 'scripted', the ceiling, in the scenes ``seeds``."""
    rates, task = {}, evaluator.task.config.name
    for name in ('random', 'scripted'):
        bar = tqdm(seeds, unit='ep', desc=f'{task} {name}', disable=not progress)
        rates[name] = float(np.mean([evaluator.run_policy(name, s).success for s in bar]))
    return rates
