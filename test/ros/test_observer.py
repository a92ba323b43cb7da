"""What the planner makes of images and joints, and what it does not believe."""

import time
from dataclasses import replace
from threading import Timer

import numpy as np
import pytest

from jepa_arm.config import WristCameraConfig
from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.observer import NoObservation, NoSight, Observer, WrongSight
from jepa_arm.sight import camera_difference
from jepa_arm.types import JointSample

pytestmark = pytest.mark.ros
NAMES = ('a', 'b')
FASTEST = np.array([2.0, 2.0])


def tip_of(joints):
    """Sideways through the view of the camera, 0.3 m for a radian."""
    return np.array([0.5, 0.3 * joints[0], 0.03])


@pytest.fixture
def camera(arm_config):
    return arm_config.camera


@pytest.fixture
def observer(camera):
    return Observer(NAMES, FASTEST, camera, 0.2, 0.1, max_clipped=0.3, tip_of=tip_of)


def image(camera, stamp, value=70):
    pixels = np.full((camera.height, camera.width, 3), value, dtype=np.uint8)
    pixels[::2] += 7
    return convert.image_to_msg(pixels, convert.to_time(stamp), camera.frame_id)


def joints(stamp, *position):
    sample = JointSample(np.array(position), np.zeros(len(position)), stamp)
    return convert.joints_to_msg(sample, NAMES)


def test_joints_are_interpolated_at_the_stamp_of_the_image(observer, camera):
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
    observer = Observer(NAMES, FASTEST, camera, 0.2, 0.1, 0.3, tip_of, str.upper)
    return observer, replace(camera, height=16)


def test_what_the_wrist_camera_sees_is_below_and_an_image_waits_for_it(two_cameras, camera):
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


def test_one_of_two_cameras_alone_shows_nothing_that_the_model_knows(two_cameras, camera):
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
        with pytest.raises(NoSight, match=says):
            observer.observe()
    observer.put_wrist_image(image(wrist, 1.0))
    observer.observe()


def test_a_wrist_camera_that_repeats_itself_while_the_arm_moves_is_not_believed(
    two_cameras, camera
):
    observer, wrist = two_cameras
    for i in range(4):
        observer.put_joints(joints(1.0 + 0.1 * i, 0.02 * i, 0.0))
        observer.put_image(image(camera, 1.0 + 0.1 * i, 70 + i))
        observer.put_wrist_image(image(wrist, 1.0 + 0.1 * i))
        if i < 3:
            observer.observe()
    with pytest.raises(WrongSight, match='wrist camera: the image has not changed'):
        observer.observe()


def test_an_image_counts_as_new_once(observer, camera):
    assert not observer.wait(0.0)
    observer.put_image(image(camera, 1.0))
    assert observer.wait(0.0) and not observer.wait(0.0)


def test_what_is_missing_is_named_with_its_topic(camera):
    """It named ``camera/image_raw`` where the planner listens to ``/cam/rgb``."""
    names = {'camera/image_raw': '/cam/rgb', 'joint_states': '/robot/joint_states'}
    observer = Observer(NAMES, FASTEST, camera, 0.2, 0.1, 0.3, tip_of, names.__getitem__)
    with pytest.raises(NoObservation, match='publishing on /cam/rgb'):
        observer.observe()
    observer.put_image(image(camera, 1.0))
    with pytest.raises(NoObservation, match='publishing on /robot/joint_states'):
        observer.observe()


def test_an_image_is_as_old_as_the_joints_that_came_with_it(observer, camera):
    """However long they waited to be taken, while a plan was made."""
    observer.put_joints(joints(1.0, 0.0, 0.0), waited=0.06)
    observer.put_image(image(camera, 0.98))
    assert 0.08 <= observer.age(0.98) < 0.2
    time.sleep(0.05)  # more than 0.1 s since they came, less since they were taken
    with pytest.raises(NoObservation, match='joint state'):
        observer.observe()


@pytest.mark.parametrize('stamp', [0.5, 2.0])
def test_an_image_far_from_the_joints_in_time_is_not_used(observer, camera, stamp):
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, stamp))
    with pytest.raises(NoObservation):
        observer.observe()


def test_joints_that_are_not_finite_are_not_used_until_better_ones_come(observer, camera):
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_joints(joints(1.01, np.nan, 0.0))
    observer.put_image(image(camera, 1.0))
    with pytest.raises(NoObservation, match='finite'):
        observer.observe()
    observer.put_joints(joints(1.02, 0.0, 0.0))
    assert observer.observe().stamp == pytest.approx(1.0)


def test_an_image_that_shows_nothing_is_not_used_until_a_better_one_comes(observer, camera):
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, 1.0, value=0))
    with pytest.raises(NoObservation, match='black'):
        observer.observe()
    observer.put_image(image(camera, 1.0))
    observer.observe()


def test_a_camera_that_repeats_itself_while_the_arm_moves_is_not_believed(observer, camera):
    """With new stamps a frozen image looked like a fresh one."""
    for i in range(3):
        observer.put_joints(joints(1.0 + 0.1 * i, 0.02 * i, 0.0))
        observer.put_image(image(camera, 1.0 + 0.1 * i))
        observer.observe()
    observer.put_joints(joints(1.3, 0.06, 0.0))
    observer.put_image(image(camera, 1.3))
    with pytest.raises(WrongSight, match='has not changed'):
        observer.observe()
    observer.put_image(image(camera, 1.3, value=80))
    observer.observe()


def test_stamps_that_were_wrong_for_a_while_do_not_make_the_camera_suspect(observer, camera):
    """The arm rests by the time they are right again: no pixel changes any more."""
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


def test_an_encoder_that_jumps_and_comes_back_does_not_make_the_camera_suspect(observer, camera):
    """The arm rested by then, so no pixel ever changed and the planner stayed blind."""
    for i, position in enumerate([0.0, 0.0, 0.3, 0.3, 0.0, 0.0]):
        observer.put_joints(joints(1.0 + 0.01 * i, position, 0.0))
        observer.put_image(image(camera, 1.0 + 0.01 * i))
        assert observer.observe().joints[0] == position


def test_images_whose_stamps_stand_still_are_not_used(camera):
    """While the clock stood still nothing was said, and a goal waited for ever."""
    hasty = Observer(NAMES, FASTEST, camera, 0.02, 0.1, max_clipped=0.3, tip_of=tip_of)
    hasty.put_joints(joints(1.0, 0.0, 0.0))
    hasty.put_image(image(camera, 1.0))
    hasty.observe()
    time.sleep(0.03)
    hasty.put_joints(joints(1.0, 0.0, 0.0))
    hasty.put_image(image(camera, 1.0))
    with pytest.raises(NoObservation, match='same stamp'):
        hasty.observe()


def test_a_clock_that_jumps_back_empties_the_history_of_joints(observer, camera):
    observer.put_joints(joints(9.0, 5.0, 5.0))
    observer.put_joints(joints(1.0, 0.0, 0.0))
    observer.put_image(image(camera, 1.0))
    np.testing.assert_allclose(observer.observe().joints, 0.0)


def test_the_camera_of_the_model_is_accepted_and_others_are_described(camera):
    msg = convert.camera_info_to_msg(camera, convert.to_time(0.0))
    assert camera_difference(msg, camera) == ''
    msg.k[0] *= 1.5
    msg.k[4] *= 1.5
    assert 'field of view' in camera_difference(msg, camera)
    msg.width = 640
    assert '640' in camera_difference(msg, camera)
