"""An ablation from data to table, on a little real play."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepa_arm.ablation import Scene, run_ablation
from jepa_arm.ablation_table import format_table, read_results
from jepa_arm.collection import play_episode
from jepa_arm.config import (
    AblationConfig,
    AblationRow,
    ArmConfig,
    CollectConfig,
    ConfigError,
    GuardConfig,
    PlannerConfig,
    SimConfig,
    load,
)
from jepa_arm.data.episodes import EpisodeWriter
from jepa_arm.motion import make_contract
from jepa_arm.resources import config_path

SMALL = (
    'model.channels=[8]',
    'model.image_width=16',
    'model.encoder_width=32',
    'model.latent=16',
    'train.batch=16',
)


def test_a_stopped_ablation_goes_on_and_refuses_results_of_other_settings(
    tmp_path: Path, world, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    data, out = tmp_path / 'play.h5', tmp_path / 'ablation'
    play = replace(load(CollectConfig, config_path('collect.yaml')), episodes=6, frames=27)
    contract = make_contract(arm_config, sim_config.time)
    with EpisodeWriter(data, [27] * 6, contract, 0) as writer:
        for index in range(6):
            writer.put(index, play_episode(world, world.arm, play, index))
    config = replace(
        load(AblationConfig, config_path('ablation.yaml')),
        minutes=0.005,
        seeds=(0,),
        probe_steps=8,
        heads_steps=2,
        reach=1,
        push=1,
        rows=(AblationRow('small', SMALL),),
    )
    scene = Scene(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml')))
    planner = replace(load(PlannerConfig, config_path('planner.yaml')), sweeps=1, candidates=16)
    (out / 'small-0.work').mkdir(parents=True)  # what a killed run leaves behind
    (out / 'small-0.json.partial').write_text('{"row": "sm')
    threads = torch.get_num_threads()
    paths = run_ablation(data, out, config, scene, planner, only=['small'])
    torch.set_num_threads(threads)
    assert [path.name for path in paths] == [path.name for path in out.iterdir()]
    made = paths[0].read_bytes()
    assert run_ablation(data, out, config, scene, planner, only=[]) == paths
    assert paths[0].read_bytes() == made
    results = read_results(out)
    assert set(results[0]['error_share']) == {'0.2', '0.4', '0.6', '1', '1.2', '2'}
    assert results[0]['processor_s'].keys() == {'encode', 'probes', 'heads', 'reach', 'push'}
    table = format_table(results).splitlines()
    assert len(table) == 3 and '–' not in table[2]
    with pytest.raises(ConfigError, match='other settings'):
        run_ablation(data, out, replace(config, minutes=1.0), scene, planner, only=[])
    with pytest.raises(ConfigError, match="no rows .*; there are: .'small'"):
        run_ablation(data, out, config, scene, planner, only=['gone'])
