"""Play data: deterministic for any number of workers, resumable, whole or not there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.collection import collect
from jepa_arm.config import ArmConfig, CollectConfig, SimConfig, load
from jepa_arm.data.episodes import DataError, EpisodeFile
from jepa_arm.resources import config_path


@pytest.fixture(scope='module')
def small() -> CollectConfig:
    return replace(load(CollectConfig, config_path('collect.yaml')), episodes=6, frames=21)


def test_episodes_do_not_depend_on_the_workers(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, small: CollectConfig
) -> None:
    files = [
        EpisodeFile(
            collect(tmp_path / f'{n}.h5', arm_config, sim_config, small, n, progress=False)
        )
        for n in (1, 2)
    ]
    for name in ('pixels', 'proprio', 'object_position'):
        np.testing.assert_array_equal(getattr(files[0], name), getattr(files[1], name))
    assert len(files[0]) == 6 and files[0].frames == 6 * 21
    assert not list(tmp_path.glob('*.partial'))


def test_a_file_that_exists_is_not_overwritten(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, small: CollectConfig
) -> None:
    path = tmp_path / 'play.h5'
    path.write_bytes(b'precious')
    with pytest.raises(DataError, match='exists already'):
        collect(path, arm_config, sim_config, small, progress=False)
    assert path.read_bytes() == b'precious'
