"""Rendered scenes: arm poses from play, correct labels, the same for any number of workers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, CollectConfig, RenderedScenesConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.datasets.collection import collect
from jepa_arm.datasets.episodes import DataError, EpisodeFile, EpisodeWriter
from jepa_arm.datasets.rendered_scenes import (
    CLEAR_TIP_HEIGHT,
    MIN_OBJECT_DISTANCE,
    PlaySource,
    SceneRenderer,
    render_scenes,
)
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera import project
from jepa_arm.sim.bullet import BulletWorld

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
    path = tmp_path_factory.mktemp('play') / 'play.h5'
    return collect(path, arm_config, sim_config, config, 1)


@pytest.fixture(scope='module')
def few() -> RenderedScenesConfig:
    return replace(
        load(RenderedScenesConfig, config_path('rendered_scenes.yaml')),
        batches=3,
        scenes_per_batch=40,
    )


def test_scenes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path,
    arm_config: ArmConfig,
    sim_config: SimConfig,
    play: Path,
    few: RenderedScenesConfig,
) -> None:
    given = PlaySource(play, 0, HELD_OUT), arm_config, sim_config, few
    made = [EpisodeFile(render_scenes(tmp_path / f'{n}.h5', *given, n)) for n in (1, 2)]
    for name in ('pixels', 'proprio', 'object_position', 'object_yaw'):
        np.testing.assert_array_equal(getattr(made[0], name), getattr(made[1], name))
    assert made[0].has_rendered_scenes and not EpisodeFile(play).has_rendered_scenes
    assert made[0].frames == 3 * 40
    with pytest.raises(DataError, match='exists'):
        render_scenes(tmp_path / '1.h5', *given)


def test_arm_poses_come_from_the_training_split_and_labels_match_the_images(
    world: BulletWorld, arm: Arm, play: Path, few: RenderedScenesConfig
) -> None:
    episodes = EpisodeFile(play)
    training, _ = episodes.split(0, HELD_OUT)
    batch = SceneRenderer(world, arm, PlaySource(play, 0, HELD_OUT), few).batch(0)
    of_training = np.isin(episodes.episode_of_frames(), training)
    known = {row.tobytes() for row in np.asarray(episodes.proprio)[of_training]}
    assert all(joints.tobytes() in known for joints in batch['proprio'])
    tip, position = batch['tip_position'], batch['object_position']
    apart = np.linalg.norm((tip - position)[:, :2], axis=1)
    assert np.all((tip[:, 2] >= CLEAR_TIP_HEIGHT) | (apart >= MIN_OBJECT_DISTANCE))
    assert np.mean(apart < few.near_tip_distance) > 0.2
    pixels = np.rint(project(arm.config.camera, position.astype(float))).astype(int)
    size = arm.config.camera.width, arm.config.camera.height
    seen = ((pixels >= 0) & (pixels < size)).all(axis=1)
    pairs = zip(batch['pixels'][seen], pixels[seen], strict=True)
    coloured = [np.ptp(image[y, x].astype(int)) > 40 for image, (x, y) in pairs]
    assert np.mean(coloured) > 0.8  # unlike table and arm, which hides some


def test_play_without_its_configuration_is_refused_before_workers_start(
    tmp_path: Path,
    arm_config: ArmConfig,
    sim_config: SimConfig,
    play: Path,
    few: RenderedScenesConfig,
) -> None:
    whole, path = EpisodeFile(play), tmp_path / 'play.h5'
    with EpisodeWriter(path, [21] * 2, whole.contract, 0, {'made_by': 'hand'}) as writer:
        for _ in range(2):
            writer.append({name: getattr(whole, name)[:21] for name in COLUMNS})
    with pytest.raises(DataError, match='expected a file of data collect'):
        render_scenes(
            tmp_path / 'a.h5', PlaySource(path, 0, HELD_OUT), arm_config, sim_config, few
        )
    assert list(tmp_path.iterdir()) == [path]


def test_play_of_another_robot_is_refused(
    tmp_path: Path,
    arm_config: ArmConfig,
    sim_config: SimConfig,
    play: Path,
    few: RenderedScenesConfig,
) -> None:
    other = replace(arm_config, name='other')
    with pytest.raises(DataError, match='expected play of other'):
        render_scenes(tmp_path / 'a.h5', PlaySource(play, 0, HELD_OUT), other, sim_config, few)
    assert not list(tmp_path.iterdir())
