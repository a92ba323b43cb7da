"""Evaluation over ROS 2: the evaluation protocol with simulator, guard and planner as processes.

Success is judged from ground truth, by the same code as in process. Without lock-step, the virtual
arm runs in real time, so that a slow machine affects the results.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.evaluation.episode import EpisodeRecord
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.evaluation.protocol import EvaluationSettings, baseline_rates, run_episodes
from jepa_arm.evaluation.report import summarise

from .episode_runner import FrameCallback, GraphEpisodeRunner


def evaluate_over_ros(
    settings: EvaluationSettings,
    checkpoint: Path,
    arm: str = 'panda',
    lock_step: bool = False,
    on_frame: FrameCallback | None = None,
) -> tuple[dict[str, Any], list[EpisodeRecord]]:
    """Evaluate over ROS 2; return the report, as ``protocol.evaluate`` does, and the episodes.

    The floor and ceiling baselines run in process, in the same scenes. Acceleration limits are not
    checked. In lock-step, latencies are meaningless.

    Args:
        settings: task and scenes.
        checkpoint: folder of the world model.
        arm: name or path of the arm.
        lock_step: simulated time waits for every command.
        on_frame: called at each control step.

    Raises:
        GraphError: a process did not start, ended, or does not answer.
    """
    task, tolerance = settings.task, settings.tolerance
    with GraphEpisodeRunner(task, checkpoint, arm, tolerance, lock_step) as runner:
        results = run_episodes(
            lambda seed: runner.run_episode(seed, settings.keep_frames, on_frame=on_frame),
            settings,
            'over ROS',
        )
    planner = load(PlannerConfig, config_path('planner.yaml')).optimizer
    rates: dict[str, float] = {}
    if settings.with_baselines:
        with EpisodeRunner(SimulationSetup.load(arm), task, tolerance) as in_process:
            rates = baseline_rates(in_process, settings)
    report = summarise(results, runner.task, planner, settings.seed, rates)
    info = json.loads((checkpoint / 'config.json').read_text())
    report['checkpoint'] = f'{checkpoint.name}, trained at {info["git"]}'
    report['ros'] = 'lock-step' if lock_step else 'real time'
    report['outcomes'] = dict(Counter(goal.outcome for goal in runner.goal_results))
    report['failures'] = {
        str(result.seed): f'{goal.outcome}: {goal.message}'
        for result, goal in zip(results, runner.goal_results, strict=True)
        if not result.success
    }
    return report, results
