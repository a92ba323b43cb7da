"""Where the camera looks from is read off the arm in its image."""

import numpy as np
import pytest
import torch

from jepa_arm.arm import Arm
from jepa_arm.collection import sample_scene
from jepa_arm.config import CollectConfig, load
from jepa_arm.model.belief_heads import load_belief_heads
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.motion import proprioception
from jepa_arm.resources import CHECKPOINTS, config_path
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.tasks import object_region
from jepa_arm.training.view import moved

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures('one_thread')]


def test_images_are_moved_as_told() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[20, 40] = 255
    right_down = moved(image, np.array([3.0, 2.0, 0.0, 0.0]))
    assert np.argwhere(right_down[..., 0])[0].tolist() == [22, 43]
    turned = moved(image, np.array([0.0, 0.0, 0.0, np.pi / 2.0]))
    row, column = np.argwhere(turned[..., 0] > 100)[0]
    assert row == pytest.approx(19.5 + 10.5, abs=1.0) and column == pytest.approx(29.5, abs=1.0)
    larger = moved(image, np.array([0.0, 0.0, np.log(1.5), 0.0]))
    assert np.argwhere(larger[..., 0] > 100)[0][1] == pytest.approx(29.5 + 15.75, abs=1.0)


def test_a_camera_that_moved_whichever_way_shows_in_the_image_of_the_arm(
    world: BulletWorld, arm: Arm
) -> None:
    heads = load_belief_heads(load_checkpoint(CHECKPOINTS / 'compact'))
    assert heads is not None
    play = load(CollectConfig, config_path('collect.yaml'))
    region = object_region(arm, play.object_min, play.object_max)

    def strangeness() -> float:
        state = world.state()
        tip = arm.tip_position(state.joints)
        felt = proprioception(state.joints, tip, tip)[None]
        image = torch.from_numpy(world.image()[None])
        return float(heads.view.strangeness(image, torch.tensor(felt, dtype=torch.float32))[0])

    for seed in (1_079_001, 1_079_002):
        world.reset(sample_scene(arm, np.random.default_rng(seed), region))
        usual = strangeness()
        for way in np.vstack([np.eye(3), -np.eye(3)]):
            world.bump_camera(0.03 * way)
            assert strangeness() > 20.0 > 10.0 * usual
            world.bump_camera(0.0 * way)
        assert strangeness() == pytest.approx(usual)
