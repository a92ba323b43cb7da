"""The virtual arm: faults of camera, encoders and clock, declared obstacles, and sleep."""

import re

import numpy as np
import pytest
import yaml

from jepa_arm.config import ConfigError, ObstacleConfig, from_dict
from jepa_arm.core.types import TrajectoryCommand
from jepa_arm.ros.sim.virtual_arm import VirtualArm
from jepa_arm.sim.tasks import load_task

pytestmark = pytest.mark.sim
DT = 0.01


@pytest.fixture
def virtual(arm, sim_config):
    virtual = VirtualArm(arm, sim_config)
    virtual.reset(load_task('push', arm, sim_config), 0)
    yield virtual
    virtual.close()


def frame(virtual):
    """Take a frame now."""
    virtual.capture()
    return next(iter(virtual.arrived_frames()))


def test_camera_faults_change_images_until_they_end(virtual):
    good = frame(virtual).image
    virtual.inject('camera_half', 5 * DT, 0.0)
    half = frame(virtual).image
    middle = good.shape[1] // 2
    assert not half[:, :middle].any() and np.array_equal(half[:, middle:], good[:, middle:])
    for _ in range(6):
        virtual.advance()
    assert frame(virtual).image.any(axis=(0, 2))[:middle].all()
    virtual.inject('camera_white', 0.0, 0.0)
    assert frame(virtual).image.min() == 255
    virtual.reset(virtual.task, 0)
    virtual.inject('camera_size', 0.0, 0.0)
    height, width = good.shape[:2]
    assert frame(virtual).image.shape == (height // 2, width // 2, 3)


@pytest.mark.parametrize(('fault', 'shift'), [('camera_past', -1.0), ('camera_future', 1.0)])
def test_stamp_faults_shift_the_images_only(virtual, fault, shift):
    virtual.inject(fault, 0.0, 0.0)
    assert frame(virtual).stamp == pytest.approx(virtual.clock + shift)
    assert virtual.joints().stamp == pytest.approx(virtual.clock)


def test_an_encoder_jump_does_not_move_the_arm(virtual):
    before = virtual.joints().position
    virtual.inject('encoder_jump', 0.0, 0.3)
    np.testing.assert_allclose(virtual.joints().position - before, [0.3, 0, 0, 0, 0, 0, 0])
    virtual.reset(virtual.task, 0)
    np.testing.assert_allclose(virtual.joints().position, before, atol=1e-6)


def test_a_paused_clock_does_not_pause_physics(virtual):
    start, began = virtual.clock, virtual.now
    virtual.inject('clock_pause', 5 * DT, 0.0)
    for _ in range(8):
        virtual.advance()
    assert virtual.now - began == pytest.approx(8 * DT)
    assert virtual.clock - start == pytest.approx(3 * DT, abs=1.5 * DT)


def test_a_clock_jumps_never_below_zero(virtual):
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


def test_declared_obstacles_are_built(virtual):
    with_post = virtual.reset(virtual.task, 0, (POST,)).image.astype(int)
    assert virtual.scene.obstacles == (POST,)
    bare = virtual.reset(virtual.task, 0).image
    assert (np.abs(with_post - bare).sum(2) > 40).sum() > 20


def test_a_scene_with_obstacles_requires_exactly_these_to_be_declared(virtual, arm, sim_config):
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


def test_sleep_does_not_change_the_motion(arm, sim_config):
    task = load_task('push', arm, sim_config)
    both = [VirtualArm(arm, sim_config, sleeps=sleeps) for sleeps in (True, False)]
    for virtual in both:
        virtual.reset(task, 0)
    assert [ticks_asleep(virtual, 2.0) > 80 for virtual in both] == [True, False]
    assert np.array_equal(frame(both[0]).image, frame(both[1]).image)
    for virtual in both:
        there = virtual.scene.joints + [0.3, 0, 0, 0, 0, 0, 0]
        virtual.controller.follow(
            TrajectoryCommand(there[None], None, np.array([1.0]), 0.0), virtual.now
        )
    assert [ticks_asleep(virtual, 1.0) for virtual in both] == [0, 0]
    np.testing.assert_allclose(both[0].joints().position, both[1].joints().position, atol=1e-6)
    np.testing.assert_allclose(both[0].joints().position, there, atol=1e-2)
    assert np.array_equal(frame(both[0]).image, frame(both[1]).image)
    for virtual in both:
        virtual.close()


def test_a_change_of_a_sleeping_world_shows_in_the_next_frame(arm, sim_config):
    virtual = VirtualArm(arm, sim_config, sleeps=True)
    virtual.reset(load_task('push', arm, sim_config), 0)
    for _ in range(200):
        virtual.advance()
    before, place = frame(virtual).image, virtual.state().object_position
    virtual.inject('object_move', 0.0, 0.06)
    assert not np.array_equal(frame(virtual).image, before)
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
