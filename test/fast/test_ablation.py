"""Ablation variants change exactly the keys they list; the table summarises the runs."""

from dataclasses import replace

import pytest
import torch

import synthetic

pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')

from jepa_arm.config import ConfigError, load, to_dict
from jepa_arm.core.files import config_path
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.sim.tasks import EVALUATION_SEED
from jepa_arm.training.training_run import learning_rate
from jepa_arm_validation.ablation.ablation import (
    AblationConfig,
    AblationVariant,
    format_ablation,
    resolve,
)
from jepa_arm_validation.timed_training import train_for

CONFIG = load(AblationConfig, config_path('ablation.yaml'))


def flatten(file) -> dict[str, object]:
    parts = [(part, values) for part, values in to_dict(file).items() if values is not None]
    return {f'{part}.{key}': v for part, values in parts for key, v in values.items()}


@pytest.mark.parametrize('variant', CONFIG.variants, ids=lambda variant: variant.name)
def test_a_shipped_variant_changes_the_keys_it_lists_and_nothing_else(
    variant: AblationVariant,
) -> None:
    base = flatten(resolve(AblationVariant('base'), CONFIG))
    changed = flatten(resolve(variant, CONFIG))
    differences = {key for key in base if base[key] != changed[key]}
    assert differences == {change.partition('=')[0] for change in variant.changes}


@pytest.mark.parametrize(
    'change',
    [
        'model.latent_dim',
        'model.width=3',
        'nothing.latent=3',
        'pose.yaw_change_steps=3',  # the pose heads are not trained
        'model.latent_dim=wide',
        'train.window=2',
        'model.history=4',
    ],
)
def test_an_invalid_change_is_refused_and_the_variant_named(change: str) -> None:
    with pytest.raises(ConfigError, match='variant odd: '):
        resolve(AblationVariant('odd', (change,)), CONFIG)


@pytest.mark.extended
def test_training_for_a_duration_ends_in_time_with_a_completed_schedule(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    episodes = EpisodeFile(synthetic.write(tmp_path / 'play.h5', [31] * 40))
    file = replace(synthetic.TOY, train=replace(synthetic.TRAIN, steps=10_000, batch=8))
    rates: list[float] = []
    monkeypatch.setattr(
        'jepa_arm.training.training_run.learning_rate',
        lambda step, train: rates.append(learning_rate(step, train)) or rates[-1],
    )
    trained = train_for(episodes, tmp_path / 'run', file, seed=0, processor_s=0.5)
    torch.set_num_threads(threads)
    assert trained.steps == len(rates) - 1 > 5  # one for the step after the last
    assert rates[-1] < 0.2 * max(rates) and max(rates) > 0.7 * file.train.learning_rate
    frames = trained.steps * file.train.batch * file.train.window
    assert 0.5 <= frames / trained.frames_per_s < 0.8
    assert not trained.model.training
    assert set(trained.training).isdisjoint(trained.held_out)


def result(name: str, seed: int, **values: object) -> dict:
    changes = [] if name == 'base' else ['x']
    return {'settings': {'variant': name, 'changes': changes}, 'seed': seed, **values}


def test_the_table_gives_means_and_half_ranges_and_dashes_for_missing_values() -> None:
    table = format_ablation(
        [
            result('wide', 0, error_share={'1': 0.1}, push_success=0.5),
            result('base', 1, error_share={'1': 0.06, '5': 0.2}, push_success=0.9),
            result('base', 0, error_share={'1': 0.04, '5': 0.2}, push_success=0.7),
            result('broken', 0, failed='not finite'),
        ]
    )
    title, _, base, broken, wide, _, failed = table.splitlines()
    names = [c.strip() for c in title.split('|')]
    cells = {
        line.split('|')[1].strip(): dict(
            zip(names, (c.strip() for c in line.split('|')), strict=True)
        )
        for line in (base, broken, wide)
    }
    assert cells['base']['1 steps, %'] == '5.0 ± 1.0'
    assert cells['base']['5 steps, %'] == '20.0'
    assert cells['base']['push, %'] == '80 ± 10'
    assert cells['base']['seeds'] == '2'
    assert cells['wide']['1 steps, %'] == '10.0' and cells['wide']['5 steps, %'] == '–'
    assert set(cells['broken'].values()) <= {'', 'broken', '1', '–'}
    assert failed == 'Failed: broken, seed 0: not finite'


def test_development_scenes_are_never_evaluation_scenes() -> None:
    assert CONFIG.scene_seed + max(CONFIG.reach, CONFIG.push) < EVALUATION_SEED
