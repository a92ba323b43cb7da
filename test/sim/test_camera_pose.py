"""Camera pose head: a moved camera is detected from the arm in its image."""

import numpy as np
import pytest
import torch

from jepa_arm.config import CollectConfig, load
from jepa_arm.core.files import CHECKPOINTS, config_path
from jepa_arm.datasets.collection import sample_scene
from jepa_arm.model.checkpoint import load_belief_heads, load_checkpoint
from jepa_arm.robot.action_space import proprioception
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene_sampling import reachable_object_region
from jepa_arm.training.belief.camera_pose import warp_image

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures('one_thread')]


def test_an_image_is_warped_by_shift_rotation_and_scale() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[20, 40] = 255
    right_down = warp_image(image, np.array([3.0, 2.0, 0.0, 0.0]))
    assert np.argwhere(right_down[..., 0])[0].tolist() == [22, 43]
    turned = warp_image(image, np.array([0.0, 0.0, 0.0, np.pi / 2.0]))
    row, column = np.argwhere(turned[..., 0] > 100)[0]
    assert row == pytest.approx(19.5 + 10.5, abs=1.0) and column == pytest.approx(29.5, abs=1.0)
    larger = warp_image(image, np.array([0.0, 0.0, np.log(1.5), 0.0]))
    assert np.argwhere(larger[..., 0] > 100)[0][1] == pytest.approx(29.5 + 15.75, abs=1.0)


def test_a_camera_moved_by_3_cm_in_any_direction_is_detected(world: BulletWorld, arm: Arm) -> None:
    heads = load_belief_heads(load_checkpoint(CHECKPOINTS / 'compact'))
    assert heads is not None
    play = load(CollectConfig, config_path('collect.yaml'))
    region = reachable_object_region(arm, play.object_min, play.object_max)

    def deviation() -> float:
        state = world.state()
        tip = arm.tip_position(state.joints)
        proprio = proprioception(state.joints, tip, tip)[None]
        image = torch.from_numpy(world.image()[None])
        return float(
            heads.camera_pose.deviation(image, torch.tensor(proprio, dtype=torch.float32))[0]
        )

    for seed in (1_079_001, 1_079_002):
        world.reset(sample_scene(arm, np.random.default_rng(seed), region))
        usual = deviation()
        for way in np.vstack([np.eye(3), -np.eye(3)]):
            world.offset_camera(0.03 * way)
            assert deviation() > 20.0 > 10.0 * usual
            world.offset_camera(0.0 * way)
        assert deviation() == pytest.approx(usual)
