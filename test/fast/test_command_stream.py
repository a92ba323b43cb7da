"""The command stream: after every command a stop is still possible."""

import dataclasses

import numpy as np
import pytest
from ruckig import RuckigError

from guard_loop import ANYWHERE, ARM, CONFIG, DT
from jepa_arm.core.types import Command
from jepa_arm.guard.command_stream import GuardedCommandStream
from jepa_arm.guard.path_checker import PathChecker
from jepa_arm.robot.trajectory import JointStreamer, StreamError


def make_stream(config=CONFIG, streamer=None, path_checker=None):
    streamer = streamer or JointStreamer(ANYWHERE, DT)
    path_checker = path_checker or PathChecker(ANYWHERE, config)
    return GuardedCommandStream(ANYWHERE, streamer, path_checker, config)


def test_a_stop_that_would_end_beyond_a_joint_limit_begins_before():
    streamer, rest = JointStreamer(ANYWHERE, DT), np.zeros(7)
    stream = make_stream(streamer=streamer)
    position, velocity = ARM.home.copy(), np.zeros(7)
    position[6], velocity[6] = ARM.upper[6] - 0.03, ARM.velocity_limit[6]
    streamer.go_on_from(Command(position, velocity, rest))
    target = position.copy()
    target[6] = ARM.upper[6]
    command, fault = stream.step(target)
    assert fault == 'position_limit: panda_joint7 on the way'
    assert command.acceleration[6] < 0.0


def test_a_target_without_a_motion_stops_the_arm_with_a_reason():
    stream = make_stream()
    target = ARM.home + [0.3, 0, 0, 0, 0, 0, 0.3]
    for _ in range(8):
        assert stream.step(target)[1] == ''
    speed = np.abs(stream.command.velocity).max()
    for _ in range(3):
        command, fault = stream.step(np.full(7, np.nan))
        assert fault.startswith('stream: no jerk-limited motion')
    assert np.all(np.isfinite(command.position))
    assert np.abs(command.velocity).max() < speed


class ScriptedPathChecker(PathChecker):
    """Finds the violations of a list, one after the other."""

    def __init__(self, violations):
        super().__init__(ANYWHERE, CONFIG)
        self.violations = violations

    def is_proven_clear(self, begin, path, limits):
        return False

    def first_violation(self, path, limits=None):
        violation = self.violations.pop(0) if self.violations else ''
        return (0, violation) if violation else None


def test_a_prediction_ends_where_a_stop_would_begin_and_changes_nothing():
    checker = ScriptedPathChecker([])
    stream = make_stream(path_checker=checker)
    target = ARM.home + [0.3, 0, 0, 0, 0, 0, 0.3]
    for _ in range(8):
        before = stream.step(target)[0]
    checker.violations = ['', 'table: a book', '', 'table: a book']
    course, stop = stream.predict([target, target, target])
    assert stream.command is before and len(course) == 2
    given = [stream.step(target)[0], stream.step(target)[0], *(stream.stop() for _ in stop)]
    made = np.array([[c.position, c.velocity] for c in given])
    np.testing.assert_allclose(made, np.concatenate([course, stop]), atol=1e-4)
    assert stream.is_at_rest


def test_a_failed_step_leaves_the_streamer_unchanged():
    streamer = JointStreamer(ARM, DT)
    before = streamer.step(ARM.home + 0.1)
    with pytest.raises(StreamError, match='nan'):
        streamer.step(np.full(7, np.nan))
    assert streamer.command is before
    again = JointStreamer(ARM, DT)
    again.step(ARM.home + 0.1)
    np.testing.assert_array_equal(
        streamer.step(ARM.home + 0.1).position, again.step(ARM.home + 0.1).position
    )


def all_but_at_rest():
    """A command and its target, for which ruckig 0.19.4 gave joint 3 an acceleration of NaN."""
    position = [
        0.2562503106998,
        -0.14219373654874284,
        0.19705842019009473,
        -2.945344133288685,
        0.0840444015683644,
        2.8047486181352013,
        0.785,
    ]
    velocity = [
        -3.851859888774472e-34,
        0.0,
        8.688405016612482e-14,
        6.617444891705512e-26,
        -1.925929944387236e-34,
        9.275010771929718e-19,
        0.0,
    ]
    acceleration = [0.0, 0.0, 0.0, 6.617444900424222e-24, 0.0, 0.0, 0.0]
    target = np.array(position)
    target[[0, 2]] = 0.2562503106997999, 0.19705842019009312
    return Command(np.array(position), np.array(velocity), np.array(acceleration)), target


def test_commands_of_an_arm_almost_at_rest_are_finite():
    streamer = JointStreamer(ANYWHERE, DT)
    stream = make_stream(streamer=streamer)
    command, target = all_but_at_rest()
    streamer.go_on_from(command)
    for _ in range(5):
        command, fault = stream.step(target)
        assert fault == ''
        for values in (command.position, command.velocity, command.acceleration):
            assert np.all(np.isfinite(values))
    np.testing.assert_allclose(command.position, target, atol=1e-9)


class WithoutCrumbs(JointStreamer):
    """Finds a motion only where nothing of its input is next to nothing but not 0."""

    def _update(self):
        way = np.array(self._input.target_position) - self._input.current_position
        rates = self._input.current_velocity, self._input.current_acceleration
        values = np.abs([way, *rates])
        if np.any((values > 0.0) & (values < 1e-9)):
            raise RuckigError('a crumb')
        return super()._update()


def test_tiny_inputs_are_rounded_if_no_motion_is_found_otherwise():
    crumb, velocity, acceleration = 1e-12, np.zeros(7), np.zeros(7)
    velocity[[1, 2]], acceleration[[1, 3]] = [0.1, -0.2], [0.3, 0.4]
    target = ARM.home + 0.1
    target[5] = ARM.home[5]
    streamer = WithoutCrumbs(ARM, DT)
    streamer.go_on_from(Command(ARM.home, velocity, acceleration))
    clean = streamer.step(target)
    streamer.go_on_from(
        Command(
            ARM.home,
            velocity + crumb * (velocity == 0),
            acceleration - crumb * (acceleration == 0),
        )
    )
    target[5] += crumb
    rounded = streamer.step(target)
    for key in ('position', 'velocity', 'acceleration'):
        np.testing.assert_allclose(
            getattr(rounded, key)[[1, 2, 3, 5]], getattr(clean, key)[[1, 2, 3, 5]], atol=1e-9
        )


class WithoutRuckig(JointStreamer):
    """Finds no motion once ``is_lost``."""

    is_lost = False

    def _solve(self, compute):
        if self.is_lost:
            raise StreamError('lost')
        return super()._solve(compute)


def test_without_a_jerk_limited_stop_the_arm_brakes_with_its_largest_deceleration():
    streamer = WithoutRuckig(ANYWHERE, DT)
    stream = make_stream(streamer=streamer)
    target = ARM.home + [0.3, 0, 0, 0, 0, 0, 0.3]
    for _ in range(15):
        before = stream.step(target)[0]
    streamer.is_lost = True
    command, fault = stream.step(target)
    assert fault.startswith('stream: no jerk-limited motion')
    while not stream.is_at_rest:
        assert np.all(np.abs(command.velocity) <= np.abs(before.velocity))
        change = np.abs(command.velocity - before.velocity)
        fullest = np.minimum(np.abs(before.velocity), ARM.braking_limit * DT)
        np.testing.assert_allclose(change, fullest, atol=1e-9)
        way = (before.velocity + command.velocity) / 2.0 * DT
        np.testing.assert_allclose(command.position - before.position, way, atol=1e-12)
        np.testing.assert_allclose(command.acceleration * DT, command.velocity - before.velocity)
        before, command = command, stream.stop()
    np.testing.assert_allclose(command.position, before.position, atol=1e-3)


def test_a_command_without_a_stop_after_it_is_not_sent(monkeypatch):
    streamer = JointStreamer(ANYWHERE, DT)
    stream = make_stream(streamer=streamer)
    before = stream.command

    def lost():
        raise StreamError('lost')

    monkeypatch.setattr(streamer, 'stopping_path', lost)
    command, fault = stream.step(ARM.home + 0.1)
    assert fault.startswith('stream: no stop was found: lost')
    np.testing.assert_array_equal(command.position, before.position)


@pytest.mark.parametrize('scale', [0.05, 0.3])
def test_a_falling_speed_limit_is_met_within_acceleration_and_jerk(scale):
    streamer = JointStreamer(ARM, DT)
    target = np.clip(ARM.home + 2.0, ARM.lower, ARM.upper)
    commands = [streamer.step(target) for _ in range(25)]
    assert np.abs(commands[-1].velocity / ARM.velocity_limit).max() > 0.9
    commands += [streamer.step(target, scale) for _ in range(40)]
    assert np.all(np.abs(commands[-1].velocity) <= scale * ARM.velocity_limit * (1 + 1e-6))
    acceleration = np.array([c.acceleration for c in commands])
    assert np.all(np.abs(acceleration) <= ARM.acceleration_limit * (1 + 1e-6))
    jerk = np.diff(acceleration, axis=0) / DT
    assert np.all(np.abs(jerk) <= ARM.jerk_limit * (1 + 1e-3))


def in_motion(seed):
    """Five streamers, each after some ticks towards a random target."""
    rng = np.random.default_rng(seed)
    for _ in range(5):
        streamer = JointStreamer(ARM, DT)
        target = rng.uniform(ARM.lower, ARM.upper)
        for _ in range(int(rng.integers(5, 40))):
            streamer.step(target)
        yield streamer


def test_a_stop_follows_its_predicted_path():
    """The path of a stop is checked before; what is sent must be that path."""
    for streamer in in_motion(seed=0):
        foreseen = streamer.stopping_path()
        sent = np.array([streamer.stop().position for _ in foreseen])
        np.testing.assert_allclose(sent, foreseen, atol=1e-5)
        assert streamer.is_at_rest


def test_the_stopping_trajectory_is_the_stop_that_follows_and_ends_at_rest():
    for streamer in in_motion(seed=1):
        before = streamer.command
        foreseen = streamer.stopping_motion()
        assert streamer.command is before and not foreseen[-1, 1].any()
        sent = [streamer.stop() for _ in foreseen]
        made = np.array([[c.position, c.velocity] for c in sent])
        np.testing.assert_allclose(made, foreseen, atol=1e-4)
        assert streamer.is_at_rest and streamer.stopping_motion().shape == (0, 2, 7)


def test_without_a_jerk_limited_stop_the_stopping_trajectory_brakes():
    streamer = WithoutRuckig(ANYWHERE, DT)
    for _ in range(15):
        before = streamer.step(ARM.home + [0.3, 0, 0, 0, 0, 0, 0.3])
    streamer.is_lost = True
    motion = streamer.stopping_motion()
    assert streamer.command is before and not motion[-1, 1].any()
    velocity = np.vstack([before.velocity, motion[:, 1]])
    assert np.all(np.abs(np.diff(velocity, axis=0)) <= ARM.braking_limit * DT * (1 + 1e-9))
    np.testing.assert_allclose(motion[0], [streamer.stop().position, streamer.command.velocity])


def test_in_a_stop_all_joints_come_to_rest_at_once():
    streamer = JointStreamer(ARM, DT)
    for _ in range(12):
        streamer.step(ARM.home + [0.02, 0.3, 0.1, 0.2, 0.05, 0.3, 0.3])
    path = np.vstack([streamer.command.position, streamer.stopping_path()])
    assert np.abs(np.diff(path, axis=0))[-1].min() > 1e-6
    sent = [streamer.command, *(streamer.stop() for _ in path[1:])]
    assert streamer.is_at_rest and np.abs(sent[-2].velocity).min() > 1e-4


def test_an_arm_at_rest_has_an_empty_stopping_trajectory():
    stream = make_stream(dataclasses.replace(CONFIG, slowdown_time=10.0))
    assert stream.stopping_trajectory().shape == (0, 2, 7)
    assert stream.step(ARM.home)[1] == '' and stream.proximity_scale == 1.0
