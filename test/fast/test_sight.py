"""An image that shows nothing is told from one that does."""

from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.sight import Motion, Stillness, image_fault, tip_in_view
from jepa_arm.sim.tasks import load_task
from jepa_arm.types import JointSample

MOST = 0.3


@pytest.fixture
def scenes(arm, sim_config, world):
    """Images of ten scenes of the task with the most in view."""
    task = load_task('push', arm, sim_config)
    images = []
    for seed in range(10):
        world.reset(task.sample(seed))
        images.append(world.image())
    return images


def test_what_the_camera_usually_shows_is_no_fault(scenes):
    assert [image_fault(image, MOST) for image in scenes] == [''] * 10


def test_black_overexposed_and_half_covered_images_are_named(scenes):
    image = scenes[0]
    assert image_fault(np.zeros_like(image), MOST).startswith('the image is black in 100%')
    assert image_fault(np.full_like(image, 255), MOST).startswith('the image is overexposed')
    half = image.copy()
    half[:, : image.shape[1] // 2] = 0
    assert image_fault(half, MOST).startswith('the image is black in 5')
    grey = np.full_like(image, 127)
    assert image_fault(grey, MOST).startswith('the image is without contrast')


def test_a_repeated_image_is_a_fault_once_the_arm_has_moved_and_no_longer_when_it_changes(scenes):
    stillness, joints = Stillness(0.05, lambda joints: True), np.zeros(7)
    first, second = scenes[:2]
    assert stillness.fault(first, joints) == ''
    assert stillness.fault(first, joints) == '', 'an arm at rest shows the same image'
    assert stillness.fault(first.copy(), joints + 0.04) == ''
    assert 'has not changed while a joint moved by 0.06 rad' in stillness.fault(
        first, joints + 0.06
    )
    assert stillness.fault(second, joints + 0.08) == ''
    assert stillness.fault(second, joints + 0.1) == ''


def test_a_repeated_image_is_no_fault_while_the_arm_moves_out_of_sight(arm, sim_config, world):
    """Seen when the object's goal was high above the table: the images were equal to the bit."""
    task, camera = load_task('push', arm, sim_config), arm.config.camera
    high, higher = (arm.ik(np.array([0.32, 0.12, z]), arm.home, 60)[0] for z in (0.25, 0.27))
    is_seen = tip_in_view(arm, camera)
    assert not is_seen(high) and not is_seen(higher) and is_seen(arm.home)
    scene, images = task.sample(0), []
    for joints in (high, higher):
        world.reset(replace(scene, joints=joints))
        images.append(world.image())
    stillness = Stillness(0.01, is_seen)
    assert [stillness.fault(*seen) for seen in zip(images, (high, higher), strict=True)] == [
        '',
        '',
    ]
    assert stillness.fault(images[1], arm.home), 'it would be seen by now'


def test_only_what_a_joint_can_do_in_the_time_is_motion():
    motion = Motion(np.array([1.0, 2.0]))
    places = [[0.0, 0.0], [0.1, 0.39], [0.29, 0.39], [0.29, 0.9], [0.2, 0.9]]
    seen = [
        motion.see(JointSample(np.array(place), np.zeros(2), 1.0 + 0.1 * i)).position
        for i, place in enumerate(places)
    ]
    np.testing.assert_allclose(
        seen, [[0.0, 0.0], [0.1, 0.39], [0.29, 0.39], [0.29, 0.39], [0.2, 0.39]], atol=1e-9
    )
    again = motion.see(JointSample(np.array([0.25, 0.9]), np.zeros(2), 1.4))
    np.testing.assert_allclose(again.position, [0.2, 0.39], err_msg='no time has passed')
