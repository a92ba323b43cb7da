"""A comparison of planners in the virtual arm's world, stopped and gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_arm.comparison import OURS, Contender, Run, Scene, run_comparison
from jepa_arm.comparison_table import summarise
from jepa_arm.config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig, load
from jepa_arm.evaluator import Evaluator
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.planning.pose import PoseDynamics
from jepa_arm.planning.sampling import CEM
from jepa_arm.planning.search import Dynamics, Optimizer
from jepa_arm.resources import checkpoint_path, config_path

SEED = 50_000


def test_a_stopped_comparison_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    scene = Scene(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml')))
    planner = load(PlannerConfig, config_path('planner.yaml'))
    small = replace(planner, candidates=16, elites=4, sweeps=1)
    ours = [c for c in OURS if c.name == 'local']
    threads = torch.get_num_threads()

    def run(folder: str, episodes: int, config: PlannerConfig = small) -> dict[str, dict]:
        out = tmp_path / folder
        run_comparison(checkpoint, scene, config, ours, ['reach'], episodes, SEED, out, False)
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
        run_comparison(checkpoint, scene, small, ours, ['juggle'], 1, SEED, tmp_path, False)


@pytest.mark.usefixtures('one_thread')
def test_another_search_plans_for_yaws_too_and_a_place_without_its_yaw_is_not_held(
    arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    scene = Scene(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml')))
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    few = replace(loaded.cem, candidates=16, elites=4, sweeps=1)
    planner = replace(loaded, runtime='torch', cem=few)
    asked = []

    def make(dynamics: Dynamics, *others: PlannerConfig | int) -> Optimizer:
        asked.append(dynamics)
        return CEM(dynamics, *others)

    contender = Contender('other', 'other', 'place and yaw', make)
    run = Run(load_checkpoint(checkpoint_path('compact')), scene, planner, contender, 'push_yaw')
    assert run.gflop_per_decision() > 0.0
    assert any(isinstance(dynamics, PoseDynamics) for dynamics in asked)

    evaluator = Evaluator(arm_config, sim_config, scene.guard, 'push_yaw')
    result = evaluator.run_policy('scripted', SEED)
    told = run.told(result)
    assert told['held_s']['2'] == pytest.approx(result.time_s)
    turned = replace(result, yaw_errors=np.radians(10.1) + 0.0 * result.yaw_errors)
    assert set(run.told(turned)['held_s'].values()) == {None}
    run.close()
    evaluator.world.close()
