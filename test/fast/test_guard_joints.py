"""Measured joints that are missing, wrong, or away from the commands."""

import dataclasses

import numpy as np
import pytest

from guard_loop import ANYWHERE, ARM, CONFIG, Loop, assert_within_limits, push_on, with_value
from jepa_arm.config import ObstacleConfig
from jepa_arm.types import GuardState, JointSample


def test_joints_that_stop_coming_stop_the_arm_in_time():
    loop = Loop()
    loop.start_moving()
    verdict = loop.tick(12, joints_arrive=False)
    assert verdict.state is GuardState.STOPPING
    assert verdict.reasons[0].startswith('joints_stale:')
    assert loop.submit(loop.proposal()).reasons[0].startswith('joints_stale:')
    loop.tick(60, joints_arrive=False)
    assert loop.guard.state is GuardState.HOLDING
    loop.tick()
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
    assert_within_limits(loop.commands)


def test_missing_joints_do_not_count_towards_the_latch():
    loop = Loop()
    loop.tick(30, joints_arrive=False)
    for _ in range(3 * CONFIG.max_rejections):
        loop.submit(loop.proposal())
        loop.tick(joints_arrive=False)
    assert loop.guard.state is GuardState.HOLDING


@pytest.mark.parametrize('joints', [[np.nan] * 7, [np.inf] * 7, [0.0] * 6, [50.0] * 7])
def test_measured_joints_that_cannot_be_stop_the_arm_until_good_ones_come(joints):
    loop = Loop()
    loop.start_moving()
    loop.guard.observe(JointSample(np.array(joints), np.zeros(7), loop.now), loop.now)
    verdict = loop.tick(joints_arrive=False)
    assert verdict.state is GuardState.STOPPING
    assert verdict.reasons[0].startswith('joints_invalid:')
    loop.tick_to_rest()
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING


def test_joints_the_caller_could_not_read_stop_the_arm():
    loop = Loop()
    loop.start_moving()
    loop.guard.lose_joints('a joint is missing')
    verdict = loop.tick(joints_arrive=False)
    assert verdict.reasons == ('joints_invalid: a joint is missing',)
    assert verdict.state is GuardState.STOPPING


def test_a_blocked_arm_yields_to_where_it_is_and_may_go_on():
    loop = Loop()
    loop.measured = ARM.home
    push_on(loop, GuardState.STOPPING)
    refused = loop.submit(loop.proposal())
    assert refused.reasons[0].startswith('tracking:')
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.HOLDING and verdict.reasons[0].startswith('tracking:')
    assert 'joint limits' not in verdict.reasons[0]
    np.testing.assert_allclose(verdict.command.position, ARM.home, atol=1e-6)
    assert_within_limits(loop.commands)
    loop.measured = None
    push_on(loop, GuardState.FOLLOWING)
    loop.submit(loop.proposal())
    assert loop.tick(20).state is GuardState.FOLLOWING


@pytest.mark.parametrize('state', [GuardState.IDLE, GuardState.FOLLOWING])
def test_joints_far_from_the_commands_latch_at_once(state):
    loop = Loop()
    if state is GuardState.FOLLOWING:
        loop.start_moving()
    before = loop.guard.command.position
    loop.measured = before + 1.2 * CONFIG.lost_tracking_error
    loop.tick(2)
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.LATCHED and verdict.reasons[0].startswith('tracking:')
    assert np.abs(loop.commands[-1].position - before).max() < 0.1


def push_aside(loop, by=0.06):
    """The robot is found ``by`` rad beside its command, in joint 7; the arm yields to there."""
    loop.measured = with_value(loop.guard.command.position, 6, loop.guard.command.position[6] + by)
    loop.tick(2)
    verdict = loop.tick_to_rest(400)
    loop.measured = None
    return verdict


@pytest.mark.parametrize(
    ('joint_1', 'state'), [(0.05, GuardState.IDLE), (0.2, GuardState.STOPPING)]
)
def test_an_error_of_just_a_limit_is_within_it(joint_1, state):
    limits = {'max_tracking_error': 0.05, 'lost_tracking_error': 0.2}
    loop = Loop(config=dataclasses.replace(CONFIG, **limits))
    loop.measured = with_value(ARM.home, 0, joint_1)
    loop.tick(2)
    assert loop.guard.state is state and not loop.guard.is_blocked


def test_joints_that_are_measured_wrong_cannot_lead_the_arm_away():
    loop = Loop()
    by = 0.9 * CONFIG.lost_tracking_error
    for _ in range(CONFIG.max_yields):
        assert push_aside(loop, by).state is GuardState.HOLDING
    assert push_aside(loop, by).state is GuardState.LATCHED
    led = loop.commands[-1].position - ARM.home
    assert np.abs(led).max() <= CONFIG.max_yields * by + 1e-6


@pytest.mark.parametrize(('pause', 'last'), [(1, GuardState.LATCHED), (100, GuardState.HOLDING)])
@pytest.mark.parametrize('began', [1.0, 1000.0])
def test_only_yields_within_the_memory_count_when_proposals_are_accepted_between(
    pause, last, began
):
    loop = Loop(config=dataclasses.replace(CONFIG, yield_memory=4.0))
    loop.now = began
    loop.guard.reset(ARM.home, loop.now)
    for _ in range(CONFIG.max_yields):
        assert push_aside(loop).state is GuardState.HOLDING
        loop.tick(pause)
        assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
    assert push_aside(loop).state is last


def test_an_arm_that_is_blocked_again_and_again_latches():
    loop = Loop()
    loop.measured = ARM.home
    push_on(loop, GuardState.LATCHED)
    verdict = loop.tick_to_rest()
    assert verdict.reasons[0].startswith('tracking:')
    assert np.abs(loop.commands[-1].position - ARM.home).max() < 0.5
    assert loop.submit(loop.proposal()).reasons == ('latched: refused until reset',)
    assert_within_limits(loop.commands)
    verdict = loop.guard.reset_latch(loop.now)
    assert verdict.state is GuardState.IDLE and verdict.reasons == ()
    np.testing.assert_array_equal(loop.tick().command.position, ARM.home)
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING


def test_the_tracking_error_is_that_of_the_joint_farthest_from_its_command():
    loop = Loop()
    loop.measured = ARM.home + [0.0, 0.01, 0.0, 0.0, -0.03, 0.0, 0.0]
    loop.tick()
    assert loop.guard.tracking_error() == pytest.approx(0.03)


def test_an_arm_that_lags_by_a_few_ticks_is_no_tracking_error():
    loop = Loop()
    for i in range(8):
        if i % 2 == 0:
            loop.submit(loop.proposal())
        loop.tick(5, joints_arrive=False)
        late = loop.commands[max(0, len(loop.commands) - 12)]
        loop.guard.observe(JointSample(late.position, late.velocity, loop.now), loop.now)
    assert loop.guard.state is GuardState.FOLLOWING


def begin_to_yield():
    loop = Loop()
    loop.measured = ARM.home
    push_on(loop, GuardState.STOPPING)
    assert loop.guard.reasons[0].startswith('tracking:')
    return loop


def test_an_arm_that_is_lost_while_it_yields_latches_at_once():
    """Before, the error was not looked at until the yield had ended."""
    loop = begin_to_yield()
    loop.measured = ARM.home - 1.1 * CONFIG.lost_tracking_error
    loop.tick(2)
    assert loop.submit(loop.proposal()).reasons == ('latched: refused until reset',)
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.LATCHED
    assert np.abs(verdict.command.position - ARM.home).max() > 0.01
    assert_within_limits(loop.commands)


def test_joints_that_are_lost_while_the_arm_yields_end_the_yield():
    """Where it went back to was judged by joints that are not known any more."""
    loop = begin_to_yield()
    loop.guard.lose_joints('a joint is missing')
    verdict = loop.tick(60, joints_arrive=False)
    assert verdict.state is GuardState.HOLDING
    assert np.abs(verdict.command.position - ARM.home).max() > 0.01
    assert_within_limits(loop.commands)


def test_an_arm_that_moves_on_while_it_yields_latches_after_as_many_yields_as_may_be():
    loop = begin_to_yield()
    for i in range(1, 60):
        loop.measured = ARM.home - 0.012 * i
        if loop.tick(2).state is GuardState.LATCHED:
            break
    assert loop.guard.state in (GuardState.LATCHED, GuardState.STOPPING)
    assert loop.tick_to_rest(300).state is GuardState.LATCHED
    assert_within_limits(loop.commands)


@pytest.mark.parametrize('first', ['reset', 'accepted'])
def test_an_error_that_outlives_every_yield_latches_however_slow_the_yields(first):
    loop = Loop(config=dataclasses.replace(CONFIG, yield_memory=0.01))
    if first == 'accepted':
        push_aside(loop)
        loop.submit(loop.proposal())
    for _ in range(CONFIG.max_yields):
        assert push_aside(loop).state is GuardState.HOLDING
    assert push_aside(loop).state is GuardState.LATCHED


@pytest.mark.parametrize(('limit', 'beyond'), [(ARM.lower[6], -0.1), (ARM.upper[6], 0.1)])
def test_joints_measured_beyond_a_limit_are_yielded_to_no_further_than_the_limit(limit, beyond):
    joints = with_value(ARM.home, 6, limit)
    loop = Loop(joints=joints)
    loop.measured = joints + [0, 0, 0, 0, 0, -0.1, beyond]
    loop.tick(2)
    verdict = loop.tick_to_rest()
    assert 'outside the joint limits' in verdict.reasons[0]
    assert_within_limits(loop.commands)
    np.testing.assert_allclose(verdict.command.position[5], joints[5] - 0.1, atol=1e-6)


def test_a_yield_does_not_lead_into_an_obstacle():
    """The measurement may be wrong."""
    tip = ANYWHERE.tip_position(ARM.home)
    ball = ObstacleConfig('ball', 'sphere', (0.03,), (tip[0], tip[1] + 0.07, tip[2]))
    loop = Loop(ANYWHERE, config=dataclasses.replace(CONFIG, obstacles=(ball,)))
    loop.measured = ARM.home + [0.15, 0, 0, 0, 0, 0, 0]
    loop.tick(3)
    verdict = loop.tick_to_rest(400)
    assert [r.split(':')[0] for r in verdict.reasons] == ['tracking', 'obstacle']
    scene = loop.guard._stream._sweep.scene
    for command in loop.commands[::3]:
        distances = scene.at(command.position).distances[scene.is_obstacle]
        assert distances.min() >= CONFIG.obstacle_clearance - 1e-5
