"""Evaluation protocol: held-out scenes, a random floor and a scripted ceiling in the same scenes.

Scenes have the seeds ``EVALUATION_SEED + seed + i``, which data collection never uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from jepa_arm.agent.agent import Agent
from jepa_arm.config import ConfigError, PlannerConfig
from jepa_arm.model.checkpoint import Checkpoint, check_contract
from jepa_arm.robot.action_space import make_contract
from jepa_arm.sim.tasks import EVALUATION_SEED

from .episode import EpisodeRecord
from .episode_runner import NOMINAL, Conditions, EpisodeRunner, SimulationSetup
from .report import summarise


@dataclass(frozen=True)
class EvaluationSettings:
    """Scenes and options of an evaluation.

    Attributes:
        task: name of a file in ``config/tasks``.
        episodes: number of scenes.
        seed: random seed of the first scene, minus ``EVALUATION_SEED``.
        tolerance: m, replaces that of the task.
        with_baselines: run the random and the scripted policy, too.
        keep_frames: keep the images of each episode.
    """

    task: str
    episodes: int
    seed: int = 0
    tolerance: float | None = None
    with_baselines: bool = True
    keep_frames: bool = False


def evaluate(
    checkpoint: Checkpoint,
    setup: SimulationSetup,
    planner: PlannerConfig,
    settings: EvaluationSettings,
    conditions: Conditions = NOMINAL,
) -> tuple[dict[str, Any], list[EpisodeRecord]]:
    """Evaluate a checkpoint in process; return the report (see ``summarise``) and the episodes.

    Raises:
        CheckpointError: the checkpoint is for another arm, camera, action space or timing.
        ConfigError: the delay is negative, or so long that the guard would reject every proposal.
    """
    check_contract(checkpoint.contract, make_contract(setup.arm, setup.sim.time))
    guard = setup.guard
    if not 0.0 <= conditions.delay <= guard.max_proposal_age:
        raise ConfigError(
            f'--delay: expected 0 to {guard.max_proposal_age * 1000.0:g} ms, beyond which the '
            f'guard rejects every proposal, got {conditions.delay * 1000.0:g}'
        )
    valid_for = max(planner.valid_for, conditions.delay + guard.validity_after_arrival)
    with EpisodeRunner(setup, settings.task, settings.tolerance, conditions) as runner:
        agent = Agent(checkpoint, runner.arm, replace(planner, valid_for=valid_for))
        results = run_episodes(
            lambda seed: runner.run_agent(agent, seed, settings.keep_frames),
            settings,
            planner.optimizer,
        )
        rates = baseline_rates(runner, settings) if settings.with_baselines else {}
        report = summarise(results, runner.task, planner.optimizer, settings.seed, rates)
    report['checkpoint'] = f'{checkpoint.folder.name}, trained at {checkpoint.info["git"]}'
    return report, results


def evaluate_policy(
    policy: str, setup: SimulationSetup, settings: EvaluationSettings
) -> tuple[dict[str, Any], list[EpisodeRecord]]:
    """Evaluate a ``policy`` without a checkpoint; return the report and the episodes.

    'scripted' shows what the kinematics, limits and workspace of an arm allow; 'random' is the
    floor.
    """
    with EpisodeRunner(setup, settings.task, settings.tolerance) as runner:
        results = run_episodes(
            lambda seed: runner.run_policy(policy, seed, settings.keep_frames), settings, policy
        )
        return summarise(results, runner.task, policy, settings.seed), results


def run_episodes(
    run: Callable[[int], EpisodeRecord], settings: EvaluationSettings, name: str
) -> list[EpisodeRecord]:
    """Return the result of ``run`` for the seed of each scene.

    Args:
        run: runs the episode of a seed, in process or over ROS.
        settings: defines the scenes.
        name: name of the planner, for the progress bar.
    """
    results: list[EpisodeRecord] = []
    first = EVALUATION_SEED + settings.seed
    seeds = range(first, first + settings.episodes)
    with tqdm(seeds, unit='ep', desc=f'{settings.task} {name}') as bar:
        for seed in bar:
            results.append(run(seed))
            bar.set_postfix(success=f'{sum(r.success for r in results)}/{len(results)}')
    return results


def baseline_rates(runner: EpisodeRunner, settings: EvaluationSettings) -> dict[str, float]:
    """Return the success rates of 'random', the floor, and 'scripted', the ceiling."""
    rates = {}
    for name in ('random', 'scripted'):
        results = run_episodes(lambda seed, n=name: runner.run_policy(n, seed), settings, name)
        rates[name] = float(np.mean([result.success for result in results]))
    return rates
