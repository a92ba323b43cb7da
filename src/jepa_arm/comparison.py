"""Planners on the same scenes, goals and weights: what each achieves and what it costs.

Each run, one a planner and task, is one JSON file that grows by an episode at a time, so that
slow planners can be stopped and go on. Simulated time stands still while a planner thinks.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .config import (
    OPTIMIZERS,
    ArmConfig,
    ConfigError,
    GuardConfig,
    PlannerConfig,
    SimConfig,
    to_dict,
)
from .episode_result import EpisodeResult
from .evaluator import Evaluator
from .goals import Goal, PositionGoal
from .metering import MeteredAgent, Rapl, count_flops, peak_memory_mb
from .model.checkpoint import Checkpoint, check_contract
from .motion import make_contract
from .planning.search import MakeOptimizer
from .resources import git_hash, machine, share_dir
from .sim.tasks import EVALUATION_SEED
from .types import FloatArray

log = logging.getLogger(__name__)

TOLERANCES_CM = {
    'reach': (1.0, 2.0),
    'push': (2.0, 3.0, 4.0),
    'push_long': (3.0, 4.0),
    'push_yaw': (2.0, 3.0, 4.0),
    'avoid_reach': (1.0, 2.0),
    'avoid_push': (3.0, 4.0),
}
"""Of which success is told; an episode ends when the first is held, or at its time limit.

Where a yaw is asked for, it is to be held, too.
"""
FLOPS_SEED = EVALUATION_SEED + 950_000
INSTALL = "pip install -e '.[peers]' (docs/dependencies.md)"


@dataclass(frozen=True)
class Contender:
    """A planner that is compared.

    Attributes:
        name: in file names; title: in tables.
        cost: what it makes small, in words.
        search: one of ``config.OPTIMIZERS``, or what makes a search; None: the policy ``name``,
            which sees ground truth.
        is_latent: whether it is told the latent of the goal image, not the place read from it.
        package: distribution that must be installed; none for ours.
    """

    name: str
    title: str
    cost: str
    search: str | MakeOptimizer | None
    is_latent: bool = False
    package: str = ''


PLACE = 'ours: distance and value of the read place'
LATENT = 'squared distance to the goal latent along the path'
OURS = (
    Contender('local', 'actor + local search (default)', PLACE, 'local'),
    Contender('actor', 'actor alone (behaviour cloning)', 'none', 'actor'),
    Contender('icem', 'iCEM', PLACE, 'icem'),
    Contender('mppi', 'MPPI', PLACE, 'mppi'),
    Contender('cem', 'CEM', PLACE, 'cem'),
    Contender('icem-latent', 'iCEM', LATENT, 'icem', is_latent=True),
    Contender('random', 'random', 'none', None),
    Contender('scripted', 'scripted, sees ground truth', 'none', None),
)


@dataclass(frozen=True)
class Scene:
    """What runs besides the planner."""

    arm: ArmConfig
    sim: SimConfig
    guard: GuardConfig


def outside_contenders() -> tuple[Contender, ...]:
    """Those of ``benchmarks/peers.py``; none, with a line in the log, where that is missing."""
    path = share_dir() / 'benchmarks' / 'peers.py'
    if not path.is_file():
        log.warning('planners of other packages: left out, %s is missing (no checkout)', path)
        return ()
    spec = importlib.util.spec_from_file_location('jepa_arm_peers', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.CONTENDERS


def missing_package(contender: Contender) -> str:
    """Why ``contender`` cannot run; empty if it can."""
    if contender.package:
        try:
            importlib.metadata.version(contender.package)
        except importlib.metadata.PackageNotFoundError:
            return f'{contender.package} is not installed: {INSTALL}'
    return ''


def run_comparison(
    checkpoint: Checkpoint,
    scene: Scene,
    planner: PlannerConfig,
    contenders: Sequence[Contender],
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    out: Path,
    progress: bool = True,
) -> None:
    """Makes what is missing of ``<out>/<task>-<name>.json``.

    Scenes have seeds ``EVALUATION_SEED + seed + i``.

    Raises:
        CheckpointError: the checkpoint is for another arm, camera, action space or time chain.
        ConfigError: no such task, or a result that was made with other settings.
    """
    check_contract(checkpoint.contract, make_contract(scene.arm, scene.sim.time))
    unknown = sorted(set(tasks) - set(TOLERANCES_CM))
    if unknown:
        raise ConfigError(f'task: expected some of {list(TOLERANCES_CM)}, got {unknown[0]}')
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(planner.threads)
    planner = replace(planner, runtime='torch')  # which all of them have
    for contender in contenders:
        for task in tasks:
            run = Run(checkpoint, scene, planner, contender, task)
            run.go_on(out / f'{task}-{contender.name}.json', episodes, seed, progress)
            run.close()


class Run:
    """One planner on one task. All its sweeps are made, however long they take."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        scene: Scene,
        planner: PlannerConfig,
        contender: Contender,
        task: str,
        rapl: Rapl | None = None,
    ) -> None:
        self._contender, self._checkpoint = contender, checkpoint
        self._tolerances = TOLERANCES_CM[task]
        tightest = self._tolerances[0] / 100.0
        self._evaluator = Evaluator(scene.arm, scene.sim, scene.guard, task, tightest)
        self._agent: MeteredAgent | None = None
        self._planner = planner = replace(planner, deadline_ms=float('inf'))
        self._search: MakeOptimizer | None = None
        if contender.search is not None:
            if isinstance(contender.search, str):
                self._planner = replace(planner, optimizer=contender.search)
            else:
                self._search = contender.search
            self._agent = self._make_agent(self._planner)
            self._agent.rapl = rapl

    def _make_agent(self, planner: PlannerConfig) -> MeteredAgent:
        arm = self._evaluator.arm
        agent = MeteredAgent(self._checkpoint, arm, planner, optimizer=self._search)
        agent.forget()
        return agent

    def close(self) -> None:
        """Ends the simulation."""
        self._evaluator.world.close()

    def go_on(self, path: Path, episodes: int, seed: int, progress: bool) -> None:
        """Adds to the result ``path`` what it lacks of ``episodes`` scenes from ``seed`` on."""
        result = self._resumed(path, seed)
        done: list[dict[str, Any]] = result['episodes']
        if len(done) >= episodes:
            return

        def rest() -> None:
            name = f'{result["settings"]["task"]} {self._contender.name}'
            left = range(len(done), episodes)
            for i in tqdm(left, unit='ep', desc=name, disable=not progress):
                done.append(self.episode(EVALUATION_SEED + seed + i))
                _write(path, result)

        peak = peak_memory_mb(rest)
        if peak is not None:
            result['peak_memory_mb'] = round(max(peak, result['peak_memory_mb'] or 0.0), 1)
            _write(path, result)

    def episode(self, seed: int) -> dict[str, Any]:
        """One episode: when each tolerance was held, and what the decisions cost."""
        agent = self._agent
        if agent is None:
            result = self._evaluator.run_policy(self._contender.name, seed)
            return self.told(result)
        agent.forget()
        read = agent.goal_images.latent if self._contender.is_latent else None
        result = self._evaluator.run_agent(agent, seed, read=read)
        return self.told(result) | {
            'is_refused': not result.plan_ms,
            'plan_ms': [round(ms, 2) for ms in result.plan_ms],
            'candidates': sum(agent.candidates),
            'processor_s': round(sum(agent.processor_s), 5),
            'joules': round(sum(agent.joules), 4) if agent.rapl else None,
        }

    def gflop_per_decision(self) -> float:
        """Of one that goes on from one before, encoding included; see ``count_flops``."""
        assert self._agent is not None
        task, world = self._evaluator.task, self._evaluator.world
        scene = task.sample(FLOPS_SEED)
        goal: Goal = PositionGoal(task.subject, scene.goal, yaw=scene.goal_yaw)
        if self._contender.is_latent:
            goal = self._agent.goal_images.latent(world.image_of(scene, task.subject))
        agent = self._make_agent(replace(self._planner, runtime='torch'))  # which can be counted
        return round(count_flops(agent, self._evaluator, goal, FLOPS_SEED) * 1e-9, 6)

    def told(self, result: EpisodeResult) -> dict[str, Any]:
        """What is kept of an episode, but for what its decisions cost."""
        task, dt = self._evaluator.task, self._evaluator.world.config.time.control_dt
        distances = task.distances(result.tip_path, result.object_path, result.goal)[1:]
        if task.config.yaw_tolerance_deg is not None:
            is_turned = np.degrees(result.yaw_errors[1:]) <= task.config.yaw_tolerance_deg
            distances = np.where(is_turned, distances, np.inf)
        steps = {
            f'{cm:g}': first_held(distances, cm / 100.0, task.config.hold_steps)
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

    def begin(self, seed: int) -> dict[str, Any]:
        """A result without episodes, for scenes from ``seed`` on."""
        return {
            'settings': self._settings(seed),
            'title': self._contender.title,
            'cost': self._contender.cost,
            'control_dt': self._evaluator.world.config.time.control_dt,
            'gflop_per_decision': self.gflop_per_decision() if self._agent else None,
            'peak_memory_mb': None,
            'git': git_hash(),
            'machine': machine(),
            'torch': torch.__version__,
            'episodes': [],
        }

    def _resumed(self, path: Path, seed: int) -> dict[str, Any]:
        """What lies in ``path``, or a result without episodes.

        Raises:
            ConfigError: it was made with other settings.
        """
        if not path.exists():
            return self.begin(seed)
        result, settings = json.loads(path.read_text()), self._settings(seed)
        if result['settings'] != settings:
            raise ConfigError(
                f'{path} was made with other settings: expected {settings}, got '
                f'{result["settings"]}; use another folder or remove the file'
            )
        return result

    def _settings(self, seed: int) -> dict[str, Any]:
        """What a result depends on, besides the machine."""
        name, package = self._contender.name, self._contender.package
        return {
            'task': self._evaluator.task.config.name,
            'planner': name,
            'seed': seed,
            'weights': _digest(self._checkpoint),
            'config': self._config() if self._agent else None,
            'package': f'{package} {importlib.metadata.version(package)}' if package else '',
        }

    def _config(self) -> dict[str, Any]:
        """The planner's configuration, without what is for other searches only."""
        others = set(OPTIMIZERS) - {self._contender.search}
        config = {k: v for k, v in to_dict(self._planner).items() if k not in others}
        return config | {'deadline_ms': None}  # JSON knows no infinity


def first_held(distances: FloatArray, tolerance: float, hold_steps: int) -> int | None:
    """Control steps until ``distances`` (N,) m were within for ``hold_steps``; None if never."""
    held = 0
    for step, is_near in enumerate(distances <= tolerance, start=1):
        held = held + 1 if is_near else 0
        if held == hold_steps:
            return step
    return None


def _digest(checkpoint: Checkpoint) -> str:
    files = sorted(checkpoint.folder.glob('*.safetensors'))
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]


def _write(path: Path, result: dict[str, Any]) -> None:
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(result) + '\n')
    os.replace(partial, path)
