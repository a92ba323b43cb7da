"""Predictions of the guard equal the commands that follow."""

import dataclasses

import numpy as np
import pytest

from guard_loop import ARM, CONFIG, DT, Loop, with_value
from jepa_arm.core.types import GuardState

TICKS = 8


def predict(loop, ticks=TICKS):
    """Return commands and stop (N, 2, J), and the number of commands; check for no side effect."""
    before = loop.guard.command
    commands, stop = loop.guard.predict(ticks, loop.now - DT)
    assert loop.guard.command is before
    return np.concatenate([commands, stop]), len(commands)


def sent(loop, ticks):
    commands = []
    for _ in range(ticks):
        loop.tick()
        commands.append([loop.commands[-1].position, loop.commands[-1].velocity])
    return np.array(commands)


@pytest.mark.parametrize(('ticks', 'now'), [(1, 0.0), (1, 10.0), (4, 10.0), (9, 10.0), (14, 10.0)])
def test_predicted_commands_are_those_that_follow(ticks, now):
    loop = Loop(now=now - DT)  # a clock that begins is a clock like others
    loop.start_moving()
    loop.submit(loop.proposal())
    loop.tick(ticks)
    ahead, count = predict(loop)
    assert count == TICKS and len(ahead) > TICKS + 2
    np.testing.assert_allclose(sent(loop, TICKS), ahead[:TICKS], atol=1e-9)


def test_after_the_predicted_commands_comes_the_stop_of_a_hold():
    loop = Loop()
    loop.start_moving()
    ahead, count = predict(loop)
    loop.tick(count)
    loop.guard.hold()
    stop = sent(loop, len(ahead) - count)
    np.testing.assert_allclose(stop, ahead[count:], atol=1e-4)
    assert loop.tick().state is GuardState.HOLDING


def test_the_predicted_stop_begins_when_the_proposal_expires():
    loop = Loop()
    loop.start_moving()
    assert loop.submit(loop.proposal(valid_for=0.1)).state is GuardState.FOLLOWING
    loop.tick(8)
    ahead, count = predict(loop)
    assert 0 < count < TICKS
    np.testing.assert_allclose(sent(loop, len(ahead)), ahead, atol=1e-4)
    assert loop.guard.reasons[0].startswith('plan_expired')


def test_a_violation_ahead_is_predicted_as_a_stop():
    loop = Loop(config=dataclasses.replace(CONFIG, slowdown_time=0.011))
    way = np.tile(with_value(ARM.home, 5, ARM.upper[5]), (10, 1))
    for _ in range(60):
        start = loop.guard.command.position
        steps = start + np.clip(way - start, -0.3, 0.3)
        loop.submit(loop.proposal(positions=steps))
        ahead, count = predict(loop, 20)
        came = sent(loop, 3)
        np.testing.assert_allclose(came, ahead[:3], atol=1e-4)
        if count < 20:
            break
    assert np.all(ahead[:, 0] <= ARM.upper + 1e-6) and not ahead[-1, 1].any()


def test_a_stop_is_predicted_to_its_end_and_at_rest_nothing():
    loop = Loop()
    assert predict(loop)[0].shape == (0, 2, 7)
    loop.start_moving()
    loop.guard.hold()
    loop.tick(2)
    ahead, count = predict(loop)
    assert count == 0
    np.testing.assert_array_equal(loop.guard.stopping_trajectory(), ahead)
    np.testing.assert_allclose(sent(loop, len(ahead)), ahead, atol=1e-4)
    assert predict(loop)[0].shape == (0, 2, 7)


def test_a_back_off_is_predicted():
    loop = Loop()
    loop.start_moving()
    loop.measured = loop.guard.command.position - [0, 0, 0, 0, 0, 0, 0.1]
    loop.tick(2)
    while not loop.guard.reasons:
        loop.tick()
    ahead, count = predict(loop)
    assert count == TICKS and loop.guard.state is GuardState.STOPPING
    np.testing.assert_allclose(sent(loop, TICKS), ahead[:TICKS], atol=1e-9)
