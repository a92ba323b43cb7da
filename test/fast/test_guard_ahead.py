"""What the guard says it will command next: the same as it does, checked alike."""

import dataclasses

import numpy as np
import pytest

from guard_loop import ARM, CONFIG, DT, Loop, with_value
from jepa_arm.types import GuardState

TICKS = 8


def told(loop, ticks=TICKS):
    """(N, 2, J) of what is ahead, and how much of it is on the way; nothing has changed by it."""
    before = loop.guard.command
    course, stop = loop.guard.ahead(ticks, loop.now - DT)
    assert loop.guard.command is before
    return np.concatenate([course, stop]), len(course)


def given(loop, ticks):
    commands = []
    for _ in range(ticks):
        loop.tick()
        commands.append([loop.commands[-1].position, loop.commands[-1].velocity])
    return np.array(commands)


@pytest.mark.parametrize(('ticks', 'now'), [(1, 0.0), (1, 10.0), (4, 10.0), (9, 10.0), (14, 10.0)])
def test_what_is_ahead_on_the_way_is_what_comes(ticks, now):
    loop = Loop(now=now - DT)  # a clock that begins is a clock like others
    loop.start_moving()
    loop.submit(loop.proposal())
    loop.tick(ticks)
    ahead, on_the_way = told(loop)
    assert on_the_way == TICKS and len(ahead) > TICKS + 2
    np.testing.assert_allclose(given(loop, TICKS), ahead[:TICKS], atol=1e-9)


def test_behind_the_way_comes_the_stop_that_would_be_made():
    loop = Loop()
    loop.start_moving()
    ahead, on_the_way = told(loop)
    loop.tick(on_the_way)
    loop.guard.hold()
    stop = given(loop, len(ahead) - on_the_way)
    np.testing.assert_allclose(stop, ahead[on_the_way:], atol=1e-4)
    assert loop.tick().state is GuardState.HOLDING


def test_where_the_plan_runs_out_the_stop_comes_sooner():
    loop = Loop()
    loop.start_moving()
    assert loop.submit(loop.proposal(valid_for=0.1)).state is GuardState.FOLLOWING
    loop.tick(8)
    ahead, on_the_way = told(loop)
    assert 0 < on_the_way < TICKS
    np.testing.assert_allclose(given(loop, len(ahead)), ahead, atol=1e-4)
    assert loop.guard.reasons[0].startswith('plan_expired')


def test_a_danger_on_the_way_is_ahead_as_a_stop():
    loop = Loop(config=dataclasses.replace(CONFIG, approach_time=0.011))
    way = np.tile(with_value(ARM.home, 5, ARM.upper[5]), (10, 1))
    for _ in range(60):
        start = loop.guard.command.position
        steps = start + np.clip(way - start, -0.3, 0.3)
        loop.submit(loop.proposal(positions=steps))
        ahead, on_the_way = told(loop, 20)
        came = given(loop, 3)
        np.testing.assert_allclose(came, ahead[:3], atol=1e-4)
        if on_the_way < 20:
            break
    assert np.all(ahead[:, 0] <= ARM.upper + 1e-6) and not ahead[-1, 1].any()


def test_a_stop_is_ahead_to_its_end_and_at_rest_nothing_is():
    loop = Loop()
    assert told(loop)[0].shape == (0, 2, 7)
    loop.start_moving()
    loop.guard.hold()
    loop.tick(2)
    ahead, on_the_way = told(loop)
    assert on_the_way == 0
    np.testing.assert_array_equal(loop.guard.stop_ahead(), ahead)
    np.testing.assert_allclose(given(loop, len(ahead)), ahead, atol=1e-4)
    assert told(loop)[0].shape == (0, 2, 7)


def test_where_the_guard_gives_way_that_is_ahead():
    loop = Loop()
    loop.start_moving()
    loop.measured = loop.guard.command.position - [0, 0, 0, 0, 0, 0, 0.1]
    loop.tick(2)
    while not loop.guard.reasons:
        loop.tick()
    ahead, on_the_way = told(loop)
    assert on_the_way == TICKS and loop.guard.state is GuardState.STOPPING
    np.testing.assert_allclose(given(loop, TICKS), ahead[:TICKS], atol=1e-9)
