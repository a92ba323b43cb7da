"""A camera that fails for a moment: the arm goes on from what the planner believes."""

import time

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from planner_bench import FAR, Bench, Outcome

from jepa_arm.resources import CHECKPOINTS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
BLACKOUT_S = 0.8
TOLERANCE_M, STOP_M = 0.015, 0.01
"""Of the goal, and what the arm moves on after it was held for three control steps."""


@pytest.fixture(scope='module')
def graph(shared_harness, arm, tmp_path_factory):
    logs = tmp_path_factory.mktemp('graph')
    bench = Bench(
        shared_harness,
        arm,
        CHECKPOINTS / 'compact',
        logs,
        max_blackout=1.5,
        observation_timeout=5.0,
    )
    yield bench
    bench.close()


@pytest.fixture
def bench(graph):
    graph.reset(seed=3, task='reach')
    return graph


@pytest.mark.parametrize('fault', ['camera_stop', 'camera_black'])
def test_a_goal_is_pursued_through_a_blackout(bench, fault):
    handle = bench.go(FAR[0], tolerance=TOLERANCE_M)
    seen = len(bench.status)
    request = InjectFault.Request(fault=fault, duration=BLACKOUT_S)
    assert bench.harness.call(InjectFault, 'sim/inject_fault', request).success
    dark = time.monotonic()
    _, result = bench.result(handle)
    assert result.outcome == Outcome.SUCCEEDED, result.message
    blind = [told for told in bench.status[seen:] if told[1].reason.endswith('from the belief')]
    assert len(blind) >= 4
    assert all(m.state == PlannerStatus.PLANNING and np.isnan(m.surprise) for _, m in blind)
    way = [
        bench.arm.tip_position(np.array(msg.position))
        for at, msg in bench.joints
        if blind[0][0] < at < dark + BLACKOUT_S
    ]
    moved = np.linalg.norm(way[-1] - way[0])
    assert moved > 2 * STOP_M, f'moved {moved * 100:.1f} cm without images'
    tip = bench.arm.tip_position(np.array(bench.joints[-1][1].position))
    assert np.linalg.norm(tip - FAR[0]) < TOLERANCE_M + STOP_M


def test_joints_that_miss_for_a_moment_end_no_pursuit_from_the_belief(bench):
    handle = bench.go(FAR[0], tolerance=0.0005)
    seen = len(bench.status)
    for fault, duration in ('camera_black', 1.4), ('joints_stop', 0.3):
        request = InjectFault.Request(fault=fault, duration=duration)
        assert bench.harness.call(InjectFault, 'sim/inject_fault', request).success
    told = bench.wait_reason('is something publishing on /joint_states?', seen)
    bench.wait_reason('from the belief', told)
    handle.cancel_goal_async()
    assert bench.result(handle)[1].outcome == Outcome.CANCELED


def test_a_blackout_longer_than_allowed_stops_the_arm_until_images_come_however_late(bench):
    bench.go(FAR[0], tolerance=0.0005)
    request = InjectFault.Request(fault='camera_delay', value=0.4, duration=0.0)
    assert bench.harness.call(InjectFault, 'sim/inject_fault', request).success
    request = InjectFault.Request(fault='camera_stop', duration=1.8)
    assert bench.harness.call(InjectFault, 'sim/inject_fault', request).success
    bench.wait_status(PlannerStatus.HOLDING)
    assert 'no image for' in bench.status[-1][1].reason
    bench.harness.wait(lambda: bench.guard[-1][1].state == GuardStatus.HOLDING, 'a stop')
    bench.wait_rest(2.0)
    bench.wait_status(PlannerStatus.PLANNING)
    assert 's old when it comes: planning from the belief' in bench.status[-1][1].reason
