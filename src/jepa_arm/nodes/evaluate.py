"""The strict protocol and the latencies over ROS 2: simulator, guard and planner as processes.

Success is judged by ground truth, by the same rule as in process. Time is the virtual arm's,
which runs in real time, so a slow machine shows in the figures.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from tqdm import tqdm

from ..config import ArmConfig, GuardConfig, PlannerConfig, SimConfig, load
from ..episode_result import EpisodeResult
from ..evaluation import baseline_rates
from ..evaluation_report import summarise
from ..evaluator import Evaluator
from ..resources import arm_path, config_path, git_hash, machine
from ..sim.tasks import EVALUATION_SEED
from ..types import FloatArray, ImageArray
from .description import simulation
from .domain import own_domain
from .graph import Supervisor
from .session import Session

BENCH_SEED = EVALUATION_SEED + 900_000
SETTLE_S = 5.0
"""For which a graph that has just come up does more than wait."""


def evaluate_over_ros(
    task: str,
    episodes: int,
    seed: int,
    tolerance: float | None,
    checkpoint: Path,
    baselines: bool = True,
    keep_frames: bool = False,
    progress: bool = True,
    arm: str = 'panda',
    lock_step: bool = False,
    on_frame: Callable[[ImageArray, FloatArray, FloatArray], None] | None = None,
) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The report of ``evaluation.evaluate``, through the real nodes, and its episodes.

    Floor and ceiling come from the in-process evaluator on the same scenes. Accelerations are
    not among the limits that are checked here. In lock-step the latencies mean nothing.

    Raises:
        GraphError: a process did not come up, ended, or does not answer.
    """
    seeds = [EVALUATION_SEED + seed + i for i in range(episodes)]
    results: list[EpisodeResult] = []
    with Session(task, checkpoint, tolerance, arm, keep_frames, lock_step=lock_step) as session:
        session.on_frame = on_frame
        with tqdm(seeds, unit='ep', desc=f'{task} over ROS', disable=not progress) as bar:
            for scene_seed in bar:
                results.append(session.run_episode(scene_seed))
                bar.set_postfix(success=f'{sum(r.success for r in results)}/{len(results)}')
    rates = _baseline_rates(task, tolerance, arm, seeds, progress) if baselines else {}
    planner = load(PlannerConfig, config_path('planner.yaml')).optimizer
    report = summarise(results, session.task, planner, episodes, seed, rates)
    info = json.loads((checkpoint / 'config.json').read_text())
    report['checkpoint'] = f'{checkpoint.name}, trained at {info["git"]}'
    report['git'] = git_hash()
    report['ros'] = 'lock-step' if lock_step else 'real time'
    report['outcomes'] = dict(Counter(session.outcomes))
    endings = zip(results, session.outcomes, session.messages, strict=True)
    report['failures'] = {
        str(r.seed): f'{outcome}: {text}' for r, outcome, text in endings if not r.success
    }
    return report, results


def bench_ros(
    checkpoint: Path, seconds: float = 30.0, arm: str = 'panda', idle: float = 10.0
) -> dict[str, Any]:
    """Latencies, rates, memory and processor time with the whole graph running.

    Args:
        checkpoint: folder of the world model.
        seconds: of planning, in pushes.
        arm: config/arms/<arm>.yaml.
        idle: s before, without a goal and without anybody else who listens, for the processor
            time that waiting takes.
    """
    to_ready_s, idle_percent = _waiting(checkpoint, arm, idle)
    with Session('push', checkpoint, arm=arm) as session:
        usage = {name: Usage(p.pid) for name, p in session.graph.processes.items()}
        results: list[EpisodeResult] = []
        while session.planned_s < seconds:
            left = seconds - session.planned_s + 1.0
            results.append(session.run_episode(BENCH_SEED + len(results), left))
        figures: dict[str, Any] = {}
        command_ms = [ms for r in results for ms in r.command_ms]
        plan_ms = [ms for r in results for ms in r.plan_ms]
        for name, values in (('obs_to_command_ms', command_ms), ('plan_ms', plan_ms)):
            for q in (50, 99):
                figures[f'{name}_p{q}'] = round(float(np.percentile(values, q)), 2)
        figures['replan_hz'] = round((len(plan_ms) - len(results)) / session.planned_s, 2)
        figures['image_rate_hz'] = round(session.image_rate(), 2)
        figures['guard_tick_jitter_ms'] = round(float(np.percentile(session.jitter_ms, 99)), 2)
        figures['guard_missed_ticks'] = session.missed_ticks
        for name, used in usage.items():
            figures[f'rss_mb_{name}'] = round(used.rss_mb(), 1)
            figures[f'cpu_percent_{name}'] = round(used.cpu_percent(), 1)
            figures[f'idle_cpu_percent_{name}'] = round(idle_percent[name], 1)
        figures['start_to_ready_s'] = round(to_ready_s, 1)
        figures['start_to_motion_s'] = round(session.to_motion_s, 1)
        figures['episodes'] = len(results)
        figures['machine'] = machine()
    return figures


def _waiting(checkpoint: Path, arm: str, seconds: float) -> tuple[float, dict[str, float]]:
    """s that a graph takes to be ready, and % of a core that each node takes while it waits."""
    began = monotonic()
    with own_domain(), Supervisor(simulation(arm, str(checkpoint))) as graph:
        graph.wait_ready()
        to_ready_s = monotonic() - began
        sleep(SETTLE_S)
        usage = {name: Usage(p.pid) for name, p in graph.processes.items()}
        sleep(seconds)
        return to_ready_s, {name: used.cpu_percent() for name, used in usage.items()}


class Usage:
    """Memory and processor time of a process, from /proc (Linux)."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f'/proc/{pid}')
        self._began, self._used = monotonic(), self._processor_s()

    def rss_mb(self) -> float:
        """MB of memory in use now."""
        for line in (self._folder / 'status').read_text().splitlines():
            if line.startswith('VmRSS:'):
                return int(line.split()[1]) / 1024.0
        return float('nan')

    def cpu_percent(self) -> float:
        """Of one core, since this object was made."""
        return 100.0 * (self._processor_s() - self._used) / (monotonic() - self._began)

    def _processor_s(self) -> float:
        fields = (self._folder / 'stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _baseline_rates(
    task: str, tolerance: float | None, arm: str, seeds: Sequence[int], progress: bool
) -> dict[str, float]:
    """Success of the floor and the ceiling on the same scenes, in process."""
    evaluator = Evaluator(
        load(ArmConfig, arm_path(arm)),
        load(SimConfig, config_path('sim.yaml')),
        load(GuardConfig, config_path('guard.yaml')),
        task,
        tolerance,
    )
    rates = baseline_rates(evaluator, seeds, progress)
    evaluator.world.close()
    return rates
