"""Planner comparison: success and cost of planners on the same scenes, goals and weights.

Each run, one planner on one task, is one JSON file that grows by one episode at a time, so that
an interrupted comparison resumes. Simulated time stands still while a planner computes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from jepa_arm.config import OPTIMIZERS, PlannerConfig, to_dict
from jepa_arm.core.files import git_hash, machine
from jepa_arm.core.goals import Goal, PositionGoal
from jepa_arm.evaluation.episode import EpisodeRecord, first_held
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.model.checkpoint import Checkpoint, check_contract
from jepa_arm.planning.search.problem import MakeOptimizer
from jepa_arm.robot.action_space import make_contract
from jepa_arm.sim.tasks import EVALUATION_SEED
from jepa_arm_validation.results import load_result, select, write_result

from .metering import EnergyError, MeteredAgent, RaplCounter, count_flops, peak_memory_mb
from .table import TOLERANCES_CM, summarise

FLOPS_SEED = EVALUATION_SEED + 950_000
INSTALL = "pip install -e '.[peers]' (docs/dependencies.md)"


@dataclass(frozen=True)
class ComparedPlanner:
    """Planner that takes part in the comparison.

    Attributes:
        name: identifier, used in file names. title: name in tables.
        cost: description of the cost that it minimises.
        search: one of ``config.OPTIMIZERS``, or a factory of a search; None: the policy ``name``,
            which sees the simulator's ground truth.
        is_latent: the goal is the latent of the goal image instead of the position read from it.
        package: distribution that must be installed; '' for planners of this repository.
    """

    name: str
    title: str
    cost: str
    search: str | MakeOptimizer | None
    is_latent: bool = False
    package: str = ''


POSITION_COST = 'ours: distance and value of the read position'
LATENT_COST = 'squared distance to the goal latent along the path'
OWN_PLANNERS = (
    ComparedPlanner('local', 'actor + local search (default)', POSITION_COST, 'local'),
    ComparedPlanner('actor', 'actor alone (behaviour cloning)', 'none', 'actor'),
    ComparedPlanner('icem', 'iCEM', POSITION_COST, 'icem'),
    ComparedPlanner('mppi', 'MPPI', POSITION_COST, 'mppi'),
    ComparedPlanner('cem', 'CEM', POSITION_COST, 'cem'),
    ComparedPlanner('icem-latent', 'iCEM', LATENT_COST, 'icem', is_latent=True),
    ComparedPlanner('random', 'random', 'none', None),
    ComparedPlanner('scripted', 'scripted, sees ground truth', 'none', None),
)


@dataclass(frozen=True)
class ComparisonInputs:
    """Inputs that all compared planners share.

    Attributes:
        checkpoint: world model and heads. setup: robot, simulator and guard.
        planner: configuration, whose optimizer and deadline are replaced for each planner.
    """

    checkpoint: Checkpoint
    setup: SimulationSetup
    planner: PlannerConfig


def missing_package(planner: ComparedPlanner) -> str:
    """Return why ``planner`` cannot run, or '' if it can."""
    if planner.package:
        try:
            importlib.metadata.version(planner.package)
        except importlib.metadata.PackageNotFoundError:
            return f'{planner.package} is not installed: {INSTALL}'
    return ''


def run_comparison(
    inputs: ComparisonInputs,
    planners: Sequence[ComparedPlanner],
    tasks: Sequence[str],
    seeds: range,
    out: Path,
    progress: bool = True,
) -> None:
    """Run the episodes that are missing in ``<out>/<task>-<planner>.json``, and add them to it.

    Args:
        inputs: inputs shared by all planners.
        planners: planners to run. tasks: keys of ``TOLERANCES_CM``.
        seeds: seeds of the scenes; ``EVALUATION_SEED`` is added to each.
        out: folder of the results.
        progress: show progress bars.

    Raises:
        CheckpointError: the checkpoint is for another arm, camera, action space or timing.
        ConfigError: a task is unknown, or a result was made with other settings.
    """
    setup = inputs.setup
    check_contract(inputs.checkpoint.contract, make_contract(setup.arm, setup.sim.time))
    select('task', tasks, TOLERANCES_CM)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(inputs.planner.threads)
    # the only backend that every search supports
    inputs = replace(inputs, planner=replace(inputs.planner, backend='torch'))
    for planner in planners:
        for task in tasks:
            run = PlannerRun(inputs, planner, task)
            run.resume(out / f'{task}-{planner.name}.json', seeds, progress)
            run.close()


class PlannerRun:
    """Run of one planner on one task, without a deadline: all iterations are made."""

    def __init__(
        self,
        inputs: ComparisonInputs,
        planner: ComparedPlanner,
        task: str,
        energy_counter: RaplCounter | None = None,
    ) -> None:
        """Build world and agent.

        Args:
            inputs: inputs shared by all planners.
            planner: the planner under test. task: key of ``TOLERANCES_CM``.
            energy_counter: counter that measures each decision, or None.
        """
        self._planner, self._checkpoint = planner, inputs.checkpoint
        _, self._tolerances = TOLERANCES_CM[task]
        tightest = self._tolerances[0] / 100.0
        self._runner = EpisodeRunner(inputs.setup, task, tightest)
        self._config, search = replace(inputs.planner, deadline_ms=float('inf')), planner.search
        if isinstance(search, str):
            self._config = replace(self._config, optimizer=search)
        self._make_search = None if isinstance(search, str) else search
        self._agent = self._make_agent(self._config, energy_counter) if search else None

    def close(self) -> None:
        """Close the simulation."""
        self._runner.world.close()

    def resume(self, path: Path, seeds: range, progress: bool) -> None:
        """Run the episodes that the result file ``path`` lacks, saving after each.

        Raises:
            ConfigError: the file was made with other settings.
        """
        result = load_result(path, self._settings(seeds.start)) or self.empty_result(seeds.start)
        done: list[dict[str, Any]] = result['episodes']
        if len(done) >= len(seeds):
            return

        def run_missing() -> None:
            name = f'{result["settings"]["task"]} {self._planner.name}'
            for seed in tqdm(seeds[len(done) :], unit='ep', desc=name, disable=not progress):
                done.append(self.run_episode(EVALUATION_SEED + seed))
                write_result(path, result)

        peak = peak_memory_mb(run_missing)
        if peak is not None:
            result['peak_memory_mb'] = round(max(peak, result['peak_memory_mb'] or 0.0), 1)
            write_result(path, result)

    def run_episode(self, seed: int) -> dict[str, Any]:
        """Run one episode; return when each tolerance was held, and the cost of the decisions."""
        agent = self._agent
        if agent is None:
            return self.summarise_episode(self._runner.run_policy(self._planner.name, seed))
        agent.clear_records()
        read = agent.goal_images.latent if self._planner.is_latent else None
        result = self._runner.run_agent(agent, seed, read_goal=read)
        return self.summarise_episode(result) | {
            'is_refused': not result.plan_ms,
            'plan_ms': [round(ms, 2) for ms in result.plan_ms],
            'candidates': sum(agent.candidates),
            'processor_s': round(sum(agent.processor_s), 5),
            'joules': round(sum(agent.joules), 4) if agent.energy_counter else None,
        }

    def gflop_per_decision(self) -> float:
        """Count the operations (GFLOP) of a warm-started decision; see ``count_flops``."""
        assert self._agent is not None
        task, world = self._runner.task, self._runner.world
        scene = task.sample(FLOPS_SEED)
        goal: Goal = PositionGoal(task.subject, scene.goal, yaw=scene.goal_yaw)
        if self._planner.is_latent:
            goal = self._agent.goal_images.latent(world.render_goal(scene, task.subject))
        agent = self._make_agent(replace(self._config, backend='torch'))  # the counter sees torch
        return round(count_flops(agent, self._runner, goal, FLOPS_SEED) * 1e-9, 6)

    def summarise_episode(self, result: EpisodeRecord) -> dict[str, Any]:
        """Return the figures of an episode to be saved, without the cost of its decisions."""
        task, dt = self._runner.task, self._runner.world.config.time.control_dt
        distances = task.distances(result.tip_path, result.object_path, result.goal)[1:]
        if task.config.yaw_tolerance_deg is not None:
            has_yaw = np.degrees(result.yaw_errors[1:]) <= task.config.yaw_tolerance_deg
            distances = np.where(has_yaw, distances, np.inf)
        steps = {
            f'{cm:g}': first_held(distances <= cm / 100.0, task.config.hold_steps)
            for cm in self._tolerances
        }
        path = np.linalg.norm(np.diff(result.tip_path, axis=0), axis=1).cumsum()
        return {
            'seed': result.seed,
            'steps': len(distances),
            'held_s': {key: n and round(n * dt, 3) for key, n in steps.items()},
            'tip_path_m': {key: n and round(float(path[n - 1]), 4) for key, n in steps.items()},
            'distance_m': round(result.distance, 4),
        }

    def empty_result(self, seed: int) -> dict[str, Any]:
        """Return a result without episodes, for scenes from ``seed`` on."""
        return {
            'settings': self._settings(seed),
            'title': self._planner.title,
            'cost': self._planner.cost,
            'control_dt': self._runner.world.config.time.control_dt,
            'gflop_per_decision': self.gflop_per_decision() if self._agent else None,
            'peak_memory_mb': None,
            'git': git_hash(),
            'machine': machine(),
            'torch': torch.__version__,
            'episodes': [],
        }

    def _make_agent(
        self, config: PlannerConfig, counter: RaplCounter | None = None
    ) -> MeteredAgent:
        arm, search = self._runner.arm, self._make_search
        return MeteredAgent(self._checkpoint, arm, config, optimizer=search, counter=counter)

    def _settings(self, seed: int) -> dict[str, Any]:
        """Return everything that a result depends on, besides the machine."""
        name, package = self._planner.name, self._planner.package
        return {
            'task': self._runner.task.config.name,
            'planner': name,
            'seed': seed,
            'weights': _digest(self._checkpoint),
            'config': self._search_config() if self._agent else None,
            'package': f'{package} {importlib.metadata.version(package)}' if package else '',
        }

    def _search_config(self) -> dict[str, Any]:
        """Return the planner's configuration without the sections of the other searches."""
        others = set(OPTIMIZERS) - {self._planner.search}
        config = {k: v for k, v in to_dict(self._config).items() if k not in others}
        return config | {'deadline_ms': None}  # JSON has no infinity


def _digest(checkpoint: Checkpoint) -> str:
    files = sorted(checkpoint.folder.glob('*.safetensors'))
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]


def bench_energy(inputs: ComparisonInputs, episodes: int, seed: int) -> dict[str, Any]:
    """Measure the configured planner's cost per decision and per solved task, in reach and push.

    The energy (J) is that of all processor packages during the decisions, so nothing else should
    run meanwhile. It is left out if the machine has no energy counter.
    """
    torch.set_num_threads(inputs.planner.threads)
    figures: dict[str, Any] = {'planner': inputs.planner.optimizer, 'episodes': episodes}
    counter, figures['joules'] = None, 'measured by RAPL'
    try:
        counter = RaplCounter()
    except EnergyError as error:
        figures['joules'] = f'not measured: {error}'
    planner = next(p for p in OWN_PLANNERS if p.search == inputs.planner.optimizer)
    for task in ('reach', 'push'):
        run = PlannerRun(inputs, planner, task, counter)
        result = run.empty_result(seed)
        seeds = range(EVALUATION_SEED + seed, EVALUATION_SEED + seed + episodes)
        result['episodes'] = [run.run_episode(s) for s in seeds]
        run.close()
        summary = summarise(result)
        figures[f'{task}_success'] = summary['success'][f'{TOLERANCES_CM[task][0]:g}']['rate']
        for key, value in summary.items():
            if key.endswith(('_per_decision', '_per_solved')) and value is not None:
                figures[f'{task}_{key}'] = round(value, 5)
        figures['machine'] = summary['machine']
    return figures
