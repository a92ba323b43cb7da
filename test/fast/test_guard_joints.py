"""The guard and the measured joints: missing, implausible, or away from the commands."""

import dataclasses

import numpy as np
import pytest

from guard_loop import (
    ANYWHERE,
    ARM,
    CONFIG,
    DT,
    TIME,
    Loop,
    assert_within_limits,
    push_on,
    with_value,
)
from jepa_arm.config import ObstacleConfig
from jepa_arm.core.types import GuardState, JointSample
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.collision import CollisionModel


def test_missing_joint_states_stop_the_arm_in_time():
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


def test_missing_joint_states_do_not_count_towards_the_latch():
    loop = Loop()
    loop.tick(30, joints_arrive=False)
    for _ in range(3 * CONFIG.max_rejections):
        loop.submit(loop.proposal())
        loop.tick(joints_arrive=False)
    assert loop.guard.state is GuardState.HOLDING


@pytest.mark.parametrize('joints', [[np.nan] * 7, [np.inf] * 7, [0.0] * 6, [50.0] * 7])
def test_implausible_joints_stop_the_arm_until_good_ones_come(joints):
    loop = Loop()
    loop.start_moving()
    loop.guard.observe(JointSample(np.array(joints), np.zeros(7), loop.now), loop.now)
    verdict = loop.tick(joints_arrive=False)
    assert verdict.state is GuardState.STOPPING
    assert verdict.reasons[0].startswith('joints_invalid:')
    loop.tick_to_rest()
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING


def test_a_rejected_joint_state_stops_the_arm():
    loop = Loop()
    loop.start_moving()
    loop.guard.reject_joint_state('a joint is missing')
    verdict = loop.tick(joints_arrive=False)
    assert verdict.reasons == ('joints_invalid: a joint is missing',)
    assert verdict.state is GuardState.STOPPING


def test_the_guard_backs_off_to_where_a_blocked_arm_is_and_may_continue():
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
    loop.measured = before + 1.2 * CONFIG.fatal_tracking_error
    loop.tick(2)
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.LATCHED and verdict.reasons[0].startswith('tracking:')
    assert np.abs(loop.commands[-1].position - before).max() < 0.1


def push_aside(loop, by=0.06):
    """Measure joint 7 ``by`` rad beside its command, and wait until the guard has backed off."""
    loop.measured = with_value(loop.guard.command.position, 6, loop.guard.command.position[6] + by)
    loop.tick(2)
    verdict = loop.tick_to_rest(400)
    loop.measured = None
    return verdict


@pytest.mark.parametrize(
    ('joint_1', 'state'), [(0.05, GuardState.IDLE), (0.2, GuardState.STOPPING)]
)
def test_a_tracking_error_equal_to_a_limit_is_within_it(joint_1, state):
    limits = {'max_tracking_error': 0.05, 'fatal_tracking_error': 0.2}
    loop = Loop(config=dataclasses.replace(CONFIG, **limits))
    loop.measured = with_value(ARM.home, 0, joint_1)
    loop.tick(2)
    assert loop.guard.state is state and not loop.guard.is_locked_out


def test_wrong_measurements_cannot_lead_the_arm_away():
    loop = Loop()
    by = 0.9 * CONFIG.fatal_tracking_error
    for _ in range(CONFIG.max_backoffs):
        assert push_aside(loop, by).state is GuardState.HOLDING
    assert push_aside(loop, by).state is GuardState.LATCHED
    led = loop.commands[-1].position - ARM.home
    assert np.abs(led).max() <= CONFIG.max_backoffs * by + 1e-6


@pytest.mark.parametrize(('pause', 'last'), [(1, GuardState.LATCHED), (100, GuardState.HOLDING)])
@pytest.mark.parametrize('began', [1.0, 1000.0])
def test_back_offs_outside_the_window_do_not_count(pause, last, began):
    loop = Loop(config=dataclasses.replace(CONFIG, backoff_window=4.0))
    loop.now = began
    loop.guard.reset(ARM.home, loop.now)
    for _ in range(CONFIG.max_backoffs):
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


def begin_to_back_off():
    loop = Loop()
    loop.measured = ARM.home
    push_on(loop, GuardState.STOPPING)
    assert loop.guard.reasons[0].startswith('tracking:')
    return loop


def test_a_fatal_tracking_error_while_backing_off_latches_at_once():
    loop = begin_to_back_off()
    loop.measured = ARM.home - 1.1 * CONFIG.fatal_tracking_error
    loop.tick(2)
    assert loop.submit(loop.proposal()).reasons == ('latched: refused until reset',)
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.LATCHED
    assert np.abs(verdict.command.position - ARM.home).max() > 0.01
    assert_within_limits(loop.commands)


def test_a_rejected_joint_state_ends_the_back_off():
    loop = begin_to_back_off()
    loop.guard.reject_joint_state('a joint is missing')
    verdict = loop.tick(60, joints_arrive=False)
    assert verdict.state is GuardState.HOLDING
    assert np.abs(verdict.command.position - ARM.home).max() > 0.01
    assert_within_limits(loop.commands)


def test_an_arm_that_moves_while_the_guard_backs_off_latches_in_the_end():
    loop = begin_to_back_off()
    for i in range(1, 60):
        loop.measured = ARM.home - 0.012 * i
        if loop.tick(2).state is GuardState.LATCHED:
            break
    assert loop.guard.state in (GuardState.LATCHED, GuardState.STOPPING)
    assert loop.tick_to_rest(300).state is GuardState.LATCHED
    assert_within_limits(loop.commands)


@pytest.mark.parametrize('first', ['reset', 'accepted'])
def test_back_offs_in_a_row_latch_however_far_apart(first):
    loop = Loop(config=dataclasses.replace(CONFIG, backoff_window=0.01))
    if first == 'accepted':
        push_aside(loop)
        loop.submit(loop.proposal())
    for _ in range(CONFIG.max_backoffs):
        assert push_aside(loop).state is GuardState.HOLDING
    assert push_aside(loop).state is GuardState.LATCHED


@pytest.mark.parametrize(('limit', 'beyond'), [(ARM.lower[6], -0.1), (ARM.upper[6], 0.1)])
def test_a_back_off_ends_at_the_joint_limit(limit, beyond):
    joints = with_value(ARM.home, 6, limit)
    loop = Loop(joints=joints)
    loop.measured = joints + [0, 0, 0, 0, 0, -0.1, beyond]
    loop.tick(2)
    verdict = loop.tick_to_rest()
    assert 'outside the joint limits' in verdict.reasons[0]
    assert_within_limits(loop.commands)
    np.testing.assert_allclose(verdict.command.position[5], joints[5] - 0.1, atol=1e-6)


def test_a_back_off_does_not_lead_into_an_obstacle():
    """The measurement may be wrong."""
    tip = ANYWHERE.tip_position(ARM.home)
    ball = ObstacleConfig('ball', 'sphere', (0.03,), (tip[0], tip[1] + 0.07, tip[2]))
    loop = Loop(ANYWHERE, config=dataclasses.replace(CONFIG, obstacles=(ball,)))
    loop.measured = ARM.home + [0.15, 0, 0, 0, 0, 0, 0]
    loop.tick(3)
    verdict = loop.tick_to_rest(400)
    assert [r.split(':')[0] for r in verdict.reasons] == ['tracking', 'obstacle']
    scene = CollisionModel(ANYWHERE, (ball,))
    for command in loop.commands[::3]:
        distances = scene.evaluate(command.position).distances[scene.is_obstacle]
        assert distances.min() >= CONFIG.obstacle_clearance - 1e-5


class VelocityLoop(Loop):
    """A loop with a robot that moves ``gain`` times as fast as commanded."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain, self.is_blocked, self.position = gain, False, ARM.home.copy()
        self.guard = Guard(ARM, TIME, CONFIG, holds_position=False)
        self.guard.reset(ARM.home, self.now)

    def tick(self, count=1, joints_arrive=True):
        for _ in range(count):
            verdict = self.guard.tick(self.now)
            self.commands.append(verdict.command)
            self.now += DT
            if not self.is_blocked:
                self.position = self.position + DT * self.gain * verdict.command.velocity
            if joints_arrive:
                sample = JointSample(self.position, verdict.command.velocity, self.now)
                self.guard.observe(sample, self.now)
        return verdict

    def move(self, by):
        """To joint 7 ``by`` rad further on, and to rest."""
        way = self.guard.command.position + np.outer(np.linspace(0.2, 1.0, 5), by * np.eye(7)[6])
        self.submit(self.proposal(positions=way, times=np.arange(1, 6) * 0.1))
        return self.tick_to_rest(200)


@pytest.mark.parametrize('gain', [0.95, 1.05])
def test_drift_of_a_velocity_controlled_arm_is_no_tracking_error(gain):
    loop = VelocityLoop(gain)
    for i in range(40):
        verdict = loop.move(0.3 if i % 2 else -0.25)
        assert verdict.reasons[0].startswith('plan_expired:')
        np.testing.assert_array_equal(verdict.command.position, loop.position)
    assert abs(loop.position[6] - ARM.home[6]) > 0.5
    for command in loop.commands:
        assert np.all(np.abs(command.velocity) <= ARM.velocity_limit * (1 + 1e-6))
        assert np.all(np.abs(command.acceleration) <= ARM.braking_limit * (1 + 1e-6))


def test_a_blocked_velocity_controlled_arm_stops_and_never_retreats():
    loop = VelocityLoop()
    loop.is_blocked = True
    for _ in range(200):
        loop.submit(loop.proposal())
        if loop.tick(5).state is GuardState.STOPPING:
            break
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.HOLDING and verdict.reasons[0].startswith('tracking:')
    assert not verdict.command.velocity.any()
    assert min(c.velocity[6] for c in loop.commands) > -1e-9
    np.testing.assert_array_equal(verdict.command.position, loop.position)
    loop.is_blocked = False
    push_on(loop, GuardState.FOLLOWING)
    assert loop.tick(3).state is GuardState.FOLLOWING


def test_a_velocity_controlled_arm_blocked_again_and_again_latches():
    loop = VelocityLoop()
    loop.is_blocked = True
    push_on(loop, GuardState.LATCHED)
    assert not loop.tick_to_rest().command.velocity.any()


def test_a_velocity_controlled_arm_far_from_its_commands_latches_at_rest_too():
    loop = VelocityLoop()
    loop.position = loop.position + 1.2 * CONFIG.fatal_tracking_error
    loop.tick(2)
    assert loop.tick_to_rest().state is GuardState.LATCHED


def test_lost_joints_are_not_adopted_as_the_command():
    loop = VelocityLoop()
    loop.start_moving()
    verdict = loop.tick(60, joints_arrive=False)
    assert verdict.state is GuardState.HOLDING
    assert verdict.reasons[0].startswith('joints_stale:')
    assert not verdict.command.velocity.any()
    assert_within_limits(loop.commands)
