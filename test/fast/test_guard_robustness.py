"""Robustness of the guard: no input at any time raises or leads beyond limits."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_loop import (
    ANYWHERE,
    ARM,
    CONFIG,
    DT,
    TIME,
    Loop,
    assert_within_limits,
    with_value,
    without_path_check,
)
from jepa_arm.config import ConfigError
from jepa_arm.core.types import GuardState, JointSample, Proposal


def random_proposal(loop, rng):
    """Return a proposal, from reasonable to absurd."""
    kind, count = rng.integers(6), int(rng.integers(1, 12))
    start = loop.guard.command.position
    speed = rng.uniform(0.0, 2.0) * ARM.velocity_limit * TIME.control_dt
    walk = np.cumsum(rng.uniform(-1, 1, (count, 7)) * speed, axis=0)
    positions = start + walk
    if kind == 1:
        positions = rng.uniform(ARM.lower - 0.1, ARM.upper + 0.1, (count, 7))
    if kind == 2:
        positions = np.clip(start + 0.5 * rng.choice([-1, 1], (count, 7)), ARM.lower, ARM.upper)
    if kind == 3:
        positions = with_value(positions, (0, 0), rng.choice([np.nan, np.inf, -np.inf, 1e200]))
    return loop.proposal(
        positions=positions,
        times=np.arange(1, count + 1) * 0.1,
        stamp=loop.now - rng.choice([0.0, 0.05, 0.2, 1.0, -0.04], p=[0.5, 0.2, 0.1, 0.1, 0.1]),
        valid_for=rng.choice([0.05, 0.15, 0.25]),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), is_lenient=st.booleans())
def test_commands_keep_the_limits_under_random_proposals(seed, is_lenient):
    """Lenient: without path check, so that far more is followed."""
    rng = np.random.default_rng(seed)
    loop = Loop(ANYWHERE, config=dataclasses.replace(CONFIG, max_rejections=10_000))
    for _ in range(40):
        event = rng.random()
        if event < 0.8:
            with without_path_check() if is_lenient else nullcontext():
                loop.submit(random_proposal(loop, rng))
        elif event < 0.85:
            loop.guard.hold()
        else:
            loop.guard.resume()
            loop.guard.reset_latch(loop.now)
        loop.tick(int(rng.integers(1, 20)), joints_arrive=bool(rng.random() < 0.95))
    assert_within_limits(loop.commands)
    assert all(np.all(np.isfinite(c.position)) for c in loop.commands)


@pytest.mark.parametrize(
    'change', [{'max_joint_step': -1.0}, {'max_validity': 0.0}, {'tracking_window': 0.01}]
)
def test_an_invalid_configuration_is_refused(change):
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize('later', [-0.5, -5.0, np.nan, np.inf, -np.inf, 1e300, 1000.0])
def test_a_clock_that_jumps_stops_the_arm(later):
    loop = Loop()
    loop.start_moving()
    verdict = loop.guard.tick(loop.now + later)
    assert verdict.state is GuardState.STOPPING
    assert verdict.reasons[0].startswith(('clock:', 'joints_stale:'))
    loop.commands.append(verdict.command)
    for _ in range(40):
        verdict = loop.guard.tick(loop.now + later)
        loop.commands.append(verdict.command)
    assert verdict.state is GuardState.HOLDING
    assert_within_limits(loop.commands)


def stand_still(loop, ticks):
    """Tick at one and the same time while joint states come."""
    for _ in range(ticks):
        now = loop.now + 0.0
        verdict = loop.guard.tick(now)
        loop.guard.observe(JointSample(verdict.command.position, np.zeros(7), 0.0), now)
    return verdict


def test_a_clock_that_stands_still_stops_the_arm():
    loop = Loop()
    loop.start_moving()
    loop.now -= DT
    stand_still(loop, int(CONFIG.max_joint_age / DT + 1e-9))
    assert loop.guard.state is GuardState.FOLLOWING
    verdict = stand_still(loop, 1)
    assert verdict.state is GuardState.STOPPING
    assert verdict.reasons[0].startswith('clock: stands still')


def test_a_clock_that_stands_still_from_the_reset_stops_the_arm():
    loop = Loop()
    loop.submit(loop.proposal())
    stand_still(loop, int(CONFIG.max_joint_age / DT + 1e-9))
    assert loop.guard.state is GuardState.FOLLOWING
    assert stand_still(loop, 1).reasons[0].startswith('clock: stands still')


def test_new_proposals_are_followed_after_the_clock_went_back():
    loop = Loop()
    loop.start_moving()
    loop.tick()
    loop.now -= 5.0
    verdict = loop.tick()
    assert verdict.reasons == ('clock: went back by 4.990 s',)
    loop.tick_to_rest()
    loop.guard.reset_latch(loop.now)
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING


@pytest.mark.parametrize('now', [np.nan, np.inf, -np.inf, 9.0])
def test_an_impossible_time_accepts_no_proposal_and_resets_no_latch(now):
    loop = Loop()
    loop.tick(2)
    verdict = loop.guard.submit(loop.proposal(), now, ros_now=loop.now)
    assert verdict.reasons[0].startswith('clock:')
    assert loop.guard.state is GuardState.STOPPING
    loop.tick(2)
    assert loop.guard.reset_latch(now).reasons[0].startswith('clock:')
    with pytest.raises(ValueError, match='finite'):
        loop.guard.reset(ARM.home, np.nan)


def test_joints_received_at_a_nan_time_are_not_used():
    loop = Loop()
    loop.guard.observe(JointSample(ARM.home, np.zeros(7), loop.now), np.nan)
    assert loop.submit(loop.proposal()).reasons[0].startswith('clock:')


NUMBERS = st.sampled_from([0.0, 0.1, -1.0, 2.9, 1e-300, 1e9, 1e308, -1e308, np.nan, np.inf])
KINDS = st.sampled_from(['f2', 'f4', 'f8', 'g', 'i1', 'u1', 'i8', 'c16', 'O', 'U3', '?', 'M8[s]'])
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (7,), (3, 7), (7, 3), (1, 7), (2, 3, 7), (0, 7)])
TIMES = st.one_of(st.just(None), st.just(None), NUMBERS, st.floats(-20, 20, allow_subnormal=False))


@st.composite
def any_array(draw):
    kind, shape, value = draw(KINDS), draw(SHAPES), draw(NUMBERS)
    if np.dtype(kind).kind in 'fcO':
        with np.errstate(over='ignore'):
            return np.full(shape, value).astype(kind)
    return np.full(shape, draw(st.sampled_from([0, 1])), dtype=kind)


EVENTS = st.one_of(
    st.tuples(st.just('submit'), TIMES, any_array(), any_array(), NUMBERS, NUMBERS),
    st.tuples(st.just('move'), TIMES, st.integers(0, 2**32 - 1)),
    st.tuples(st.just('observe'), TIMES, any_array()),
    st.tuples(st.just('tick'), TIMES, st.integers(1, 12)),
    st.tuples(st.sampled_from(['hold', 'resume', 'reset_latch']), TIMES),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(events=st.lists(EVENTS, min_size=5, max_size=25))
def test_no_sequence_of_calls_raises_or_leads_beyond_limits(events):
    loop = Loop(ANYWHERE)
    guard = loop.guard
    for event, at, *what in events:
        now = loop.now if at is None else at
        if event == 'submit':
            positions, times, stamp, valid_for = what
            guard.submit(Proposal(ARM.joint_names, positions, times, stamp, valid_for), now, stamp)
        elif event == 'move':
            guard.submit(random_proposal(loop, np.random.default_rng(what[0])), now)
        elif event == 'observe':
            guard.observe(JointSample(what[0], what[0], now), now)
        elif event == 'tick' and at is None:
            loop.tick(what[0])
        elif event == 'tick':
            loop.commands.append(guard.tick(now).command)
        elif event == 'reset_latch':
            if guard.reset_latch(now).state is GuardState.IDLE:
                loop.commands = [guard.command]
        else:
            getattr(guard, event)()
    loop.tick(3)
    assert_within_limits(loop.commands)
