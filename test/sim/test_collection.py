"""Play data: the same for any number of workers, resumable, written atomically."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, CollectConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.datasets.collection import add_random_objects, collect, play_episode, sample_scene
from jepa_arm.datasets.episodes import DataError, EpisodeFile
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.routes import obstacle_distance
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene import Scene
from jepa_arm.sim.scene_sampling import reachable_object_region


@pytest.fixture(scope='module')
def small() -> CollectConfig:
    config = load(CollectConfig, config_path('collect.yaml'))
    return replace(config, episodes=6, frames=21, obstacle_share=0.4, random_object_share=0.5)


def test_episodes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, small: CollectConfig
) -> None:
    files = [
        EpisodeFile(collect(tmp_path / f'{n}.h5', arm_config, sim_config, small, n))
        for n in (1, 2)
    ]
    for name in ('pixels', 'proprio', 'object_position'):
        np.testing.assert_array_equal(getattr(files[0], name), getattr(files[1], name))
    assert len(files[0]) == 6 and files[0].frames == 6 * 21
    assert not list(tmp_path.glob('*.partial'))


def test_after_a_killed_worker_the_next_collection_continues(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, small: CollectConfig
) -> None:
    path, given = tmp_path / 'play.h5', (arm_config, sim_config, small, 2)
    with ThreadPoolExecutor(1) as beside:
        collecting = beside.submit(collect, path, *given)
        while len(workers := multiprocessing.active_children()) < 2:
            assert not collecting.done()
            time.sleep(0.01)
        os.kill(cast('int', workers[0].pid), signal.SIGKILL)
        with pytest.raises(DataError, match='killed'):
            collecting.result(60.0)
    assert not path.exists()
    assert len(EpisodeFile(collect(path, *given))) == 6


def test_an_existing_file_is_not_overwritten(
    tmp_path: Path, arm_config: ArmConfig, sim_config: SimConfig, small: CollectConfig
) -> None:
    path = tmp_path / 'play.h5'
    path.write_bytes(b'precious')
    with pytest.raises(DataError, match='exists'):
        collect(path, arm_config, sim_config, small)
    assert path.read_bytes() == b'precious'


def scene_of(arm: Arm, config: CollectConfig, index: int) -> Scene:
    rng = np.random.default_rng([config.seed, index])
    region = reachable_object_region(arm, config.object_min, config.object_max)
    return add_random_objects(sample_scene(arm, rng, region), arm, config, index)


def test_shares_of_obstacles_and_random_objects_match_the_configuration(
    arm: Arm, small: CollectConfig
) -> None:
    scenes = [scene_of(arm, small, i) for i in range(200)]
    for has, share in (
        ([bool(s.obstacles) for s in scenes], small.obstacle_share),
        ([s.scene_object is not None for s in scenes], small.random_object_share),
    ):
        assert np.mean(has) == pytest.approx(share, abs=0.12)
    for scene in scenes:
        assert obstacle_distance(arm.tip_position(scene.joints), scene.obstacles) > 0.04
        assert obstacle_distance(scene.object_position, scene.obstacles) > 0.05


def test_play_keeps_clear_of_obstacles(world: BulletWorld, arm: Arm, small: CollectConfig) -> None:
    crowded = replace(small, frames=41, obstacle_share=1.0, random_object_share=1.0)
    for index in range(3):
        scene = scene_of(arm, crowded, index)
        assert scene.obstacles
        episode = play_episode(world, arm, crowded, index)
        assert not world.has_touched_obstacle
        for target in episode['tip_target'].astype(float):
            assert obstacle_distance(target, scene.obstacles) > 0.022
        np.testing.assert_array_equal(
            episode['pixels'], play_episode(world, arm, crowded, index)['pixels']
        )


def test_episodes_without_additions_do_not_depend_on_their_shares(
    world: BulletWorld, arm: Arm, small: CollectConfig
) -> None:
    bare = replace(small, obstacle_share=0.0, random_object_share=0.0)
    plain = next(i for i in range(50) if not scene_of(arm, small, i).obstacles
                 and scene_of(arm, small, i).scene_object is None)  # fmt: skip
    first, second = (play_episode(world, arm, c, plain) for c in (small, bare))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])


def test_light_and_camera_change_the_images_only(
    world: BulletWorld, arm: Arm, small: CollectConfig
) -> None:
    plain, varied = (
        play_episode(world, arm, c, 3)
        for c in (small, replace(small, light_share=1.0, camera_std=0.01))
    )
    assert np.abs(plain['pixels'].astype(int) - varied['pixels']).mean() > 1.0
    for key in plain:
        if key != 'pixels':
            np.testing.assert_array_equal(plain[key], varied[key])
