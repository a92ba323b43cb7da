"""Stills: arms of play with the object elsewhere; the same for any number of workers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.arm import Arm
from jepa_arm.collection import collect
from jepa_arm.config import ArmConfig, CollectConfig, SimConfig, StillsConfig, load
from jepa_arm.data.episodes import DataError, EpisodeFile, EpisodeWriter
from jepa_arm.resources import config_path
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.camera import project
from jepa_arm.stills import LOW, TOUCHING, Stills, collect_stills

HELD_OUT = 0.5
COLUMNS = (
    'pixels',
    'proprio',
    'action',
    'tip_position',
    'tip_target',
    'object_position',
    'object_yaw',
    'contact',
)


@pytest.fixture(scope='module')
def play(
    tmp_path_factory: pytest.TempPathFactory, arm_config: ArmConfig, sim_config: SimConfig
) -> Path:
    config = replace(load(CollectConfig, config_path('collect.yaml')), episodes=4, frames=21)
    path = tmp_path_factory.mktemp('stills') / 'play.h5'
    return collect(path, arm_config, sim_config, config, 1, progress=False)


@pytest.fixture(scope='module')
def few() -> StillsConfig:
    return replace(load(StillsConfig, config_path('stills.yaml')), sheets=3, stills=40)


def test_sheets_do_not_depend_on_the_workers(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, play: Path, few: StillsConfig
) -> None:
    given = play, arm_config, sim_config, few, 0, HELD_OUT
    made = [
        EpisodeFile(collect_stills(tmp_path / f'{n}.h5', *given, n, progress=False))
        for n in (1, 2)
    ]
    for name in ('pixels', 'proprio', 'object_position', 'object_yaw'):
        np.testing.assert_array_equal(getattr(made[0], name), getattr(made[1], name))
    assert made[0].is_stills and not EpisodeFile(play).is_stills
    assert made[0].frames == 3 * 40 and not np.asarray(made[0].proprioception(True))[:, -7:].any()
    with pytest.raises(DataError, match='exists already'):
        collect_stills(tmp_path / '1.h5', *given, progress=False)


def test_arms_stand_as_in_the_training_split_and_objects_where_labels_say(
    world: BulletWorld, arm: Arm, play: Path, few: StillsConfig
) -> None:
    episodes = EpisodeFile(play)
    training, region = episodes.split(0, HELD_OUT)[0], np.array([[0.34, -0.23], [0.64, 0.23]])
    sheet = Stills(world, arm, episodes, few, 0, training, region).sheet(0)
    of_training = np.isin(episodes.episode_of_frames(), training)
    known = {row.tobytes() for row in np.asarray(episodes.proprio)[of_training]}
    assert all(joints.tobytes() in known for joints in sheet['proprio'])
    tip, thing = sheet['tip_position'], sheet['object_position']
    apart = np.linalg.norm((tip - thing)[:, :2], axis=1)
    assert np.all((tip[:, 2] >= LOW) | (apart >= TOUCHING))
    assert np.mean(apart < few.beside_within) > 0.2
    pixels = np.rint(project(arm.config.camera, thing.astype(float))).astype(int)
    size = arm.config.camera.width, arm.config.camera.height
    seen = ((pixels >= 0) & (pixels < size)).all(axis=1)
    pairs = zip(sheet['pixels'][seen], pixels[seen], strict=True)
    coloured = [np.ptp(image[y, x].astype(int)) > 40 for image, (x, y) in pairs]
    assert np.mean(coloured) > 0.8  # unlike table and arm, which hides some


def test_a_file_that_does_not_say_where_its_objects_were_makes_none(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, play: Path, few: StillsConfig
) -> None:
    """A worker that fails as it starts is started anew for ever."""
    whole, path = EpisodeFile(play), tmp_path / 'play.h5'
    with EpisodeWriter(path, [21] * 2, whole.contract, 0, {'made_by': 'hand'}) as writer:
        for _ in range(2):
            writer.append({name: getattr(whole, name)[:21] for name in COLUMNS})
    with pytest.raises(DataError, match='expected a file of jepa-arm collect'):
        collect_stills(tmp_path / 'a.h5', path, arm_config, sim_config, few, 0, HELD_OUT)
    assert list(tmp_path.iterdir()) == [path]


def test_play_of_another_robot_makes_none(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, play: Path, few: StillsConfig
) -> None:
    other = replace(arm_config, name='other')
    with pytest.raises(DataError, match='expected play of other'):
        collect_stills(tmp_path / 'a.h5', play, other, sim_config, few, 0, HELD_OUT)
    assert not list(tmp_path.iterdir())
