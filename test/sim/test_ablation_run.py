"""An ablation from data to table, on a few real play episodes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepa_arm.config import (
    ArmConfig,
    CollectConfig,
    ConfigError,
    GuardConfig,
    PlannerConfig,
    SimConfig,
    load,
)
from jepa_arm.core.files import config_path
from jepa_arm.datasets.collection import play_episode
from jepa_arm.datasets.episodes import EpisodeWriter
from jepa_arm.evaluation.episode_runner import SimulationSetup
from jepa_arm.robot.action_space import make_contract
from jepa_arm_validation.ablation.ablation import (
    AblationConfig,
    AblationInputs,
    AblationVariant,
    format_ablation,
    run_ablation,
)
from jepa_arm_validation.results import read_results

pytestmark = [pytest.mark.sim, pytest.mark.extended]
SMALL = (
    'model.conv_channels=[8]',
    'model.image_features=16',
    'model.encoder_width=32',
    'model.latent_dim=16',
    'train.batch=16',
)


def test_an_interrupted_ablation_resumes_and_refuses_results_of_other_settings(
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
        variants=(AblationVariant('small', SMALL),),
    )
    setup = SimulationSetup(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml')))
    planner = replace(
        load(PlannerConfig, config_path('planner.yaml')), iterations=1, candidates=16
    )
    (out / 'small-0.work').mkdir(parents=True)  # left behind by a killed run
    (out / 'small-0.json.partial').write_text('{"sett')
    inputs = AblationInputs(data, config, setup, planner)
    threads = torch.get_num_threads()
    paths = run_ablation(inputs, out, only=['small'])
    torch.set_num_threads(threads)
    assert [path.name for path in paths] == [path.name for path in out.iterdir()]
    made = paths[0].read_bytes()
    assert run_ablation(inputs, out, only=[]) == paths
    assert paths[0].read_bytes() == made
    results = read_results(out)
    assert set(results[0]['error_share']) == {'1', '2', '3', '4', '5'}
    table = format_ablation(results).splitlines()
    assert len(table) == 3 and '–' not in table[2]
    with pytest.raises(ConfigError, match='other settings'):
        longer = replace(inputs, config=replace(config, minutes=1.0))
        run_ablation(longer, out, only=[])
    with pytest.raises(ConfigError, match='small.*gone'):
        run_ablation(inputs, out, only=['gone'])
