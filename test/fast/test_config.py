"""Configuration is strict: what is not understood is refused, with where and what."""

from dataclasses import replace
from pathlib import Path

import pytest

from jepa_arm.config import (
    ArmConfig,
    ConfigError,
    ModelFile,
    SimConfig,
    TaskConfig,
    TimeConfig,
    from_dict,
    load,
    to_dict,
)
from jepa_arm.core.files import config_path


def test_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    text = config_path('sim.yaml').read_text().replace('gravity:', 'gravitation:')
    path = tmp_path / 'sim.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=r'sim\.yaml.*gravitation.*expected one of'):
        load(SimConfig, path)


def test_missing_key_is_named(arm_config: ArmConfig) -> None:
    values = to_dict(arm_config)
    del values['camera']['fov_deg']
    with pytest.raises(ConfigError, match=r'missing key camera\.fov_deg'):
        from_dict(ArmConfig, values)


def test_wrong_type_says_what_came(arm_config: ArmConfig) -> None:
    values = to_dict(arm_config) | {'velocity_scale': 'fast'}
    with pytest.raises(ConfigError, match=r"velocity_scale: expected float, got 'fast'"):
        from_dict(ArmConfig, values)


def test_missing_file_lists_those_there(tmp_path: Path) -> None:
    (tmp_path / 'panda.yaml').write_text('')
    with pytest.raises(ConfigError, match=r'no pandora\.yaml.*panda\.yaml'):
        load(ArmConfig, tmp_path / 'pandora.yaml')


def test_time_chain_refuses_broken_ratios() -> None:
    with pytest.raises(ConfigError, match='whole number'):
        TimeConfig(physics_dt=0.003, stream_dt=0.01, control_dt=0.1, frame_skip=2)


def test_so_few_labels_that_nothing_can_be_calibrated_are_refused() -> None:
    train = load(ModelFile, config_path('model/compact.yaml')).train
    with pytest.raises(ConfigError, match='probe_labels.*got 49'):
        replace(train, probe_labels=49)
    assert replace(train, probe_labels=50).probe_labels == 50


def test_a_predictor_that_cannot_go_on_alone_is_refused() -> None:
    compact = load(ModelFile, config_path('model/compact.yaml'))
    lewm = load(ModelFile, config_path('model/lewm.yaml'))
    assert compact.predictor is not None and lewm.predictor is None
    with pytest.raises(ConfigError, match=r'predictor\.window: expected >= 3 frames.*got 2'):
        replace(compact, predictor=replace(compact.predictor, window=2))
    with pytest.raises(ConfigError, match='steps: expected >= 1, got 0'):
        replace(compact.predictor, steps=0)
    with pytest.raises(ConfigError, match='predictor: expected none'):
        replace(lewm, predictor=compact.predictor)


def test_time_chain_counts() -> None:
    time = TimeConfig(physics_dt=0.005, stream_dt=0.01, control_dt=0.1, frame_skip=2)
    assert (time.substeps, time.ticks, time.model_dt) == (2, 10, pytest.approx(0.2))


def test_config_survives_a_round_trip(arm_config: ArmConfig) -> None:
    assert from_dict(ArmConfig, to_dict(arm_config)) == arm_config


def test_limits_cannot_be_widened(arm_config: ArmConfig) -> None:
    with pytest.raises(ConfigError, match='velocity_scale'):
        replace(arm_config, velocity_scale=1.2)


def test_a_number_that_may_be_left_out_is_a_number() -> None:
    values = to_dict(load(TaskConfig, config_path('tasks/push_yaw.yaml')))
    assert from_dict(TaskConfig, values | {'yaw_tolerance_deg': 8}).yaw_tolerance_deg == 8.0
    assert from_dict(TaskConfig, values | {'yaw_tolerance_deg': None}).yaw_tolerance_deg is None
    with pytest.raises(ConfigError, match="yaw_tolerance_deg: expected float, got 'ten'"):
        from_dict(TaskConfig, values | {'yaw_tolerance_deg': 'ten'})


@pytest.mark.parametrize('degrees', [0.0, -5.0, 45.0, float('nan')])
def test_a_yaw_tolerance_that_asks_for_nothing_or_too_much_is_refused(degrees: float) -> None:
    task = load(TaskConfig, config_path('tasks/push_yaw.yaml'))
    with pytest.raises(ConfigError, match='yaw_tolerance_deg: expected more than 0 and less'):
        replace(task, yaw_tolerance_deg=degrees)


@pytest.mark.parametrize('name', ['reach', 'avoid_push'])
def test_a_yaw_is_for_pushes_without_obstacles(name: str) -> None:
    task = load(TaskConfig, config_path(f'tasks/{name}.yaml'))
    with pytest.raises(ConfigError, match='expected kind push without obstacles'):
        replace(task, yaw_tolerance_deg=10.0)
