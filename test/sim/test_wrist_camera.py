"""A second camera at the wrist: its image is below the first one's, for the model too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.config import (
    ArmConfig,
    CollectConfig,
    ConfigError,
    ModelConfig,
    ModelFile,
    SimConfig,
    WristCameraConfig,
    load,
)
from jepa_arm.core.files import config_path
from jepa_arm.datasets.collection import collect
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.model.checkpoint import check_contract
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.robot.action_space import make_contract
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera import optical_pose
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.tasks import load_task
from jepa_arm.training.object_localiser import ObjectLocaliser

WRIST = WristCameraConfig(32, 55.0, (-0.07, 0.0, -0.16), (0.02, 0.0, 0.0), 'wrist')


@pytest.fixture(scope='module')
def config(arm_config: ArmConfig) -> ArmConfig:
    return replace(arm_config, camera=replace(arm_config.camera, wrist=WRIST))


def test_the_wrist_camera_moves_with_the_tip(
    config: ArmConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    arm, one = Arm(config), BulletWorld(Arm(arm_config), sim_config)
    both = BulletWorld(arm, sim_config)
    scene = load_task('push', arm, sim_config).sample(0)
    height, width, _ = config.camera.image_shape
    place, middle = np.array([0.5, 0.05]), []
    for aside in (-0.05, 0.05):
        tip = np.array([*place, 0.05]) + [0.0, aside, 0.0]
        joints, _ = arm.ik(tip, arm.home)
        for world in (one, both):
            world.reset(replace(scene, joints=joints))
            world.move_object(place, 0.0)
        image = both.image()
        assert image.shape == (height, width, 3)
        np.testing.assert_array_equal(image[: config.camera.height], one.image())
        both.move_object(place + [0.0, 0.4], 0.0)  # out of its sight
        changed = np.abs(image.astype(int) - both.image()).sum(2)[config.camera.height :] > 40
        assert changed.sum() > 30
        middle.append(np.nonzero(changed)[1].mean())
    assert abs(middle[1] - middle[0]) > width / 8
    assert abs(np.mean(middle) - width / 2) < width / 10
    one.close()
    both.close()


def test_the_wrist_camera_follows_the_orientation_of_the_tip(
    config: ArmConfig, sim_config: SimConfig
) -> None:
    arm = Arm(config)
    world = BulletWorld(arm, sim_config)
    scene = load_task('push', arm, sim_config).sample(0)
    place = np.array([0.5, 0.05])
    focal = WRIST.height / 2.0 / np.tan(np.radians(WRIST.fov_deg / 2.0))
    joints, _ = arm.ik(np.array([*place, 0.1]), arm.home)
    for turned in (0.0, -0.4):
        at = joints + turned * (np.arange(7) == 5)
        world.reset(replace(scene, joints=at))
        images = []
        for aside in (0.0, 0.4):  # out of its sight
            world.move_object(place + [0.0, aside], 0.0)
            images.append(world.image()[config.camera.height :].astype(int))
        rows, columns = np.nonzero(np.abs(images[0] - images[1]).sum(2) > 40)
        camera = arm.tip_pose(at) @ optical_pose(WRIST, config.tool_from)
        x, y, z = (np.array([*place, 0.025]) - camera[:3, 3]) @ camera[:3, :3]
        expected = np.array([config.camera.width, WRIST.height]) / 2 + focal * np.array([x, y]) / z
        np.testing.assert_allclose([columns.mean(), rows.mean()], expected - 0.5, atol=2.5)
    world.close()


def test_a_model_trains_on_data_with_a_wrist_camera(
    tmp_path: Path, config: ArmConfig, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    play = replace(load(CollectConfig, config_path('collect.yaml')), episodes=2, frames=5)
    episodes = EpisodeFile(collect(tmp_path / 'play.h5', config, sim_config, play, 1))
    height, width, _ = config.camera.image_shape
    assert episodes.contract.camera.wrist == WRIST
    assert episodes.pixels.shape[1:] == (height, width, 3)
    settings, contract = (
        load(ModelFile, config_path('model/compact.yaml')).model,
        episodes.contract,
    )
    proprio_width = contract.proprio_width
    normaliser = Normaliser(0.5, 0.2, (0.0,) * proprio_width, (1.0,) * proprio_width)
    proprio = np.zeros((5, proprio_width), dtype=np.float32)
    assert isinstance(settings, ModelConfig)
    model = WorldModel(settings, contract, normaliser).eval()
    assert model.encode(episodes.pixels[:5], proprio).shape == (5, model.latent_dim)
    with pytest.raises(ValueError, match=f'{height}, {width}, 3'):
        model.encode(episodes.pixels[:5, : config.camera.height], proprio)
    localiser = ObjectLocaliser(config.camera).eval()  # uses the fixed camera only
    np.testing.assert_array_equal(
        localiser.locate(episodes.pixels[:5]),
        localiser.locate(episodes.pixels[:5, : config.camera.height]),
    )
    plain = make_contract(arm_config, sim_config.time)
    with pytest.raises(CheckpointError, match='wrist'):
        check_contract(contract, plain)


def test_an_invalid_wrist_camera_is_refused(config: ArmConfig) -> None:
    along = replace(WRIST, look_at=(-0.07, 0.0, 0.0))
    with pytest.raises(ConfigError, match='along the tool axis'):
        replace(config, camera=replace(config.camera, wrist=along))
    with pytest.raises(ConfigError, match='fov_deg: expected 1 to 170 degrees'):
        replace(WRIST, fov_deg=0.5)
