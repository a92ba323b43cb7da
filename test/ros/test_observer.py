"""Observer: interpolation of joints, late and unusable messages, frozen cameras."""

import time
from dataclasses import replace
from threading import Timer
from types import SimpleNamespace

import numpy as np
import pytest

from jepa_arm.config import WristCameraConfig
from jepa_arm.core.types import JointSample
from jepa_arm.robot.camera_checks import camera_difference
from jepa_arm.ros.planner.observer import (
    NoImage,
    NoObservation,
    Observer,
    UntrustedImage,
)
from jepa_arm.ros.planner.settings import PlannerSettings
from jepa_arm.ros.runtime import conversions as convert

pytestmark = pytest.mark.ros
NAMES = ('a', 'b')
LIMITS = PlannerSettings(max_image_age=0.2, max_joint_age=0.1, max_clipped=0.3)
ARM = SimpleNamespace(
    joint_names=NAMES,
    max_velocity=np.array([2.0, 2.0]),
    tip_position=lambda joints: np.array([0.5, 0.3 * joints[0], 0.03]),  # across the view
)


@pytest.fixture
def camera(arm_config):
    return arm_config.camera


@pytest.fixture
def observer(camera):
    return Observer(ARM, camera, LIMITS)


def image(camera, stamp, value=70):
    pixels = np.full((camera.height, camera.width, 3), value, dtype=np.uint8)
    pixels[::2] += 7
    return convert.image_to_msg(pixels, convert.to_time(stamp), camera.frame_id)


def joints(stamp, *position):
    sample = JointSample(np.array(position), np.zeros(len(position)), stamp)
    return convert.joints_to_msg(sample, NAMES)


def test_joints_are_interpolated_at_the_image_stamp(observer, camera):
    for i in range(5):
        observer.put_joints(joints(1.0 + 0.01 * i, i, -i))
    observer.put_image(image(camera, 1.025))
    assert observer.wait(0.0)
    observation = observer.observe()
    np.testing.assert_allclose(observation.joints, [2.5, -2.5])
    assert observation.stamp == pytest.approx(1.025) and np.all(observation.image[::2] == 77)


@pytest.fixture
def two_cameras(camera):
    wrist = WristCameraConfig(16, 50.0, (-0.1, 0.0, -0.1), (0.0, 0.0, 0.0), 'wrist')
    camera = replace(camera, wrist=wrist)
    observer = Observer(ARM, camera, LIMITS, str.upper)
    return observer, replace(camera, height=16)


def test_wrist_image_is_awaited_and_appended_below(two_cameras, camera):
    observer, wrist = two_cameras
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_wrist_image(image(wrist, 0.9, 100))
    observer.put_image(image(camera, 1.0))
    late = Timer(0.005, lambda: observer.put_wrist_image(image(wrist, 0.98, 120)))
    late.start()
    assert observer.wait(0.0)
    late.join()
    seen = observer.observe().image
    assert seen.shape == (camera.height + 16, camera.width, 3)
    assert seen[camera.height - 1].max() == 70 and seen[camera.height + 1].min() == 120


def test_both_cameras_must_be_usable(two_cameras, camera):
    observer, wrist = two_cameras
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, 1.0))
    black = image(wrist, 1.0, 0)
    large, old = image(camera, 1.0), image(wrist, 0.94)
    for msg, says in (
        (None, 'publishing on WRIST_CAMERA/IMAGE_RAW'),
        (old, '-0.06 s from that of the other'),
        (black, 'wrist camera: the image is black'),
        (large, f'wrist camera: .*{camera.width}x16'),
    ):
        if msg is not None:
            observer.put_wrist_image(msg)
        with pytest.raises(NoImage, match=says):
            observer.observe()
    observer.put_wrist_image(image(wrist, 1.0))
    observer.observe()


def test_frozen_wrist_camera_is_not_trusted(two_cameras, camera):
    observer, wrist = two_cameras
    for i in range(4):
        observer.put_joints(joints(1.0 + 0.1 * i, 0.02 * i, 0.0))
        observer.put_image(image(camera, 1.0 + 0.1 * i, 70 + i))
        observer.put_wrist_image(image(wrist, 1.0 + 0.1 * i))
        if i < 3:
            observer.observe()
    with pytest.raises(UntrustedImage, match='wrist camera: the image has not changed'):
        observer.observe()


def test_image_counts_as_new_once(observer, camera):
    assert not observer.wait(0.0)
    observer.put_image(image(camera, 1.0))
    assert observer.wait(0.0) and not observer.wait(0.0)


def test_missing_message_is_reported_with_its_resolved_topic(camera):
    names = {'camera/image_raw': '/cam/rgb', 'joint_states': '/robot/joint_states'}
    observer = Observer(ARM, camera, LIMITS, names.__getitem__)
    with pytest.raises(NoObservation, match='publishing on /cam/rgb'):
        observer.observe()
    observer.put_image(image(camera, 1.0))
    with pytest.raises(NoObservation, match='publishing on /robot/joint_states'):
        observer.observe()


def test_ages_include_the_queue_delay_of_joint_states(observer, camera):
    observer.put_joints(joints(1.0, 0.0, 0.0), queue_delay=0.06)
    observer.put_image(image(camera, 0.98))
    assert 0.08 <= observer.age(0.98) < 0.2
    time.sleep(0.05)  # more than 0.1 s since the arrival, less since put_joints
    with pytest.raises(NoObservation, match='joint state'):
        observer.observe()


@pytest.mark.parametrize('stamp', [0.5, 2.0])
def test_image_without_a_joint_state_of_its_time_is_not_used(observer, camera, stamp):
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, stamp))
    with pytest.raises(NoObservation):
        observer.observe()


def test_non_finite_joints_are_not_used(observer, camera):
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_joints(joints(1.01, np.nan, 0.0))
    observer.put_image(image(camera, 1.0))
    with pytest.raises(NoObservation, match='finite'):
        observer.observe()
    observer.put_joints(joints(1.02, 0.0, 0.0))
    assert observer.observe().stamp == pytest.approx(1.0)


def test_black_image_is_not_used(observer, camera):
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, 1.0, value=0))
    with pytest.raises(NoObservation, match='black'):
        observer.observe()
    observer.put_image(image(camera, 1.0))
    observer.observe()


def test_frozen_camera_is_not_trusted_while_the_arm_moves(observer, camera):
    for i in range(3):
        observer.put_joints(joints(1.0 + 0.1 * i, 0.02 * i, 0.0))
        observer.put_image(image(camera, 1.0 + 0.1 * i))
        observer.observe()
    observer.put_joints(joints(1.3, 0.06, 0.0))
    observer.put_image(image(camera, 1.3))
    with pytest.raises(UntrustedImage, match='has not changed'):
        observer.observe()
    observer.put_image(image(camera, 1.3, value=80))
    observer.observe()


def test_camera_with_temporarily_wrong_stamps_is_not_frozen(observer, camera):
    """The arm rests when the stamps are right again, so that no pixel changes."""
    for i in range(20):
        now, way = 1.0 + 0.1 * i, min(i, 10)
        observer.put_joints(joints(now, 0.05 * way, 0.0))
        is_wrong = 7 <= i < 16
        observer.put_image(image(camera, now - 0.5 * is_wrong, value=70 + way))
        if is_wrong:
            with pytest.raises(NoObservation):
                observer.observe()
        else:
            assert observer.observe().stamp == pytest.approx(now)


def test_joint_jump_without_image_change_is_not_a_frozen_camera(observer, camera):
    for i, position in enumerate([0.0, 0.0, 0.3, 0.3, 0.0, 0.0]):
        observer.put_joints(joints(1.0 + 0.01 * i, position, 0.0))
        observer.put_image(image(camera, 1.0 + 0.01 * i))
        assert observer.observe().joints[0] == position


def test_images_with_a_constant_stamp_are_not_used(camera):
    hasty = Observer(ARM, camera, replace(LIMITS, max_image_age=0.02))
    hasty.put_joints(joints(1.0, 0.0, 0.0))
    hasty.put_image(image(camera, 1.0))
    hasty.observe()
    time.sleep(0.03)
    hasty.put_joints(joints(1.0, 0.0, 0.0))
    hasty.put_image(image(camera, 1.0))
    with pytest.raises(NoObservation, match='same stamp'):
        hasty.observe()


def test_clock_jump_clears_the_joint_history(observer, camera):
    observer.put_joints(joints(9.0, 5.0, 5.0))
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, 1.0))
    np.testing.assert_allclose(observer.observe().joints, 0.0)


def test_camera_info_is_compared_with_the_camera_of_the_model(camera):
    msg = convert.camera_info_to_msg(camera, convert.to_time(0.0))
    assert camera_difference(msg, camera) == ''
    msg.k[0] *= 1.5
    msg.k[4] *= 1.5
    assert 'field of view' in camera_difference(msg, camera)
    msg.width = 640
    assert '640' in camera_difference(msg, camera)
