"""The stream gives no command from which a stop would come too late."""

import dataclasses

import numpy as np
import pytest

from guard_loop import ANYWHERE, ARM, CONFIG, DT
from jepa_arm.motion import JointStreamer, StreamError
from jepa_arm.stream import GuardedStream
from jepa_arm.sweep import Sweep
from jepa_arm.types import Command


def make_stream(config=CONFIG):
    return GuardedStream(ANYWHERE, DT, Sweep(ANYWHERE, config), config)


def test_a_stop_that_would_end_beyond_a_joint_limit_begins_before():
    stream, rest = make_stream(), np.zeros(7)
    position, velocity = ARM.home.copy(), np.zeros(7)
    position[6], velocity[6] = ARM.upper[6] - 0.03, ARM.velocity_limit[6]
    stream._streamer.go_on_from(Command(position, velocity, rest))
    target = position.copy()
    target[6] = ARM.upper[6]
    command, fault = stream.step(target)
    assert fault == 'position_limit: panda_joint7 on the way'
    assert command.acceleration[6] < 0.0


def test_a_target_that_no_motion_leads_to_stops_the_arm_and_says_so():
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


def test_a_motion_that_is_not_found_leaves_the_streamer_as_it_was():
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


@pytest.mark.parametrize('scale', [0.05, 0.3])
def test_a_speed_limit_that_falls_is_met_within_acceleration_and_jerk(scale):
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


def test_a_stop_follows_the_path_that_was_foreseen():
    """The path of a stop is checked before; what is sent must be that path."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        streamer = JointStreamer(ARM, DT)
        target = rng.uniform(ARM.lower, ARM.upper)
        for _ in range(int(rng.integers(5, 40))):
            streamer.step(target)
        foreseen = streamer.stopping_path()
        sent = np.array([streamer.stop().position for _ in foreseen])
        np.testing.assert_allclose(sent, foreseen, atol=1e-5)
        assert streamer.is_at_rest


def test_an_arm_at_rest_has_nowhere_to_stop():
    stream = make_stream(dataclasses.replace(CONFIG, approach_time=10.0))
    assert stream._streamer.stopping_path().shape == (0, 7)
    assert stream.step(ARM.home)[1] == '' and stream.speed_scale == 1.0
