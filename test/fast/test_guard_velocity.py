"""A guard whose robot takes velocities alone, and so drifts from the commanded positions."""

import numpy as np
import pytest

from guard_loop import ARM, CONFIG, DT, TIME, Loop, assert_within_limits, push_on
from jepa_arm.guard import Guard
from jepa_arm.types import GuardState, JointSample


class VelocityLoop(Loop):
    """The robot moves ``gain`` times as fast as it is told."""

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
def test_drift_does_not_add_up_and_is_no_tracking_error(gain):
    loop = VelocityLoop(gain)
    for i in range(40):
        verdict = loop.move(0.3 if i % 2 else -0.25)
        assert verdict.reasons[0].startswith('plan_expired:')
        np.testing.assert_array_equal(verdict.command.position, loop.position)
    assert abs(loop.position[6] - ARM.home[6]) > 0.5
    for command in loop.commands:
        assert np.all(np.abs(command.velocity) <= ARM.velocity_limit * (1 + 1e-6))
        assert np.all(np.abs(command.acceleration) <= ARM.braking_limit * (1 + 1e-6))


def test_a_blocked_arm_is_told_to_stand_still_and_never_to_go_back():
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


def test_an_arm_that_is_blocked_again_and_again_latches():
    loop = VelocityLoop()
    loop.is_blocked = True
    push_on(loop, GuardState.LATCHED)
    assert not loop.tick_to_rest().command.velocity.any()


def test_an_arm_far_from_its_commands_latches_at_once_also_at_rest():
    loop = VelocityLoop()
    loop.position = loop.position + 1.2 * CONFIG.lost_tracking_error
    loop.tick(2)
    assert loop.tick_to_rest().state is GuardState.LATCHED


def test_joints_that_are_lost_are_no_place_to_start_from():
    loop = VelocityLoop()
    loop.start_moving()
    verdict = loop.tick(60, joints_arrive=False)
    assert verdict.state is GuardState.HOLDING
    assert verdict.reasons[0].startswith('joints_stale:')
    assert not verdict.command.velocity.any()
    assert_within_limits(loop.commands)
