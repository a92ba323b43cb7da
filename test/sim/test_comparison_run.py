"""A comparison of planners in the virtual arm's world, stopped and gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepa_arm.comparison import OURS, Scene, run_comparison
from jepa_arm.comparison_table import summarise
from jepa_arm.config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig, load
from jepa_arm.model.checkpoint import load_checkpoint
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
