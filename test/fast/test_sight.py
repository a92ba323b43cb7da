"""An image that shows nothing is told from one that does."""

from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.sight import Motion, Stillness, image_fault
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


def tip_of(joints):
    """Sideways through the view of the camera; about a pixel for a cm."""
    return np.array([0.5, joints[0], 0.03])


def test_a_repeated_image_is_a_fault_once_the_tip_has_moved_until_it_changes(scenes, arm):
    stillness = Stillness(arm.config.camera, tip_of, 2.0)
    first, second = scenes[:2]

    def fault(image, moved, stamp=0.0):
        return stillness.fault(image, np.full(7, moved), np.full(7, moved), stamp)

    assert fault(first, 0.0) == ''
    assert fault(first, 0.0) == '', 'an arm at rest shows the same image'
    assert fault(first.copy(), 0.01) == ''
    assert 'has not changed while the tip moved by' in fault(first, 0.03)
    assert fault(second, 0.03) == ''
    assert fault(second, 0.04) == ''


def test_at_rest_a_repeated_image_is_believed_again_until_the_arm_moves(scenes, arm):
    """One wrong joint state beside the first image once blinded the planner for ever."""
    stillness, image = Stillness(arm.config.camera, tip_of, 2.0), scenes[0]

    def faults(first, last, moved):
        stamps = np.arange(first, last + 0.05, 0.1)
        place = np.full(7, moved)
        return [bool(stillness.fault(image, place, place, s)) for s in stamps]

    assert faults(0.0, 0.0, 0.05) == [False]
    assert faults(0.1, 2.0, 0.0) == [True] * 20
    assert faults(2.2, 3.0, 0.0) == [False] * 9
    assert all(faults(3.1, 4.0, 0.05)), 'the camera does repeat itself'


def test_a_repeated_image_is_no_fault_while_the_arm_moves_out_of_sight(arm, sim_config, world):
    """Seen when the object's goal was high above the table: the images were equal to the bit."""
    task = load_task('push', arm, sim_config)
    high, higher = (arm.ik(np.array([0.32, 0.12, z]), arm.home, 60)[0] for z in (0.26, 0.29))
    scene, images = task.sample(0), []
    for joints in (high, higher):
        world.reset(replace(scene, joints=joints))
        images.append(world.image())
    np.testing.assert_array_equal(*images)
    stillness = Stillness(arm.config.camera, arm.tip_position, 2.0)
    jumped = arm.home - high  # as after a reset of the scene
    for image, joints in zip(images, (high, higher), strict=True):
        assert stillness.fault(image, joints, joints + jumped, 0.0) == ''
    back = arm.home + jumped
    assert stillness.fault(images[1], arm.home, back, 0.1), 'it would be seen by now'


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
