"""The guard's states: it follows, stops, holds, latches and restarts, always smoothly."""

import numpy as np
import pytest

from guard_loop import ARM, CONFIG, DT, TIME, Loop, assert_within_limits
from jepa_arm.core.types import GuardState, JointSample
from jepa_arm.guard.command_stream import GuardedCommandStream
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.action_space import TipMotion


def test_before_the_first_joints_nothing_is_commanded():
    guard = Guard(ARM, TIME, CONFIG)
    verdict = guard.tick(0.0)
    assert verdict.command is None and verdict.state is GuardState.INACTIVE
    assert guard.submit(Loop().proposal(), 0.0).reasons[0].startswith('inactive')
    verdict = guard.hold()
    assert verdict.state is GuardState.INACTIVE and verdict.reasons == ()


def test_reset_holds_at_the_measured_joints():
    joints = ARM.home + 0.1
    loop = Loop(joints=joints)
    verdict = loop.tick(50)
    assert verdict.state is GuardState.IDLE and verdict.reasons == ()
    np.testing.assert_allclose(verdict.command.position, joints)
    assert not np.any(verdict.command.velocity)


def test_the_joints_of_a_reset_are_copied():
    joints = ARM.home.copy()
    loop = Loop(joints=joints)
    joints += 1.0
    assert loop.tick(5, joints_arrive=False).reasons == ()


def test_a_speed_scale_applies_at_once_and_survives_a_reset():
    loop = Loop()
    loop.start_moving()
    assert loop.guard.speed_scale == 1.0
    loop.guard.speed_scale = 0.05
    loop.tick(20)
    for _ in range(5):
        loop.submit(loop.proposal())
        loop.tick(10)
    slow = np.abs([c.velocity for c in loop.commands[-50:]]) / ARM.velocity_limit
    assert 0.04 < slow.max() <= 0.05 + 1e-6
    assert_within_limits(loop.commands)
    loop.guard.reset(ARM.home, loop.now)
    assert loop.guard.speed_scale == 0.05
    loop.guard.speed_scale = 1.0
    loop.start_moving()
    assert (np.abs(loop.guard.command.velocity) / ARM.velocity_limit).max() > 0.1


@pytest.mark.parametrize('share', [0.0, -0.5, 1.01, np.nan])
def test_a_speed_scale_outside_its_range_is_refused(share):
    guard = Guard(ARM, TIME, CONFIG)
    with pytest.raises(ValueError, match='speed_scale'):
        guard.speed_scale = share
    assert guard.speed_scale == 1.0


@pytest.mark.parametrize('joints', [[0.0] * 6, [np.nan] * 7, [1e300] * 7])
def test_a_reset_refuses_implausible_joints(joints):
    with pytest.raises(ValueError, match='expected 7 finite'):
        Loop(joints=np.array(joints))


@pytest.fixture
def targets(monkeypatch):
    """The joint targets that guards give to their command streams."""
    given, step = [], GuardedCommandStream.step
    monkeypatch.setattr(
        GuardedCommandStream, 'step', lambda stream, q: given.append(q) or step(stream, q)
    )
    return given


@pytest.mark.parametrize('count', [3, 10])
def test_each_waypoint_is_the_target_until_its_time(count, targets):
    loop = Loop()
    whole = loop.proposal()
    proposal = loop.proposal(positions=whole.positions[:count], times=whole.times[:count])
    loop.submit(proposal)
    loop.tick(25)
    expected = proposal.positions[[0] * 10 + [1] * 10 + [2] * 5]
    np.testing.assert_array_equal(targets, expected)


def test_a_short_first_period_ends_early(targets):
    loop = Loop()
    loop.submit(loop.proposal(times=0.03 + np.arange(10) * 0.1))
    loop.tick(4)
    assert np.array_equal(targets[2], targets[0]) and not np.array_equal(targets[3], targets[2])


def test_a_proposal_is_followed_from_time_zero_on():
    """A simulated clock begins there."""
    guard = Guard(ARM, TIME, CONFIG)
    guard.reset(ARM.home, 0.0)
    assert guard.submit(Loop().proposal(stamp=0.0), 0.0).state is GuardState.FOLLOWING


def test_after_the_last_waypoint_the_arm_stays_there_until_the_plan_runs_out():
    loop = Loop()
    positions = ARM.home + [[0.005], [0.01]]
    loop.submit(loop.proposal(times=np.array([0.02, 0.12]), positions=positions))
    loop.tick(25)
    assert loop.guard.state is GuardState.FOLLOWING
    np.testing.assert_allclose(loop.commands[-1].position, positions[-1], atol=1e-3)


def test_a_release_stops_the_arm_and_leaves_the_guard_idle():
    loop = Loop()
    loop.start_moving()
    verdict = loop.guard.release()
    assert verdict.state is GuardState.STOPPING and verdict.reasons[0].startswith('released:')
    verdict = loop.tick_to_rest(limit=20)
    assert verdict.state is GuardState.IDLE and verdict.reasons == ()
    assert loop.guard.is_ready(loop.now) and loop.guard.release().state is GuardState.IDLE
    loop.start_moving()
    assert_within_limits(loop.commands)


def test_a_release_hides_no_other_reason():
    loop = Loop()
    loop.start_moving()
    loop.guard.release()
    loop.guard.stop('clock: jumped')
    verdict = loop.tick_to_rest(limit=20)
    assert verdict.state is GuardState.HOLDING and verdict.reasons[-1] == 'clock: jumped'
    loop.guard.hold()
    assert not loop.guard.is_ready(loop.now)


def test_a_guard_without_joint_states_is_not_ready():
    loop = Loop()
    assert loop.guard.is_ready(loop.now)
    assert not loop.guard.is_ready(loop.now + 2.0 * CONFIG.max_joint_age)


def test_a_newer_proposal_replaces_the_old_one_at_once():
    loop = Loop()
    loop.start_moving()
    back = np.tile(ARM.home, (10, 1))
    assert loop.submit(loop.proposal(positions=back)).reasons == ()
    loop.tick(20)
    for _ in range(20):
        loop.submit(loop.proposal(positions=back))
        loop.tick(5)
    np.testing.assert_allclose(loop.commands[-1].position, ARM.home, atol=1e-3)
    assert_within_limits(loop.commands)


def test_the_arrays_of_a_proposal_are_copied():
    loop = Loop()
    proposal = loop.proposal()
    loop.submit(proposal)
    proposal.positions[:] = np.nan
    assert np.all(np.isfinite(loop.tick(5).command.position))


def test_ages_follow_the_ros_clock_and_validity_the_steady_clock():
    guard = Guard(ARM, TIME, CONFIG)
    guard.reset(ARM.home, 100.0)
    proposal = Loop().proposal(stamp=5000.0, valid_for=0.2)
    assert guard.submit(proposal, now=100.0, ros_now=5000.1).reasons == ()
    hold = JointSample(ARM.home, np.zeros(7), 0.0)
    guard.observe(hold, 100.09)
    assert guard.tick(100.09).state is GuardState.FOLLOWING
    guard.observe(hold, 100.11)
    assert guard.tick(100.11).reasons[0].startswith('plan_expired')


def test_a_proposal_is_followed_up_to_the_last_tick_of_its_validity():
    """Stamps and validity are whole ticks; what rounding adds must not cost one."""
    for start in np.arange(10.0, 11.0, DT):
        guard = Guard(ARM, TIME, CONFIG)
        guard.reset(ARM.home, start)
        guard.submit(Loop().proposal(stamp=start, valid_for=0.05), start)
        assert guard.tick(start + 0.05).state is GuardState.FOLLOWING
        assert guard.tick(start + 0.05 + DT).reasons[0].startswith('plan_expired:')


def test_an_expired_proposal_stops_the_arm_with_its_reason():
    loop = Loop()
    loop.start_moving()
    while loop.guard.state is GuardState.FOLLOWING:
        loop.tick()
    assert loop.now - DT <= 10.1 + CONFIG.max_validity + DT + 1e-9
    verdict = loop.tick_to_rest(limit=20)
    assert verdict.state is GuardState.HOLDING
    assert verdict.reasons == ('plan_expired: no newer proposal came in time',)
    held = loop.tick(50).command.position
    np.testing.assert_allclose(held, verdict.command.position, rtol=0, atol=1e-12)
    assert_within_limits(loop.commands)


def test_a_valid_proposal_ends_holding():
    loop = Loop()
    loop.start_moving()
    loop.tick_to_rest()
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
    assert loop.tick().reasons == ()


def test_a_latch_is_reset_only_at_rest_and_with_known_joints():
    loop = Loop()
    loop.start_moving()
    loop.submit(loop.proposal(stamp=np.nan))
    assert loop.guard.reset_latch(loop.now).reasons[0].startswith('moving:')
    loop.tick_to_rest()
    loop.tick(20, joints_arrive=False)
    verdict = loop.guard.reset_latch(loop.now)
    assert verdict.state is GuardState.LATCHED
    assert verdict.reasons[0].startswith('joints_stale:')
    loop.tick()
    assert loop.guard.reset_latch(loop.now).state is GuardState.IDLE


def reject_in_a_row(loop, count):
    for _ in range(count):
        loop.submit(loop.proposal(stamp=0.0))
        loop.tick()
    return loop.tick_to_rest()


@pytest.mark.parametrize('first', ['reset', 'accepted'])
def test_max_rejections_in_a_row_latch_and_one_fewer_do_not(first):
    for missing, expected in ((1, GuardState.HOLDING), (0, GuardState.LATCHED)):
        loop = Loop()
        if first == 'accepted':
            reject_in_a_row(loop, CONFIG.max_rejections - 1)
            assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
        verdict = reject_in_a_row(loop, CONFIG.max_rejections - missing)
        assert verdict.state is expected
        is_named = any(reason.startswith('repeated:') for reason in verdict.reasons)
        assert is_named == (expected is GuardState.LATCHED)


def test_rejections_without_fault_of_the_planner_do_not_latch():
    loop = Loop()
    loop.start_moving()
    for _ in range(2 * CONFIG.max_rejections):
        verdict = loop.guard.reject('clock: not known', counts_towards_latch=False)
        assert verdict.reasons == ('clock: not known',)
        loop.tick()
    assert loop.tick_to_rest().state is GuardState.HOLDING
    assert loop.guard.rejected == 2 * CONFIG.max_rejections
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
    assert_within_limits(loop.commands)


def test_a_hold_stops_the_arm_until_resume():
    loop = Loop()
    loop.start_moving()
    assert loop.guard.hold().state is GuardState.STOPPING
    loop.tick_to_rest()
    assert loop.guard.is_locked_out
    assert loop.submit(loop.proposal()).reasons == ('held: refused until resume',)
    assert loop.guard.state is GuardState.HOLDING
    assert loop.guard.resume().state is GuardState.IDLE
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
    assert_within_limits(loop.commands)


def test_resume_does_not_open_a_latch():
    loop = Loop()
    loop.submit(loop.proposal(stamp=np.inf))
    loop.guard.hold()
    loop.tick(2)
    assert loop.guard.resume().state is GuardState.LATCHED
    assert loop.submit(loop.proposal()).state is GuardState.LATCHED


def test_the_same_calls_give_the_same_commands():
    def run():
        loop, motion, rng = Loop(), TipMotion(ARM), np.random.default_rng(3)
        for _ in range(20):
            actions = rng.uniform(-1, 1, (10, 3))
            waypoints = motion.preview(actions)
            motion.apply(actions[0])
            loop.submit(loop.proposal(positions=waypoints))
            loop.tick(10)
        return np.array([c.position for c in loop.commands])

    np.testing.assert_array_equal(run(), run())


def test_calls_before_the_first_reset_change_nothing():
    guard = Guard(ARM, TIME, CONFIG)
    assert guard.resume().state is GuardState.INACTIVE
    assert guard.reset_latch(0.0).reasons[0].startswith('inactive:')
    assert guard.reject('schema: no joints').state is GuardState.INACTIVE
    assert guard.command is None and guard.proposal is None and guard.is_locked_out
    assert guard.tracking_error() == 0.0 and guard.rejected == 1


def test_a_resume_while_stopping_lets_the_arm_come_to_rest_first():
    loop = Loop()
    loop.start_moving()
    loop.guard.hold('held: by hand')
    assert loop.guard.resume().state is GuardState.STOPPING
    verdict = loop.tick_to_rest()
    assert verdict.reasons == ('held: by hand',)
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING


def test_the_accepted_proposal_is_in_force_until_the_arm_stops():
    loop = Loop()
    proposal = loop.proposal()
    loop.submit(proposal)
    assert loop.guard.proposal is not None and loop.guard.proposal.stamp == proposal.stamp
    assert loop.guard.accepted == 1
    loop.guard.hold()
    assert loop.guard.proposal is None


def test_a_stop_counts_towards_no_latch():
    loop = Loop()
    loop.guard.stop('clock: jumped')
    loop.start_moving()
    rejected = loop.guard.rejected
    for _ in range(CONFIG.max_rejections + 1):
        loop.guard.stop('clock: jumped')
    verdict = loop.tick_to_rest()
    assert verdict.state is GuardState.HOLDING and verdict.reasons == ('clock: jumped',)
    assert loop.guard.rejected == rejected
    assert loop.submit(loop.proposal()).state is GuardState.FOLLOWING
    assert_within_limits(loop.commands)


def test_each_code_is_reported_once_in_order():
    loop = Loop()
    loop.start_moving()
    for reason in ('clock: first', 'clock: second', 'held: by hand', 'a: third', 'held: again'):
        loop.guard.stop(reason)
    assert loop.tick_to_rest().reasons == ('clock: first', 'held: by hand', 'a: third')


def test_a_halt_before_the_first_joints_changes_nothing():
    guard = Guard(ARM, TIME, CONFIG)
    guard.stop('clock: jumped')
    assert guard.state is GuardState.INACTIVE and guard.reasons == ()
