"""The virtual arm's joint controller and fault injection, without ROS."""

import numpy as np
import pytest

from guard_loop import ARM
from jepa_arm.core.types import TrajectoryCommand
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm.ros.sim.controller import (
    MAX_JUMP_RAD,
    MAX_TARGET_LEAD_RAD,
    CommandError,
    JointController,
)
from jepa_arm.ros.sim.faults import FAULTS, FaultError, FaultInjector

DT, TIMEOUT = 0.01, 0.2
START = np.array([0.1, -0.2])
LIMIT = np.array([2.0, 2.0])


@pytest.fixture
def controller():
    controller = JointController(LIMIT, DT, TIMEOUT)
    controller.reset(START)
    return controller


def trajectory(positions, times, velocities=None, start=0.0):
    return TrajectoryCommand(
        np.array(positions, dtype=float).reshape(len(times), 2),
        None if velocities is None else np.array(velocities, dtype=float),
        np.array(times, dtype=float),
        start,
    )


def run(controller, began, ticks):
    """Targets of ``ticks`` ticks from time ``began`` on, with an arm that stays at (9, 9)."""
    measured = np.array([9.0, 9.0])
    return [controller.next_target(began + i * DT, measured) for i in range(ticks)]


def test_the_start_is_held_until_a_command_comes(controller):
    for position, velocity in run(controller, 5.0, 100):
        np.testing.assert_array_equal(position, START)
        assert not velocity.any()


def test_a_streamed_point_is_reached_in_its_tick_with_its_velocity(controller):
    """As in the loop in process: the target of a tick is the command of that tick, exactly."""
    position, velocity = START + 0.003, np.array([0.4, 0.1])
    controller.follow(trajectory([position], [DT], [velocity]), 1.0)
    got = controller.next_target(1.0, START)
    np.testing.assert_array_equal(got[0], position)
    np.testing.assert_array_equal(got[1], velocity)
    held = controller.next_target(1.0 + DT, START)
    np.testing.assert_array_equal(held[0], position)
    assert not held[1].any()


def test_points_without_velocities_are_joined_by_straight_lines(controller):
    controller.follow(trajectory([START + 0.1, START - 0.1], [0.1, 0.3]), 2.0)
    path = np.array([p for p, _ in run(controller, 2.0, 30)])
    np.testing.assert_allclose(path[4], START + 0.05, atol=1e-12)
    np.testing.assert_allclose(path[9], START + 0.1, atol=1e-12)
    np.testing.assert_allclose(path[19], START, atol=1e-12)
    np.testing.assert_allclose(path[29], START - 0.1, atol=1e-12)


def test_points_with_velocities_are_joined_by_cubics_that_fit_them(controller):
    ends = trajectory([START + 0.1, START + 0.2], [0.2, 0.4], [[0.5, 0.5], [0.0, 0.0]])
    controller.follow(ends, 0.0)
    targets = run(controller, 0.0, 40)
    path, speed = (np.array(values) for values in zip(*targets, strict=True))
    np.testing.assert_allclose(path[19], START + 0.1, atol=1e-9)
    np.testing.assert_allclose(speed[19], [0.5, 0.5], atol=1e-9)
    slope = np.diff(path, axis=0) / DT
    np.testing.assert_allclose(slope[1:-1], (speed[1:-2] + speed[2:-1]) / 2, atol=0.02)


def test_a_newer_trajectory_starts_where_the_old_one_is(controller):
    controller.follow(trajectory([START + 0.2], [0.2]), 0.0)
    half = run(controller, 0.0, 10)[-1][0]
    controller.follow(trajectory([START], [0.1]), 0.1)
    path = [p for p, _ in run(controller, 0.1, 10)]
    np.testing.assert_allclose(path[0], half + 0.1 * (START - half), atol=1e-12)
    np.testing.assert_allclose(path[-1], START, atol=1e-12)


def test_an_empty_trajectory_stops_and_holds(controller):
    controller.follow(trajectory([START + 0.2], [0.2]), 0.0)
    reached = run(controller, 0.0, 5)[-1][0]
    controller.follow(trajectory([], []), 0.05)
    for position, velocity in run(controller, 0.05, 10):
        np.testing.assert_array_equal(position, reached)
        assert not velocity.any()


def test_the_arm_holds_where_it_is_when_the_commands_time_out(controller):
    controller.follow(trajectory([START + 0.1], [0.5]), 0.0)
    ticks = run(controller, 0.0, 69)
    np.testing.assert_allclose(ticks[-1][0], START + 0.1)
    assert not controller.is_timed_out
    last, _ = run(controller, 0.72, 3)[-1]
    assert controller.is_timed_out
    np.testing.assert_array_equal(last, [9.0, 9.0])


def test_a_stamped_trajectory_counts_from_its_stamp(controller):
    controller.follow(trajectory([START + 0.1, START + 0.2], [0.1, 0.2], start=0.9), 1.0)
    path = [p for p, _ in run(controller, 1.0, 10)]
    np.testing.assert_allclose(path[-1], START + 0.2, atol=1e-12)
    with pytest.raises(CommandError, match='ended'):
        controller.follow(trajectory([START], [0.1], start=0.5), 1.0)


@pytest.mark.parametrize(
    ('positions', 'times'),
    [
        ([[np.nan, 0.0]], [0.1]),
        ([[0.1, -0.2]], [np.inf]),
        ([[0.1, -0.2], [0.1, -0.2]], [0.2, 0.1]),
        ([[0.1, -0.2], [0.1, -0.2]], [0.1, 0.1]),
        ([[0.1, -0.2]], [-0.1]),
    ],
)
def test_an_invalid_trajectory_is_refused_and_the_old_one_stays(controller, positions, times):
    controller.follow(trajectory([START + 0.1], [0.1]), 0.0)
    with pytest.raises(CommandError):
        controller.follow(trajectory(positions, times), 0.0)
    np.testing.assert_allclose(run(controller, 0.0, 10)[-1][0], START + 0.1)


def test_after_a_reset_the_first_command_must_begin_where_the_arm_stands(controller):
    near = START + 0.9 * LIMIT * DT
    far = START + 0.5 * MAX_JUMP_RAD
    with pytest.raises(CommandError, match='joint 0 jumps'):
        controller.follow_position(far, 0.0)
    controller.follow_position(near, 0.0)
    controller.next_target(0.0, START)
    controller.follow_position(far, DT)  # once it follows, late ticks may make larger steps
    with pytest.raises(CommandError, match='jumps'):
        controller.follow_position(START + 2.0 * MAX_JUMP_RAD, DT)


def test_late_commands_do_not_make_the_target_faster_than_the_arm(controller):
    """The virtual arm was late by 5 ticks and made the motion of 6 in one: 13 rad/s measured."""
    controller.follow_position(START + LIMIT * DT, 0.0)
    controller.next_target(0.0, START)
    late = START + 6 * LIMIT * DT
    controller.follow_position(late, DT)
    path = [START + LIMIT * DT, *(p for p, _ in run(controller, DT, 8))]
    assert np.all(np.abs(np.diff(path, axis=0)) <= LIMIT * DT + 1e-12)
    np.testing.assert_allclose(path[-1], late)


def test_a_fault_ends_after_its_duration_and_clear_ends_all():
    faults = FaultInjector()
    assert faults.inject('camera_delay', 1.0, 0.0, now=5.0) == FAULTS['camera_delay'].default
    faults.inject('joints_nan', 0.0, 0.0, now=5.0)
    assert faults.names(5.5) == ['camera_delay', 'joints_nan']
    assert faults.names(6.0) == ['joints_nan'] and faults.get('camera_delay', 6.0) is None
    faults.clear()
    assert faults.names(5.5) == []


@pytest.mark.parametrize(
    ('name', 'duration', 'value'),
    [
        ('rain', 0.0, 0.0),
        ('joints_nan', -1.0, 0.0),
        ('joints_nan', np.nan, 0.0),
        ('object_move', 0.0, np.inf),
    ],
)
def test_an_unknown_fault_or_value_is_refused(name, duration, value):
    with pytest.raises(FaultError):
        FaultInjector().inject(name, duration, value, now=0.0)


def stream_then_silence(with_stop):
    """Targets of a controller that is sent a moving arm's commands, and then nothing."""
    streamer, controller = JointStreamer(ARM, DT), JointController(ARM.max_velocity, DT, TIMEOUT)
    controller.reset(ARM.home)
    targets, sent = [], []
    for i in range(100):
        if i < 20:
            command = streamer.step(ARM.home + 0.5)
            rows = np.array([[command.position, command.velocity]])
            if with_stop:
                rows = np.concatenate([rows, streamer.stopping_motion()])
            times = DT * np.arange(1, len(rows) + 1)
            controller.follow(TrajectoryCommand(rows[:, 0], rows[:, 1], times, 0.0), i * DT)
            sent.append(command.position)
        measured = targets[-1] if targets else ARM.home
        targets.append(controller.next_target(i * DT, measured)[0])
    return np.array(targets), np.array(sent)


def test_commands_with_a_stop_give_the_same_motion_and_a_smooth_rest():
    (targets, sent), (bare, _) = (
        stream_then_silence(with_stop=True),
        stream_then_silence(with_stop=False),
    )
    np.testing.assert_array_equal(targets[:20], sent)
    np.testing.assert_array_equal(bare[:20], sent)

    def hardest(path):
        acceleration = np.diff(path[15:], n=2, axis=0) / DT**2
        return np.max(np.abs(acceleration) / ARM.braking_limit)

    assert hardest(targets) <= 1.01 and hardest(bare) > 2.0
    np.testing.assert_array_equal(targets[-1], targets[-20])


def test_a_velocity_is_kept_until_it_times_out_and_then_the_arm_holds_where_it_is(controller):
    velocity = np.array([0.5, -1.0])
    controller.follow_velocity(velocity, 3.0)
    position, measured = START, START
    for i in range(round(TIMEOUT / DT)):
        before, (position, told) = position, controller.next_target(3.0 + i * DT, measured)
        np.testing.assert_allclose(position - before, velocity * DT)
        np.testing.assert_array_equal(told, velocity)
        measured = position - 0.01  # it lags
    for i in range(2, 5):
        position, told = controller.next_target(3.0 + TIMEOUT + i * DT, measured)
        np.testing.assert_array_equal(position, measured)
        assert not told.any() and controller.is_timed_out


def test_a_velocity_does_not_wind_up_while_the_arm_is_blocked(controller):
    for i in range(200):
        controller.follow_velocity(np.array([1.0, 0.0]), i * DT)
        position, _ = controller.next_target(i * DT, START)
    assert position[0] - START[0] == pytest.approx(MAX_TARGET_LEAD_RAD)


@pytest.mark.parametrize('bad', [[np.nan, 0.0], [np.inf, 0.0], [2.1, 0.0]])
def test_an_invalid_velocity_is_refused_and_the_old_one_stays(controller, bad):
    controller.follow_velocity(np.array([0.5, 0.0]), 1.0)
    with pytest.raises(CommandError):
        controller.follow_velocity(np.array(bad), 1.0)
    assert controller.next_target(1.0, START)[1][0] == 0.5


def test_a_trajectory_takes_over_from_a_velocity(controller):
    controller.follow_velocity(np.array([1.0, 0.0]), 1.0)
    [(position, _)] = run(controller, 1.0, 1)
    controller.follow(trajectory([position], [DT]), 1.0 + DT)
    assert np.all(controller.next_target(1.0 + 2 * DT, START)[0] == position)
