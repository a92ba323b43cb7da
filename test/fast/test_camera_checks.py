"""Useless and frozen images are detected, and usable ones are accepted."""

from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.core.types import JointSample
from jepa_arm.robot.camera_checks import FrozenImageDetector, JumpFilter, image_fault
from jepa_arm.sim.tasks import load_task

MAX_CLIPPED = 0.3


@pytest.fixture
def scenes(arm, sim_config, world):
    """Return images of ten scenes of the push task."""
    task = load_task('push', arm, sim_config)
    images = []
    for seed in range(10):
        world.reset(task.sample(seed))
        images.append(world.image())
    return images


def test_usual_images_are_accepted(scenes):
    assert [image_fault(image, MAX_CLIPPED) for image in scenes] == [''] * 10


def test_black_overexposed_and_half_covered_images_are_refused(scenes):
    image = scenes[0]
    assert image_fault(np.zeros_like(image), MAX_CLIPPED).startswith('the image is black in 100%')
    assert image_fault(np.full_like(image, 255), MAX_CLIPPED).startswith(
        'the image is overexposed'
    )
    half = image.copy()
    half[:, : image.shape[1] // 2] = 0
    assert image_fault(half, MAX_CLIPPED).startswith('the image is black in 5')
    grey = np.full_like(image, 127)
    assert image_fault(grey, MAX_CLIPPED).startswith('the image is without contrast')


def tip_of(joints):
    """Return a tip (3,) m that crosses the camera's view, about a pixel per cm."""
    return np.array([0.5, joints[0], 0.03])


def test_a_repeated_image_is_a_fault_once_the_tip_has_moved(scenes, arm):
    detector = FrozenImageDetector(arm.config.camera, tip_of, 2.0)
    first, second = scenes[:2]

    def fault(image, moved, stamp=0.0):
        return detector.fault(image, np.full(7, moved), np.full(7, moved), stamp)

    assert fault(first, 0.0) == ''
    assert fault(first, 0.0) == '', 'an arm at rest shows the same image'
    assert fault(first.copy(), 0.01) == ''
    assert 'has not changed while the tip moved by' in fault(first, 0.03)
    assert fault(second, 0.03) == ''
    assert fault(second, 0.04) == ''


def test_a_repeated_image_is_trusted_again_at_rest_until_the_arm_moves(scenes, arm):
    """Otherwise one wrong joint state would blind the planner forever."""
    detector, image = FrozenImageDetector(arm.config.camera, tip_of, 2.0), scenes[0]

    def faults(first, last, moved):
        stamps = np.arange(first, last + 0.05, 0.1)
        place = np.full(7, moved)
        return [bool(detector.fault(image, place, place, s)) for s in stamps]

    assert faults(0.0, 0.0, 0.05) == [False]
    assert faults(0.1, 2.0, 0.0) == [True] * 20
    assert faults(2.2, 3.0, 0.0) == [False] * 9
    assert all(faults(3.1, 4.0, 0.05)), 'the camera does repeat itself'


def test_a_repeated_image_is_no_fault_while_the_arm_is_out_of_view(arm, sim_config, world):
    """Images without the arm can be identical to the bit."""
    task = load_task('push', arm, sim_config)
    high, higher = (arm.ik(np.array([0.32, 0.12, z]), arm.home, 60)[0] for z in (0.26, 0.29))
    scene, images = task.sample(0), []
    for joints in (high, higher):
        world.reset(replace(scene, joints=joints))
        images.append(world.image())
    np.testing.assert_array_equal(*images)
    detector = FrozenImageDetector(arm.config.camera, arm.tip_position, 2.0)
    jumped = arm.home - high  # as after a reset of the scene
    for image, joints in zip(images, (high, higher), strict=True):
        assert detector.fault(image, joints, joints + jumped, 0.0) == ''
    back = arm.home + jumped
    assert detector.fault(images[1], arm.home, back, 0.1), 'it would be seen by now'


def test_impossible_jumps_of_a_joint_are_filtered_out():
    motion = JumpFilter(np.array([1.0, 2.0]))
    places = [[0.0, 0.0], [0.1, 0.39], [0.29, 0.39], [0.29, 0.9], [0.2, 0.9]]
    seen = [
        motion.filter(JointSample(np.array(place), np.zeros(2), 1.0 + 0.1 * i)).position
        for i, place in enumerate(places)
    ]
    np.testing.assert_allclose(
        seen, [[0.0, 0.0], [0.1, 0.39], [0.29, 0.39], [0.29, 0.39], [0.2, 0.39]], atol=1e-9
    )
    again = motion.filter(JointSample(np.array([0.25, 0.9]), np.zeros(2), 1.4))
    np.testing.assert_allclose(again.position, [0.2, 0.39], err_msg='no time has passed')
