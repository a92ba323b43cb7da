"""The virtual arm's faults: what its camera, encoders and clock then give."""

import re

import numpy as np
import pytest
import yaml

from jepa_arm.config import ConfigError, ObstacleConfig, from_dict
from jepa_arm.nodes.controller import Trajectory
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


def test_an_arm_that_slept_goes_on_as_one_that_did_not(arm, sim_config):
    task = load_task('push', arm, sim_config)
    both = [VirtualArm(arm, sim_config, sleeps=sleeps) for sleeps in (True, False)]
    for virtual in both:
        virtual.reset(task, 0)
    assert [ticks_asleep(virtual, 2.0) > 80 for virtual in both] == [True, False]
    assert np.array_equal(picture(both[0])[1], picture(both[1])[1])
    for virtual in both:
        there = virtual.scene.joints + [0.3, 0, 0, 0, 0, 0, 0]
        virtual.controller.follow(Trajectory(there[None], None, np.array([1.0]), 0.0), virtual.now)
    assert [ticks_asleep(virtual, 1.0) for virtual in both] == [0, 0]
    np.testing.assert_allclose(both[0].joints().position, both[1].joints().position, atol=1e-6)
    np.testing.assert_allclose(both[0].joints().position, there, atol=1e-2)
    assert np.array_equal(picture(both[0])[1], picture(both[1])[1])
    for virtual in both:
        virtual.close()


def test_what_is_done_to_a_sleeping_world_is_seen_in_the_next_picture(arm, sim_config):
    virtual = VirtualArm(arm, sim_config, sleeps=True)
    virtual.reset(load_task('push', arm, sim_config), 0)
    for _ in range(200):
        virtual.advance()
    before, place = picture(virtual)[1], virtual.state().object_position
    virtual.inject('object_move', 0.0, 0.06)
    assert not np.array_equal(picture(virtual)[1], before)
    for _ in range(100):
        virtual.advance()
    moved = virtual.state().object_position - place
    np.testing.assert_allclose(np.abs(moved), [0.0, 0.06, 0.0], atol=2e-3)
    virtual.close()


def ticks_asleep(virtual, duration):
    """Of ``duration`` s."""
    ticks = 0
    for _ in range(round(duration / DT)):
        virtual.advance()
        ticks += virtual.is_asleep
    return ticks
