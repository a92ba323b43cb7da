"""A robot that is told whole motions carries out the guard's own commands, a little later."""

import numpy as np
import pytest

from guard_loop import ARM, DT, Loop, assert_within_limits
from jepa_arm.nodes.controller import Controller, Trajectory
from jepa_arm.nodes.goal_book import ANSWER_S
from jepa_arm.nodes.told_motion import AHEAD, APPROACH_S, EVERY, LEAD, MAX_OFF, ToldMotion
from jepa_arm.types import Command, GuardState, JointSample

NONE = np.empty((0, 2, 7))


class ToldLoop(Loop):
    """The guard's loop, with a robot that is told by goals and takes each some ticks to accept."""

    def __init__(self, delays):
        super().__init__()
        self.told, self.delays = ToldMotion(DT, ARM.velocity_limit), delays
        self.robot = Controller(ARM.velocity_limit, DT, timeout=np.inf)
        self.robot.reset(ARM.home)
        self.path, self.sent, self.under_way = [], [], []
        self.commands = []

    def tick(self, count=1, is_guard_dead=False):
        for _ in range(count):
            now = self.now
            if not is_guard_dead:
                verdict = self.guard.tick(now)
                self.commands.append(verdict.command)
                self._tell(verdict.command)
            for at, motion in [m for m in self.under_way if m[0] <= now + 1e-6]:
                self.under_way.remove((at, motion))
                positions, velocities = motion.rows[:, 0], motion.rows[:, 1]
                told = Trajectory(positions, velocities, motion.times, motion.start)
                self.robot.follow(told, now)
            position, velocity = self.robot.target(now, self.robot._position)
            self.path.append(Command(position, velocity, np.zeros(7)))
            self.now += DT
            self.guard.observe(JointSample(position, np.zeros(7), self.now), self.now)

    def _tell(self, command):
        self.told.add(command, self.now)
        if self.told.is_as_told and not self.told.must_go_on:
            return
        motion = self.told.tell(*self.guard.ahead(AHEAD, self.now))
        self.sent.append((self.now, motion))
        before = self.under_way[-1][0] if self.under_way else 0.0
        self.under_way.append((max(before, self.now + DT * next(self.delays)), motion))


def delays(seed, most=LEAD - 1):
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
def test_the_robot_carries_out_the_commands_of_the_guard_lead_ticks_later(seed):
    loop = ToldLoop(delays(seed))
    loop.tick(30)
    wander(loop, np.random.default_rng(seed))
    moved = np.abs(np.diff(positions(loop.commands), axis=0)).max()
    assert moved > 0.003
    # `target` is for the end of its tick.
    done, given = positions(loop.path)[LEAD - 1 :], positions(loop.commands)
    np.testing.assert_allclose(done[30:], given[30 : len(done)], atol=2e-5)
    for i, ((at, one), (later, other)) in enumerate(zip(loop.sent, loop.sent[1:], strict=False)):
        assert not one.rows[-1, 1].any() and np.all(np.diff(one.times) > 0), i
        assert one.start <= at or len(one.times) == 1
        assert later > at and other.end > later
    in_motion = np.abs([c.velocity for c in loop.commands]).max(axis=1) > 0
    assert len(loop.sent) < 0.35 * np.sum(in_motion) + 5, 'mostly every fifth tick'


@pytest.mark.parametrize('seed', range(4))
def test_a_robot_whose_guard_dies_goes_on_to_rest_in_its_limits(seed):
    rng = np.random.default_rng(seed)
    loop = ToldLoop(delays(seed))
    loop.tick(30)
    loop.start_moving()
    loop.tick(int(rng.integers(0, 12)))
    loop.submit(loop.proposal())
    loop.tick(int(rng.integers(1, 8)))
    assert np.abs(loop.path[-1].velocity).max() > 0.1
    loop.tick(LEAD + EVERY + AHEAD + 20, is_guard_dead=True)
    [rest] = {tuple(c.position) for c in loop.path[-3:]}
    np.testing.assert_array_equal(rest, loop.sent[-1][1].rows[-1, 0])
    with_acceleration = [
        Command(c.position, c.velocity, (c.velocity - before.velocity) / DT)
        for before, c in zip(loop.path, loop.path[1:], strict=False)
    ]
    velocity = np.array([c.velocity for c in with_acceleration])
    acceleration = np.array([c.acceleration for c in with_acceleration])
    assert np.all(np.abs(velocity) <= ARM.velocity_limit + 1e-6)
    assert np.all(np.abs(acceleration) <= ARM.braking_limit * 1.001 + 1e-3)


def test_at_rest_the_robot_is_told_once_and_a_stop_once():
    loop = ToldLoop(delays(0))
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


def test_a_stop_is_told_at_once_and_begins_lead_ticks_later():
    loop = ToldLoop(delays(0))
    loop.tick(30)
    loop.start_moving()
    loop.tick(2)
    loop.guard.hold()
    first = len(loop.commands)
    loop.tick()
    assert loop.sent[-1][0] == pytest.approx(loop.now - DT)
    loop.tick(30)
    done, given = positions(loop.path)[LEAD - 1 :], positions(loop.commands)
    np.testing.assert_allclose(done[first:], given[first : len(done)], atol=1e-9)
    assert np.abs(done[first - 1] - done[-1]).max() > 1e-3


def test_a_server_is_given_up_when_the_robot_runs_out_of_commands_on_the_way():
    assert pytest.approx((LEAD + AHEAD - EVERY) * DT) == ANSWER_S


def at(position, velocity=0.0):
    return Command(np.full(7, position), np.full(7, velocity), np.zeros(7))


def test_where_the_guard_starts_anew_elsewhere_or_the_clock_jumped_the_robot_is_told_anew():
    told = ToldMotion(DT, ARM.velocity_limit)
    for again in (at(0.0), at(0.3)):  # the second is where the arm was found after a pause
        told.add(again, 5.0)
        assert not told.is_as_told and not told.must_go_on
        motion = told.tell(NONE, NONE)
        np.testing.assert_array_equal(motion.rows[:, 0], [again.position])
        assert (motion.start, motion.end) == (5.0, 5.0 + APPROACH_S)
        assert told.is_as_told and told.end == motion.end
    told.add(at(0.3), 5.0 + DT)
    assert told.is_as_told
    told.add(at(0.3), 105.0)
    assert not told.is_as_told
    assert told.tell(NONE, NONE).start == 105.0


def test_a_motion_ends_exactly_at_rest():
    told = ToldMotion(DT, ARM.velocity_limit)
    told.add(at(0.0), 0.0)
    course = np.array([[np.full(7, 0.001), np.full(7, 1e-7)]])
    motion = told.tell(course, NONE)
    assert not motion.rows[-1, 1].any() and motion.start == pytest.approx(LEAD * DT)
    for i in range(1, EVERY + 3):
        told.add(at(0.001), i * DT)
        assert told.is_as_told and not told.must_go_on, 'it comes to rest by itself'


def test_commands_are_given_as_the_clock_of_the_robot_goes():
    told = ToldMotion(DT, ARM.velocity_limit)
    assert told.ticks_due(3.0) == 1
    told.add(at(0.0), 10.0)
    due = {0.0: 0, 0.6: 1, 1.0: 1, 1.7: 1, 1.8: 2, 2.4: 2, 3.1: 3, -1.0: 0}
    assert {off: told.ticks_due(10.0 + off * DT) for off in due} == due
    assert told.ticks_due(10.0 + (MAX_OFF + 2.0) * DT) == 1, 'time begins anew'
    rng = np.random.default_rng(0)
    given = 0
    for i in range(1, 2001):  # a timer that jitters, on a clock that is 1 % slow
        now = 10.0 + 0.99 * i * DT + rng.uniform(0.0, 0.3 * DT)
        for _ in range(told.ticks_due(now)):
            told.add(at(0.0), now)
            given += 1
    assert given == pytest.approx(0.99 * 2000, abs=1)
