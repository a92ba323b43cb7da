"""Rows of the ablation say what they change; the table says what the runs gave."""

from dataclasses import replace

import pytest
import torch

import synthetic

pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')

from jepa_arm.ablation import resolve
from jepa_arm.ablation_table import format_table
from jepa_arm.config import (
    AblationConfig,
    AblationRow,
    ConfigError,
    PlannerConfig,
    SimConfig,
    load,
    to_dict,
)
from jepa_arm.data.episodes import EpisodeFile
from jepa_arm.resources import config_path
from jepa_arm.training.loop import learning_rate, train_for

CONFIG = load(AblationConfig, config_path('ablation.yaml'))
PLANNER = load(PlannerConfig, config_path('planner.yaml'))


def flat(variant) -> dict[str, object]:
    parts = {**to_dict(variant.file), 'planner': to_dict(variant.planner)}
    parts['time'] = to_dict(variant.time)
    pairs = [(part, values) for part, values in parts.items() if values is not None]
    return {f'{part}.{key}': v for part, values in pairs for key, v in values.items()}


@pytest.mark.parametrize('row', CONFIG.rows, ids=lambda row: row.name)
def test_each_shipped_row_changes_what_it_says_and_nothing_else(
    row: AblationRow, sim_config: SimConfig
) -> None:
    base = flat(resolve(AblationRow('base'), CONFIG, PLANNER, sim_config.time))
    changed = flat(resolve(row, CONFIG, PLANNER, sim_config.time))
    differences = {key for key in base if base[key] != changed[key]}
    assert differences == {change.partition('=')[0] for change in row.changes}


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        ('model.latent', 'part.key=value'),
        ('model.width=3', 'part.key=value'),
        ('nothing.latent=3', r"parts are \['heads', 'model', 'planner', 'time', 'train'\]"),
        ('pose.turn_steps=3', 'got .pose.turn_steps=3'),  # nothing of it would be taught
        ('model.latent=wide', "row odd: model.latent: expected int, got 'wide'"),
        ('train.window=2', 'train.window: expected >= 3'),
        ('model.history=4', 'history 1..3'),
        ('train.inverse_weight=1.0', 'inverse_width is 0'),
        ('model.kernels=[3, 3]', 'expected 4 kernels'),
        ('model.kernels=[3, 3, 3, 5]', 'of 2 or 3'),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    change: str, expected: str, sim_config: SimConfig
) -> None:
    with pytest.raises(ConfigError, match=expected):
        resolve(AblationRow('odd', (change,)), CONFIG, PLANNER, sim_config.time)


def test_training_for_a_time_ends_in_time_at_the_end_of_its_schedule(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    episodes = EpisodeFile(synthetic.write(tmp_path / 'play.h5', [31] * 40))
    file = replace(synthetic.TOY, train=replace(synthetic.TRAIN, steps=10_000, batch=8))
    rates: list[float] = []
    monkeypatch.setattr(
        'jepa_arm.training.loop.learning_rate',
        lambda step, train: rates.append(learning_rate(step, train)) or rates[-1],
    )
    trained = train_for(episodes, tmp_path / 'run', file, seed=0, processor_s=0.5)
    torch.set_num_threads(threads)
    assert trained.steps == len(rates) > 5
    assert rates[-1] < 0.2 * max(rates) and max(rates) > 0.9 * file.train.learning_rate
    frames = trained.steps * file.train.batch * file.train.window
    assert 0.5 <= frames / trained.frames_per_s < 0.8
    assert not trained.model.training
    assert set(trained.training).isdisjoint(trained.held_out)


def result(row: str, seed: int, **values: object) -> dict:
    return {'row': row, 'seed': seed, 'changes': [] if row == 'base' else ['x'], **values}


def test_the_table_gives_means_and_half_ranges_and_leaves_out_what_is_not_there() -> None:
    table = format_table(
        [
            result('wide', 0, error_share={'0.2': 0.1}, push_success=0.5),
            result('base', 1, error_share={'0.2': 0.06, '2': 0.2}, push_success=0.9),
            result('base', 0, error_share={'0.2': 0.04, '2': 0.2}, push_success=0.7),
            result('broken', 0, failed='not finite'),
        ]
    )
    title, _, base, broken, wide, _, failed = table.splitlines()
    cells = {
        line.split('|')[1].strip(): dict(
            zip(
                (c.strip() for c in title.split('|')),
                (c.strip() for c in line.split('|')),
                strict=True,
            )
        )
        for line in (base, broken, wide)
    }
    assert cells['base']['0.2 s, %'] == '5.0 ± 1.0'
    assert cells['base']['2 s, %'] == '20.0'
    assert cells['base']['push, %'] == '80 ± 10'
    assert cells['base']['seeds'] == '2'
    assert cells['wide']['0.2 s, %'] == '10.0' and cells['wide']['2 s, %'] == '–'
    assert set(cells['broken'].values()) <= {'', 'broken', '1', '–'}
    assert failed == 'Failed: broken, seed 0: not finite'


def test_the_seed_of_a_scene_is_never_one_that_is_reported() -> None:
    from jepa_arm.sim.tasks import EVALUATION_SEED

    assert CONFIG.scene_seed + max(CONFIG.reach, CONFIG.push) < EVALUATION_SEED
