"""Planner comparison in the simulated world: it resumes, and judges yaw goals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_arm.config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.planning.pose_dynamics import PoseDynamics
from jepa_arm.planning.search.problem import PlanningProblem, Solution
from jepa_arm.planning.search.sampling import CEM
from jepa_arm_validation.peers.comparison import (
    OWN_PLANNERS,
    ComparedPlanner,
    ComparisonInputs,
    PlannerRun,
    run_comparison,
)
from jepa_arm_validation.peers.table import summarise

pytestmark = [pytest.mark.sim, pytest.mark.extended]
SEED = 50_000


def test_an_interrupted_comparison_resumes_with_the_same_results(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    setup = SimulationSetup(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml')))
    planner = load(PlannerConfig, config_path('planner.yaml'))
    small = replace(planner, candidates=16, elites=4, iterations=1)
    planners = [p for p in OWN_PLANNERS if p.name == 'local']
    threads = torch.get_num_threads()

    def run(folder: str, episodes: int, config: PlannerConfig = small) -> dict[str, dict]:
        out = tmp_path / folder
        inputs = ComparisonInputs(checkpoint, setup, config)
        seeds = range(SEED, SEED + episodes)
        run_comparison(inputs, planners, ['reach'], seeds, out, progress=False)
        return {p.name: json.loads(p.read_text()) for p in out.glob('*')}

    run('stopped', 1)
    (tmp_path / 'stopped' / 'reach-local.json.partial').write_text('{"sett')  # killed here
    stopped, whole = run('stopped', 2), run('whole', 2)
    torch.set_num_threads(threads)
    assert stopped.keys() == whole.keys() == {'reach-local.json'}
    result = whole['reach-local.json']
    for before, after in zip(
        stopped['reach-local.json']['episodes'], result['episodes'], strict=True
    ):
        for key in ('seed', 'held_s', 'tip_path_m', 'distance_m'):
            assert before[key] == after[key]
    local = summarise(result)
    rollouts = 2e-9 * 16 * 5 * sum(p.numel() for p in checkpoint.model.predictor.parameters())
    assert 0.8 * rollouts < local['gflop_per_decision'] < 2.0 * rollouts
    assert 0.0 < local['processor_s_per_decision'] < 1.0
    assert 8 < local['candidates'] <= 16  # the first plan has no warm start
    with pytest.raises(ConfigError, match='other settings'):
        run('stopped', 2, replace(small, horizon=4))
    with pytest.raises(ConfigError, match='reach.*push.*got juggle'):
        inputs = ComparisonInputs(checkpoint, setup, small)
        run_comparison(inputs, planners, ['juggle'], range(1), tmp_path, progress=False)


@pytest.mark.usefixtures('one_thread')
def test_a_replaced_search_plans_for_yaw_goals_and_a_wrong_yaw_is_not_held(
    arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    setup = SimulationSetup(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml')))
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    few = replace(loaded.cem, candidates=16, elites=4, iterations=1)
    planner = replace(loaded, backend='torch', cem=few)
    used_dynamics = []

    class RecordingCEM(CEM):
        def solve(self, problem: PlanningProblem, *args: Any) -> Solution:
            used_dynamics.append(problem.objective.model.dynamics)
            return super().solve(problem, *args)

    inputs = ComparisonInputs(load_checkpoint(checkpoint_path('compact')), setup, planner)
    other = ComparedPlanner('other', 'other', 'position and yaw', RecordingCEM)
    run = PlannerRun(inputs, other, 'push_yaw')
    assert run.gflop_per_decision() > 0.0
    assert any(isinstance(dynamics, PoseDynamics) for dynamics in used_dynamics)

    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, setup.guard), 'push_yaw')
    result = evaluator.run_policy('scripted', SEED)
    figures = run.summarise_episode(result)
    assert figures['held_s']['2'] == pytest.approx(result.time_s)
    result.yaw_errors = np.full_like(result.yaw_errors, np.radians(10.1))
    assert set(run.summarise_episode(result)['held_s'].values()) == {None}
    run.close()
    evaluator.world.close()
