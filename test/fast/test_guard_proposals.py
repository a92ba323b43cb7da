"""Proposal checks: bad proposals are rejected, and what the planner may propose never is."""

import dataclasses

import numpy as np
import pytest

from guard_loop import (
    ANYWHERE,
    ARM,
    ARM_CONFIG,
    CONFIG,
    Loop,
    assert_within_limits,
    with_value,
    without_path_check,
)
from jepa_arm.core.types import GuardState
from jepa_arm.guard.proposal_checks import as_double
from jepa_arm.robot.action_space import TipMotion
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel

GOOD = Loop().proposal()


BAD = {
    'schema: names': ({'joint_names': ('a',) * 7}, 'schema'),
    'schema: count': ({'joint_names': ARM.joint_names[:6]}, 'schema'),
    'schema: order': ({'joint_names': ARM.joint_names[::-1]}, 'schema'),
    'schema: width': ({'positions': GOOD.positions[:, :6]}, 'schema'),
    'schema: rows': ({'positions': GOOD.positions[:5]}, 'schema'),
    'schema: empty': ({'positions': np.empty((0, 7)), 'times': np.empty(0)}, 'schema'),
    'schema: huge': ({'positions': np.zeros((999, 7)), 'times': np.arange(999) + 1.0}, 'schema'),
    'schema: text': ({'positions': np.full((10, 7), 'x')}, 'schema'),
    'schema: scalar time': ({'times': np.array(0.1)}, 'schema'),
    'schema: list': ({'positions': GOOD.positions.tolist()}, 'schema'),
    'times: unordered': ({'times': GOOD.times[::-1]}, 'schema'),
    'times: repeated': ({'times': np.full(10, 0.1)}, 'schema'),
    'times: zero': ({'times': GOOD.times - 0.1}, 'schema'),
    'times: late': ({'times': GOOD.times + 0.1}, 'schema'),
    'times: spacing': ({'times': GOOD.times / 2}, 'schema'),
    'validity: long': ({'valid_for': 1e9}, 'schema'),
    'validity: none': ({'valid_for': 0.0}, 'schema'),
    'NaN position': ({'positions': with_value(GOOD.positions, (3, 2), np.nan)}, 'non_finite'),
    'inf position': ({'positions': with_value(GOOD.positions, (9, 6), np.inf)}, 'non_finite'),
    'NaN time': ({'times': with_value(GOOD.times, 4, np.nan)}, 'non_finite'),
    'NaN stamp': ({'stamp': np.nan}, 'non_finite'),
    'inf validity': ({'valid_for': np.inf}, 'non_finite'),
    'stale': ({'stamp': 9.5}, 'stale'),
    'beyond its own validity': ({'stamp': 9.8, 'valid_for': 0.1}, 'stale'),
    'future': ({'stamp': 10.3}, 'future'),
    'far past': ({'stamp': -1e300}, 'stale'),
    'far future': ({'stamp': 1e300}, 'future'),
    'above a limit': ({'positions': with_value(GOOD.positions, (9, 0), 2.95)}, 'position_limit'),
    'below a limit': ({'positions': with_value(GOOD.positions, (9, 3), -3.1)}, 'position_limit'),
    'far beyond': ({'positions': np.full((10, 7), 1e308)}, 'position_limit'),
    'too fast': ({'positions': with_value(GOOD.positions, (4, 0), 0.6)}, 'velocity_limit'),
    'too far to begin': ({'positions': GOOD.positions + 0.7}, 'step'),
}


@pytest.mark.parametrize(('changes', 'code'), BAD.values(), ids=BAD.keys())
def test_a_bad_proposal_is_rejected_with_its_code_and_stops_the_arm(changes, code):
    still = Loop()
    verdict = still.submit(still.proposal(**changes))
    assert verdict.reasons[0].startswith(f'{code}:'), verdict.reasons
    assert (still.guard.accepted, still.guard.rejected) == (0, 1)
    still.tick(20)
    np.testing.assert_array_equal(still.commands[-1].position, ARM.home)

    moving = Loop()
    moving.start_moving()
    changes = dict(changes)
    if abs(changes.get('stamp', np.inf)) < 1e6:
        changes['stamp'] += moving.now - 10.0
    verdict = moving.submit(moving.proposal(**changes))
    assert verdict.reasons[0].startswith(f'{code}:')
    assert verdict.state is GuardState.STOPPING
    verdict = moving.tick_to_rest(limit=30)
    latched = code == 'non_finite'
    assert verdict.state is (GuardState.LATCHED if latched else GuardState.HOLDING)
    assert verdict.reasons[0].startswith(f'{code}:')
    assert_within_limits(moving.commands)


def test_a_proposal_not_newer_than_the_last_is_rejected():
    loop = Loop()
    proposal = loop.proposal()
    loop.submit(proposal)
    assert loop.submit(proposal).reasons[0].startswith('not_newer:')
    loop.tick_to_rest()
    older = dataclasses.replace(proposal, stamp=proposal.stamp - 0.01)
    assert loop.submit(older).reasons[0].startswith(('not_newer:', 'stale:'))


def test_a_tip_outside_the_workspace_is_rejected():
    loop = Loop()
    outwards = np.array([0.1, 0, 0, 0, 0, 0, 0]) * np.arange(1, 11)[:, None]
    verdict = loop.submit(loop.proposal(positions=ARM.home + outwards))
    assert verdict.reasons[0].startswith('workspace:')


def test_an_arm_outside_the_workspace_may_come_in_but_not_go_farther_out():
    joints = ARM.home + np.array([0.9, 0, 0, 0, 0, 0, 0])
    assert not ARM.in_workspace(ARM.tip_position(joints), CONFIG.workspace_margin)
    slope = np.array([0.1, 0, 0, 0, 0, 0, 0]) * np.arange(1, 6)[:, None]
    times = np.arange(1, 6) * 0.1
    loop = Loop(joints=joints)
    verdict = loop.submit(loop.proposal(positions=joints + slope, times=times))
    assert verdict.reasons[0].startswith('workspace:')
    loop = Loop(joints=joints)
    assert not loop.submit(loop.proposal(positions=joints - slope, times=times)).reasons


def test_a_path_through_the_table_is_rejected():
    deep = dataclasses.replace(ARM_CONFIG, workspace_min=(0.3, -0.27, -0.3))
    arm = Arm(deep)
    motion = TipMotion(arm)
    low, _ = arm.ik(np.array([0.5, 0.0, 0.03]), arm.home, 60)
    motion.reset(low)
    loop = Loop(arm=arm, joints=low)
    down = motion.preview(np.tile([0.0, 0.0, -1.0], (4, 1)))
    verdict = loop.submit(loop.proposal(positions=down, times=np.arange(1, 5) * 0.1))
    assert verdict.reasons[0].startswith('table:')
    along = motion.preview(np.tile([0.0, 1.0, 0.0], (4, 1)))
    assert not loop.submit(loop.proposal(positions=along, times=np.arange(1, 5) * 0.1)).reasons


START = np.array([0.92, -0.09, -1.98, -2.71, -0.31, 0.73, -2.7])


MIDDLE = START + [0, 0, 0, 0, 0.5, 0, 0]


END = START + [0, 0, 0, 0, 1.0, 0, 0]


SCENE = CollisionModel(ANYWHERE)


def test_a_self_collision_half_way_is_rejected():
    assert SCENE.self_collision(START) is None and SCENE.self_collision(END) is None
    assert SCENE.self_collision(MIDDLE) is not None
    loop = Loop(ANYWHERE, START, dataclasses.replace(CONFIG, max_joint_step=2.0))
    verdict = loop.submit(loop.proposal(positions=END[None], times=np.array([0.1])))
    assert verdict.reasons[0].startswith('self_collision:')
    assert 'panda_link2' in verdict.reasons[0] and 'pusher' in verdict.reasons[0]


def test_the_command_stream_alone_stops_before_a_self_collision():
    """Corners are cut between waypoints: what is streamed is not exactly what was checked."""
    config = dataclasses.replace(CONFIG, max_joint_step=2.0, slowdown_time=0.001)
    loop = Loop(ANYWHERE, START, config)
    with without_path_check():
        loop.submit(loop.proposal(positions=END[None], times=np.array([0.1])))
    verdict = loop.tick_to_rest()
    assert verdict.reasons[0].startswith('self_collision:')
    assert all(SCENE.self_collision(c.position) is None for c in loop.commands)
    assert np.abs(loop.commands[-1].position - START).max() > 0.05


def test_random_actions_of_the_planner_are_never_rejected():
    rng = np.random.default_rng(0)
    for _ in range(4):
        tip = rng.uniform(ARM.workspace_min, ARM.workspace_max)
        joints, _ = ARM.ik(tip, ARM.home, 60)
        loop, motion = Loop(joints=joints), TipMotion(ARM)
        motion.reset(joints)
        action = np.zeros(3)
        for _ in range(40):
            action = np.clip(0.8 * action + 0.6 * rng.normal(size=3), -1, 1)
            waypoints = motion.preview(np.tile(action, (10, 1)))
            motion.apply(action)
            verdict = loop.submit(loop.proposal(positions=waypoints))
            assert verdict.reasons == ()
            assert loop.tick(10).state is GuardState.FOLLOWING


@pytest.mark.parametrize('kind', ['f2', 'f4', 'g', 'i1', 'i8'])
def test_arrays_of_any_number_type_are_followed_by_value(kind):
    there = np.array([1.0, 0.0, 1.0, -2.0, 1.0, 2.0, 1.0])
    loop = Loop(ANYWHERE, there)
    proposal = loop.proposal(positions=there[None].astype(kind), times=np.array([0.1]))
    assert loop.submit(proposal).reasons == ()
    np.testing.assert_allclose(loop.tick(5).command.position, there)


def test_unsigned_integers_do_not_wrap_around():
    """uint8: 1 - 2 is 255; a difference in the proposal's own kind would name 255 rad."""
    rows = np.array([[2, 0, 0, 0, 0, 2, 0], [1, 0, 0, 0, 0, 2, 0]], dtype=np.uint8)
    floats = as_double(Loop().proposal(positions=rows, times=np.array([0.1, 0.2])))
    assert np.diff(floats.positions, axis=0).min() == -1.0


def test_a_clock_that_is_not_a_number_rejects_the_proposal():
    loop = Loop()
    verdict = loop.guard.submit(loop.proposal(), loop.now, ros_now=np.nan)
    assert verdict.reasons[0].startswith('clock:')


def test_long_joint_names_make_no_long_reasons():
    loop = Loop()
    verdict = loop.submit(loop.proposal(joint_names=('x' * 100_000,) * 500))
    assert len(verdict.reasons[0]) < 2000


def test_reasons_of_callers_are_truncated():
    loop = Loop()
    loop.start_moving()
    refused = loop.guard.reject('schema: ' + 'x' * 100_000)
    loop.guard.reject_joint_state('y' * 100_000)
    reasons = (*refused.reasons, *loop.tick(joints_arrive=False).reasons)
    assert {r.split(':')[0] for r in reasons} == {'schema', 'joints_invalid'}
    assert set(map(len, reasons)) == {500}
