"""The virtual arm's faults: what its camera, encoders and clock then give."""

import re

import numpy as np
import pytest
import yaml

from jepa_arm.config import ConfigError, ObstacleConfig, from_dict
from jepa_arm.nodes.virtual_arm import VirtualArm
from jepa_arm.sim.tasks import load_task

pytestmark = pytest.mark.sim
DT = 0.01


@pytest.fixture
def virtual(arm, sim_config):
    virtual = VirtualArm(arm, sim_config)
    virtual.reset(load_task('push', arm, sim_config), 0)
    yield virtual
    virtual.close()


def picture(virtual):
    """Stamp and image of a picture taken now."""
    virtual.take_picture()
    return next(iter(virtual.pictures()))


def test_images_are_spoilt_while_a_fault_lasts_and_good_after_it(virtual):
    good = picture(virtual)[1]
    virtual.inject('camera_half', 5 * DT, 0.0)
    half = picture(virtual)[1]
    middle = good.shape[1] // 2
    assert not half[:, :middle].any() and np.array_equal(half[:, middle:], good[:, middle:])
    for _ in range(6):
        virtual.advance()
    assert picture(virtual)[1].any(axis=(0, 2))[:middle].all()
    virtual.inject('camera_white', 0.0, 0.0)
    assert picture(virtual)[1].min() == 255
    virtual.reset(virtual.task, 0)
    virtual.inject('camera_size', 0.0, 0.0)
    height, width = good.shape[:2]
    assert picture(virtual)[1].shape == (height // 2, width // 2, 3)


@pytest.mark.parametrize(('fault', 'shift'), [('camera_past', -1.0), ('camera_future', 1.0)])
def test_stamps_of_images_alone_are_shifted(virtual, fault, shift):
    virtual.inject(fault, 0.0, 0.0)
    assert picture(virtual)[0] == pytest.approx(virtual.clock + shift)
    assert virtual.joints().stamp == pytest.approx(virtual.clock)


def test_one_encoder_jumps_and_the_arm_stays(virtual):
    before = virtual.joints().position
    virtual.inject('encoder_jump', 0.0, 0.3)
    np.testing.assert_allclose(virtual.joints().position - before, [0.3, 0, 0, 0, 0, 0, 0])
    virtual.reset(virtual.task, 0)
    np.testing.assert_allclose(virtual.joints().position, before, atol=1e-6)


def test_a_clock_pauses_while_physics_goes_on_and_continues_from_there(virtual):
    start, began = virtual.clock, virtual.now
    virtual.inject('clock_pause', 5 * DT, 0.0)
    for _ in range(8):
        virtual.advance()
    assert virtual.now - began == pytest.approx(8 * DT)
    assert virtual.clock - start == pytest.approx(3 * DT, abs=1.5 * DT)


def test_a_clock_jumps_once_and_never_below_zero(virtual):
    for _ in range(10):
        virtual.advance()
    before = virtual.clock
    virtual.inject('clock_ahead', 0.0, 2.0)
    assert virtual.clock - before == pytest.approx(2.0)
    virtual.inject('clock_back', 0.0, 1.5)
    assert virtual.clock - before == pytest.approx(0.5)
    virtual.inject('clock_back', 0.0, 50.0)
    assert virtual.clock == pytest.approx(0.0, abs=1e-9)


POST = ObstacleConfig('post', 'box', (0.05, 0.05, 0.3), (0.5, 0.0, 0.15))


def test_what_the_guard_declares_stands_there(virtual):
    with_post = virtual.reset(virtual.task, 0, (POST,)).image.astype(int)
    assert virtual.scene.obstacles == (POST,)
    bare = virtual.reset(virtual.task, 0).image
    assert (np.abs(with_post - bare).sum(2) > 40).sum() > 20


def test_a_scene_with_obstacles_is_drawn_only_where_just_these_are_declared(
    virtual, arm, sim_config
):
    before, task = virtual.scene, load_task('avoid_push', arm, sim_config)
    scene, other = task.sample(0), task.sample(1)
    for declared in ((), (POST,), other.obstacles, (*scene.obstacles, POST)):
        with pytest.raises(ConfigError, match='avoid_push, seed 0.*guard_config') as refusal:
            virtual.reset(task, 0, declared)
        assert virtual.scene is before
    written = re.search(r'no others, (\[.*?\]), got', str(refusal.value))
    assert [from_dict(ObstacleConfig, o) for o in yaml.safe_load(written[1])] == [*scene.obstacles]
    virtual.reset(task, 0, scene.obstacles)
    assert virtual.scene.obstacles == scene.obstacles  # once
    np.testing.assert_array_equal(virtual.scene.obstacle_rgb, scene.obstacle_rgb)
