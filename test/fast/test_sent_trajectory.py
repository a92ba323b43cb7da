"""A robot that executes whole trajectories follows the guard's own commands, a little later."""

import numpy as np
import pytest

from guard_loop import ARM, DT, Loop, assert_within_limits
from jepa_arm.core.types import Command, GuardState, JointSample, TrajectoryCommand
from jepa_arm.ros.guard.action_ledger import ANSWER_S
from jepa_arm.ros.guard.sent_trajectory import (
    APPROACH_S,
    DELAY_TICKS,
    MAX_CLOCK_OFFSET_TICKS,
    PREDICTED_TICKS,
    RESEND_TICKS,
    SentTrajectory,
)
from jepa_arm.ros.sim.controller import JointController

NONE = np.empty((0, 2, 7))


class TrajectoryLoop(Loop):
    """A guard loop with a robot that executes trajectories, which arrive some ticks late."""

    def __init__(self, delays):
        super().__init__()
        self.trajectory, self.delays = SentTrajectory(DT, ARM.velocity_limit), delays
        self.robot = JointController(ARM.velocity_limit, DT, timeout=np.inf)
        self.robot.reset(ARM.home)
        self.path, self.sent, self.under_way = [], [], []
        self.commands = []

    def tick(self, count=1, is_guard_dead=False):
        for _ in range(count):
            now = self.now
            if not is_guard_dead:
                verdict = self.guard.tick(now)
                self.commands.append(verdict.command)
                self._send(verdict.command)
            for at, motion in [m for m in self.under_way if m[0] <= now + 1e-6]:
                self.under_way.remove((at, motion))
                positions, velocities = motion.points[:, 0], motion.points[:, 1]
                received = TrajectoryCommand(positions, velocities, motion.times, motion.start)
                self.robot.follow(received, now)
            measured = self.path[-1].position if self.path else ARM.home
            position, velocity = self.robot.next_target(now, measured)
            self.path.append(Command(position, velocity, np.zeros(7)))
            self.now += DT
            self.guard.observe(JointSample(position, np.zeros(7), self.now), self.now)

    def _send(self, command):
        self.trajectory.record(command, self.now)
        if self.trajectory.is_up_to_date and not self.trajectory.must_extend:
            return
        motion = self.trajectory.compose(*self.guard.predict(PREDICTED_TICKS, self.now))
        self.sent.append((self.now, motion))
        before = self.under_way[-1][0] if self.under_way else 0.0
        self.under_way.append((max(before, self.now + DT * next(self.delays)), motion))


def delays(seed, most=DELAY_TICKS - 1):
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.integers(0, most + 1))


def wander(loop, rng, ticks=300):
    """Random plans, some of them late, and a hold now and then."""
    for i in range(ticks):
        if i % 10 == 0 and rng.random() < 0.9:
            slope = rng.uniform(-0.08, 0.08, 7) * [1, 0.2, 1, 0.2, 1, 1, 1]
            way = np.arange(1, 11)[:, None] * slope
            loop.submit(loop.proposal(positions=loop.guard.command.position + way))
        if rng.random() < 0.01:
            loop.guard.hold()
            loop.guard.resume()
        loop.tick()


def positions(commands):
    return np.array([command.position for command in commands])


@pytest.mark.parametrize('seed', range(3))
def test_the_robot_executes_the_commands_of_the_guard_after_the_delay(seed):
    loop = TrajectoryLoop(delays(seed))
    loop.tick(30)
    wander(loop, np.random.default_rng(seed))
    moved = np.abs(np.diff(positions(loop.commands), axis=0)).max()
    assert moved > 0.003
    # `target` is for the end of its tick.
    done, given = positions(loop.path)[DELAY_TICKS - 1 :], positions(loop.commands)
    np.testing.assert_allclose(done[30:], given[30 : len(done)], atol=2e-5)
    for i, ((at, one), (later, other)) in enumerate(zip(loop.sent, loop.sent[1:], strict=False)):
        assert not one.points[-1, 1].any() and np.all(np.diff(one.times) > 0), i
        assert one.start <= at or len(one.times) == 1
        assert later > at and other.end > later
    in_motion = np.abs([c.velocity for c in loop.commands]).max(axis=1) > 0
    assert len(loop.sent) < 0.35 * np.sum(in_motion) + 5, 'mostly every fifth tick'


@pytest.mark.parametrize('seed', range(4))
def test_a_robot_whose_guard_dies_comes_to_rest_within_its_limits(seed):
    rng = np.random.default_rng(seed)
    loop = TrajectoryLoop(delays(seed))
    loop.tick(30)
    loop.start_moving()
    loop.tick(int(rng.integers(0, 12)))
    loop.submit(loop.proposal())
    loop.tick(int(rng.integers(1, 8)))
    assert np.abs(loop.path[-1].velocity).max() > 0.1
    loop.tick(DELAY_TICKS + RESEND_TICKS + PREDICTED_TICKS + 20, is_guard_dead=True)
    [rest] = {tuple(c.position) for c in loop.path[-3:]}
    np.testing.assert_array_equal(rest, loop.sent[-1][1].points[-1, 0])
    with_acceleration = [
        Command(c.position, c.velocity, (c.velocity - before.velocity) / DT)
        for before, c in zip(loop.path, loop.path[1:], strict=False)
    ]
    velocity = np.array([c.velocity for c in with_acceleration])
    acceleration = np.array([c.acceleration for c in with_acceleration])
    assert np.all(np.abs(velocity) <= ARM.velocity_limit + 1e-6)
    assert np.all(np.abs(acceleration) <= ARM.braking_limit * 1.001 + 1e-3)


def test_rest_and_a_stop_are_sent_once():
    loop = TrajectoryLoop(delays(0))
    loop.tick(200)
    [(_, first)] = loop.sent
    np.testing.assert_array_equal(first.times, [APPROACH_S])
    loop.start_moving()
    loop.tick(3)
    count = len(loop.sent)
    loop.guard.hold()
    loop.tick(200)
    assert loop.guard.state is GuardState.HOLDING and len(loop.sent) == count + 1
    np.testing.assert_allclose(loop.path[-1].position, loop.commands[-1].position, atol=1e-9)
    assert_within_limits(loop.commands)


def test_a_stop_is_sent_at_once_and_begins_after_the_delay():
    loop = TrajectoryLoop(delays(0))
    loop.tick(30)
    loop.start_moving()
    loop.tick(2)
    loop.guard.hold()
    first = len(loop.commands)
    loop.tick()
    assert loop.sent[-1][0] == pytest.approx(loop.now - DT)
    loop.tick(30)
    done, given = positions(loop.path)[DELAY_TICKS - 1 :], positions(loop.commands)
    np.testing.assert_allclose(done[first:], given[first : len(done)], atol=1e-9)
    assert np.abs(done[first - 1] - done[-1]).max() > 1e-3


def test_the_answer_timeout_is_when_the_robot_runs_out_of_predicted_commands():
    assert pytest.approx((DELAY_TICKS + PREDICTED_TICKS - RESEND_TICKS) * DT) == ANSWER_S


def at(position, velocity=0.0):
    return Command(np.full(7, position), np.full(7, velocity), np.zeros(7))


def test_a_restart_elsewhere_or_a_clock_jump_begins_a_new_trajectory():
    sent = SentTrajectory(DT, ARM.velocity_limit)
    for again in (at(0.0), at(0.3)):  # the second is where the arm was found after a pause
        sent.record(again, 5.0)
        assert not sent.is_up_to_date and not sent.must_extend
        motion = sent.compose(NONE, NONE)
        np.testing.assert_array_equal(motion.points[:, 0], [again.position])
        assert (motion.start, motion.end) == (5.0, 5.0 + APPROACH_S)
        assert sent.is_up_to_date and sent.end == motion.end
    sent.record(at(0.3), 5.0 + DT)
    assert sent.is_up_to_date
    sent.record(at(0.3), 105.0)
    assert not sent.is_up_to_date
    assert sent.compose(NONE, NONE).start == 105.0


def test_a_trajectory_ends_exactly_at_rest():
    sent = SentTrajectory(DT, ARM.velocity_limit)
    sent.record(at(0.0), 0.0)
    course = np.array([[np.full(7, 0.001), np.full(7, 1e-7)]])
    motion = sent.compose(course, NONE)
    assert not motion.points[-1, 1].any() and motion.start == pytest.approx(DELAY_TICKS * DT)
    for i in range(1, RESEND_TICKS + 3):
        sent.record(at(0.001), i * DT)
        assert sent.is_up_to_date and not sent.must_extend, 'it comes to rest by itself'


def test_as_many_commands_are_due_as_the_clock_of_the_robot_asks_for():
    sent = SentTrajectory(DT, ARM.velocity_limit)
    assert sent.ticks_due(3.0) == 1
    sent.record(at(0.0), 10.0)
    due = {0.0: 0, 0.6: 1, 1.0: 1, 1.7: 1, 1.8: 2, 2.4: 2, 3.1: 3, -1.0: 0}
    assert {off: sent.ticks_due(10.0 + off * DT) for off in due} == due
    assert sent.ticks_due(10.0 + (MAX_CLOCK_OFFSET_TICKS + 2.0) * DT) == 1, 'time begins anew'
    rng = np.random.default_rng(0)
    given = 0
    for i in range(1, 2001):  # a timer that jitters, on a clock that is 1 % slow
        now = 10.0 + 0.99 * i * DT + rng.uniform(0.0, 0.3 * DT)
        for _ in range(sent.ticks_due(now)):
            sent.record(at(0.0), now)
            given += 1
    assert given == pytest.approx(0.99 * 2000, abs=1)
