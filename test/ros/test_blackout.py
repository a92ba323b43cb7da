"""Blackouts: the planner bridges missing images with its belief."""

import time

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from planner_bench import FAR, Bench, Outcome

from jepa_arm.core.files import CHECKPOINTS
from jepa_arm.datasets.recording import BLIND_REASON

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
BLACKOUT_S = 0.8
TOLERANCE_M, STOP_M = 0.015, 0.01
"""Tolerance of the goal, and motion after the goal was held for three control steps."""


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
def test_goal_is_reached_through_a_blackout(bench, fault):
    handle = bench.go(FAR[0], tolerance=TOLERANCE_M)
    known = len(bench.status)
    request = InjectFault.Request(fault=fault, duration=BLACKOUT_S)
    assert bench.harness.call(InjectFault, 'sim/inject_fault', request).success
    dark = time.monotonic()
    _, result = bench.result(handle)
    assert result.outcome == Outcome.SUCCEEDED, result.message
    blind = [pair for pair in bench.status[known:] if pair[1].reason.endswith(BLIND_REASON)]
    assert len(blind) >= 4
    assert all(m.state == PlannerStatus.PLANNING and np.isnan(m.surprise) for _, m in blind)
    path = [
        bench.arm.tip_position(np.array(msg.position))
        for at, msg in bench.joints
        if blind[0][0] < at < dark + BLACKOUT_S
    ]
    moved = np.linalg.norm(path[-1] - path[0])
    assert moved > 2 * STOP_M, f'moved {moved * 100:.1f} cm without images'
    tip = bench.arm.tip_position(np.array(bench.joints[-1][1].position))
    assert np.linalg.norm(tip - FAR[0]) < TOLERANCE_M + STOP_M


def test_short_gap_of_joint_states_does_not_end_a_goal_pursued_blindly(bench):
    handle = bench.go(FAR[0], tolerance=0.0005)
    known = len(bench.status)
    for fault, duration in ('camera_black', 1.4), ('joints_stop', 0.3):
        request = InjectFault.Request(fault=fault, duration=duration)
        assert bench.harness.call(InjectFault, 'sim/inject_fault', request).success
    known = bench.wait_reason('is something publishing on /joint_states?', known)
    bench.wait_reason(BLIND_REASON, known)
    handle.cancel_goal_async()
    assert bench.result(handle)[1].outcome == Outcome.CANCELED


def test_long_blackout_stops_the_arm_until_late_images_arrive(bench):
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
    assert BLIND_REASON in bench.status[-1][1].reason
