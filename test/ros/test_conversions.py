"""Conversions: values survive a round trip, and invalid messages are refused with a reason."""

import math

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from jepa_arm_msgs.msg import Goal, GuardStatus
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.messages import yaw_from_msg
from jepa_arm.core.types import Command, GuardState, JointSample, Proposal
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import ConversionError

pytestmark = pytest.mark.ros
NAMES = ('a', 'b', 'c')
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
STAMP = convert.to_time(12.345678901)


@pytest.mark.parametrize('seconds', [0.0, 12.345678901, -5.0])
def test_stamp_is_read_from_a_serialized_message(seconds):
    msg = JointState(name=['a'], position=[1.0])
    msg.header.stamp.sec, msg.header.stamp.nanosec = int(seconds), round(seconds % 1.0 * 1e9)
    raw = serialize_message(msg)
    assert convert.raw_stamp(raw) == convert.to_seconds(msg.header.stamp)
    assert convert.from_raw(raw, JointState) == msg


def test_bytes_of_another_message_are_refused():
    raw = serialize_message(JointState(name=['a'], position=[1.0]))
    for bad in (b'', raw[:20], b'\xff' * 50):
        with pytest.raises(ConversionError, match='expected a JointState'):
            convert.from_raw(bad, JointState)
    with pytest.raises(ConversionError, match='got 2 bytes'):
        convert.raw_stamp(raw[:2])


def test_hardware_commands_are_reordered_and_nan_means_no_command():
    commands = convert.joint_commands_from_msg
    names = ['c', 'a', 'b']
    position, velocity = commands(JointState(name=names, position=[3.0, 1.0, 2.0]), NAMES)
    assert position.tolist() == [1.0, 2.0, 3.0] and velocity is None
    position, velocity = commands(JointState(name=names, velocity=[3.0, 1.0, 2.0]), NAMES)
    assert position is None and velocity.tolist() == [1.0, 2.0, 3.0]
    assert commands(JointState(name=names, position=[math.nan, 1.0, 2.0]), NAMES) == (None, None)
    for wrong in ({'name': ['a'], 'position': [1.0]}, {'name': names, 'position': [1.0]}):
        with pytest.raises(ConversionError, match='joint commands: expected'):
            commands(JointState(**wrong), NAMES)


def proposal(**changes):
    values = {
        'joint_names': NAMES,
        'positions': RNG.normal(size=(4, 3)),
        'times': np.array([0.1, 0.2, 0.3, 0.4]),
        'stamp': 12.5,
        'valid_for': 0.25,
    }
    return Proposal(**{**values, **changes})


@pytest.mark.parametrize('seconds', [0.0, 0.1, 12.345678901, 0.999999999, 1.7e9 + 0.25])
def test_stamps_round_trip_to_the_nanosecond(seconds):
    assert abs(convert.to_seconds(convert.to_time(seconds)) - seconds) < 5e-10 + seconds * 1e-16
    assert convert.to_seconds(convert.to_duration(seconds)) == pytest.approx(seconds)


def test_rounding_carries_into_the_seconds():
    stamp = convert.to_time(1.9999999999)
    assert (stamp.sec, stamp.nanosec) == (2, 0)


def test_image_round_trips():
    msg = convert.image_to_msg(IMAGE, STAMP, 'camera')
    assert (msg.header.frame_id, msg.encoding, msg.step) == ('camera', 'rgb8', 21)
    np.testing.assert_array_equal(convert.image_from_msg(msg), IMAGE)


def test_bgr_images_and_padded_rows_are_converted_to_rgb():
    padded = np.zeros((5, 32), dtype=np.uint8)
    padded[:, :21] = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR).reshape(5, 21)
    msg = Image(height=5, width=7, encoding='bgr8', step=32, data=padded.tobytes())
    np.testing.assert_array_equal(convert.image_from_msg(msg), IMAGE)


def test_image_shares_no_memory_with_its_message():
    msg = convert.image_to_msg(IMAGE, STAMP, 'camera')
    image = convert.image_from_msg(msg)
    image[:] = 0
    np.testing.assert_array_equal(convert.image_from_msg(msg), IMAGE)


@pytest.mark.parametrize(
    ('changes', 'what'),
    [
        ({'encoding': 'mono8'}, "rgb8 or bgr8, got 'mono8'"),
        ({'encoding': ''}, 'rgb8 or bgr8'),
        ({'width': 8}, 'expected 7x5 pixels, got 8x5'),
        ({'step': 20}, 'step >= 21'),
        ({'data': b'\x00' * 10}, '10 bytes'),
        ({'step': 22}, 'step \\* height'),
    ],
)
def test_unexpected_image_is_refused(changes, what):
    msg = convert.image_to_msg(IMAGE, STAMP, 'camera')
    for key, value in changes.items():
        setattr(msg, key, value)
    with pytest.raises(ConversionError, match=what):
        convert.image_from_msg(msg, (7, 5))


def test_empty_image_is_refused():
    with pytest.raises(ConversionError, match='pixels'):
        convert.image_from_msg(Image(encoding='rgb8'))


def test_joints_are_reordered_and_others_ignored():
    msg = JointState(name=['c', 'x', 'a', 'b'], position=[3.0, 9.0, 1.0, 2.0])
    sample = convert.joints_from_msg(msg, NAMES)
    np.testing.assert_array_equal(sample.position, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(sample.velocity, [0.0, 0.0, 0.0])


def test_joint_sample_round_trips():
    sample = JointSample(RNG.normal(size=3), RNG.normal(size=3), 3.25)
    back = convert.joints_from_msg(convert.joints_to_msg(sample, NAMES), NAMES)
    np.testing.assert_array_equal(back.position, sample.position)
    np.testing.assert_array_equal(back.velocity, sample.velocity)
    assert back.stamp == sample.stamp


def test_missing_joint_or_position_is_refused():
    with pytest.raises(ConversionError, match=r"missing \['b'\]"):
        convert.joints_from_msg(JointState(name=['a', 'c'], position=[1.0, 2.0]), NAMES)
    with pytest.raises(ConversionError, match='expected 3 positions, got 2'):
        convert.joints_from_msg(JointState(name=list(NAMES), position=[1.0, 2.0]), NAMES)


def test_proposal_round_trips_except_for_its_validity():
    sent = proposal()
    back = convert.proposal_from_msg(convert.proposal_to_msg(sent), valid_for=0.5)
    np.testing.assert_array_equal(back.positions, sent.positions)
    np.testing.assert_allclose(back.times, sent.times, atol=1e-9)
    assert (back.joint_names, back.stamp, back.valid_for) == (NAMES, 12.5, 0.5)


def test_nan_is_kept_for_the_guard_to_check():
    msg = convert.proposal_to_msg(proposal(positions=np.full((4, 3), np.nan)))
    assert np.isnan(convert.proposal_from_msg(msg, 0.25).positions).all()


def test_ragged_trajectory_is_refused_and_empty_one_accepted():
    msg = convert.proposal_to_msg(proposal())
    msg.points[2].positions = [1.0]
    with pytest.raises(ConversionError, match='3 positions at point 2, got 1'):
        convert.proposal_from_msg(msg, 0.25)
    empty = convert.proposal_from_msg(JointTrajectory(joint_names=list(NAMES)), 0.25)
    assert empty.positions.shape == (0, 3) and empty.times.shape == (0,)


def test_command_becomes_one_point_with_velocity():
    command = Command(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.zeros(3))
    msg = convert.command_to_msg(command, NAMES, 0.01)
    back = convert.trajectory_from_msg(msg, NAMES)
    np.testing.assert_array_equal(back.positions, [[1, 2, 3]])
    np.testing.assert_array_equal(back.velocities, [[4, 5, 6]])
    assert back.times == pytest.approx([0.01]) and back.start == 0.0


def test_command_can_include_a_stop():
    command = Command(np.ones(3), np.full(3, 0.5), np.zeros(3))
    stop = np.stack([np.full((2, 3), [1.5]), [[0.2] * 3, [0.0] * 3]], axis=1)
    msg = convert.command_to_msg(command, NAMES, 0.01, stop=stop)
    back = convert.trajectory_from_msg(msg, NAMES)
    np.testing.assert_array_equal(back.positions[:, 0], [1.0, 1.5, 1.5])
    np.testing.assert_array_equal(back.velocities[:, 0], [0.5, 0.2, 0.0])
    np.testing.assert_allclose(back.times, [0.01, 0.02, 0.03])


def test_trajectory_is_reordered_and_other_joints_are_refused():
    point = JointTrajectoryPoint(positions=[3.0, 1.0, 2.0])
    msg = JointTrajectory(joint_names=['c', 'a', 'b'], points=[point])
    np.testing.assert_array_equal(convert.trajectory_from_msg(msg, NAMES).positions, [[1, 2, 3]])
    for names in (['a', 'b'], ['a', 'b', 'x'], ['a', 'b', 'c', 'd']):
        with pytest.raises(ConversionError, match='expected joints'):
            convert.trajectory_from_msg(JointTrajectory(joint_names=names, points=[point]), NAMES)


def test_position_goal_round_trips():
    for goal in (PositionGoal('tip', np.arange(3.0)), PositionGoal('object', np.ones(3))):
        back = convert.position_goal_from_msg(
            convert.position_goal_to_msg(goal, 'base', STAMP), 'base'
        )
        assert back.subject == goal.subject
        np.testing.assert_array_equal(back.position, goal.position)


def test_yaw_of_a_goal_is_read_if_it_has_a_tolerance():
    msg = convert.position_goal_to_msg(PositionGoal('object', np.ones(3), -0.6), 'base', STAMP)
    assert convert.position_goal_from_msg(msg, 'base').yaw is None
    msg.yaw_tolerance = 0.1
    assert convert.position_goal_from_msg(msg, 'base').yaw == pytest.approx(-0.6)
    assert yaw_from_msg(msg.pose.pose.orientation) == pytest.approx(-0.6)
    msg.pose.pose.orientation.w = 0.0
    with pytest.raises(ConversionError, match='unit quaternion'):
        convert.position_goal_from_msg(msg, 'base')


@pytest.mark.parametrize(
    ('kind', 'frame', 'x', 'what'),
    [
        (Goal.IMAGE, '', 0.0, 'expected kind'),
        (99, '', 0.0, 'expected kind'),
        (Goal.TIP_POSE, 'map', 0.0, "frame base, got 'map'"),
        (Goal.TIP_POSE, '', math.nan, 'finite'),
    ],
)
def test_invalid_position_goal_is_refused(kind, frame, x, what):
    pose = PoseStamped()
    pose.header.frame_id, pose.pose.position.x = frame, x
    with pytest.raises(ConversionError, match=what):
        convert.position_goal_from_msg(Goal(kind=kind, pose=pose), 'base')


def test_guard_states_equal_the_message_constants():
    for state in GuardState:
        assert getattr(GuardStatus, state.name) == state.value


def test_camera_info_contains_the_intrinsics(arm_config):
    msg = convert.camera_info_to_msg(arm_config.camera, STAMP)
    assert (msg.width, msg.height) == (80, 64)
    focal = 32.0 / math.tan(math.radians(arm_config.camera.fov_deg / 2.0))
    assert msg.k[0] == pytest.approx(focal) and msg.p[5] == msg.k[4]
    assert (msg.k[2], msg.k[5]) == (40.0, 32.0)
