"""Planner node in the real graph: goals and their outcomes, missing sensors, services."""

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import Imagine, InjectFault, SaveState
from planner_bench import FAR, Bench, Outcome, pose, usable_checkpoint
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.core.messages import image_from_msg
from jepa_arm.core.types import JointSample
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.qos import STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


@pytest.fixture(scope='module')
def bench(shared_harness, arm, arm_config, sim_config, tmp_path_factory):
    """Return a graph for all tests of this module."""
    folder = tmp_path_factory.mktemp('graph')
    checkpoint = usable_checkpoint(folder, arm_config, sim_config)
    bench = Bench(shared_harness, arm, checkpoint, folder, planner_config='planner.yaml')
    yield bench
    bench.close()


@pytest.fixture
def fresh(bench):
    """Return the graph at the start of a scene."""
    bench.reset()
    return bench


def image_goal(width=80, height=64, encoding='rgb8', names=None, arm=None):
    goal = Goal(kind=Goal.IMAGE)
    goal.image = convert.image_to_msg(
        np.zeros((height, width, 3), dtype=np.uint8), convert.to_time(0.0), ''
    )
    goal.image.encoding = encoding
    sample = JointSample(arm.home, np.zeros(len(arm.home)), 0.0)
    goal.joints = convert.joints_to_msg(sample, names or arm.joint_names)
    return goal


BAD_GOALS = {
    'outside the workspace': (lambda arm: pose(1.5, 0.0, 0.1), 'workspace'),
    'object off the table': (
        lambda arm: pose(0.5, 0.9, 0.02, kind=Goal.OBJECT_POSE),
        'workspace',
    ),
    'not a number': (lambda arm: pose(np.nan, 0.0, 0.1), 'finite'),
    'another frame': (lambda arm: pose(0.5, 0.0, 0.1, 'map'), 'panda_link0'),
    'unknown saved state': (lambda arm: Goal(kind=Goal.SAVED, saved_name='no'), "'no'"),
    'image size': (lambda arm: image_goal(96, 64, arm=arm), '80x64'),
    'image encoding': (lambda arm: image_goal(encoding='mono8', arm=arm), 'mono8'),
    'joint names': (
        lambda arm: image_goal(names=[f'other{i}' for i in range(7)], arm=arm),
        'panda_joint1',
    ),
    'a yaw of the tip': (lambda arm: pose(0.5, 0.0, 0.1, yaw_tolerance=0.2), 'for the tip'),
    'a tilted object': (
        lambda arm: pose(0.5, 0.0, 0.02, '', Goal.OBJECT_POSE, 0.2, turn=(0.6, 0.0, 0.0, 0.8)),
        'about z',
    ),
    'any yaw': (
        lambda arm: pose(0.5, 0.0, 0.02, '', Goal.OBJECT_POSE, 1.0),
        'eighth of a turn',
    ),
    'unknown kind': (lambda arm: Goal(kind=77), '77'),
}


@pytest.mark.parametrize('kind', BAD_GOALS)
def test_invalid_goal_is_aborted_with_the_reason(bench, arm, kind):
    make, word = BAD_GOALS[kind]
    before = np.array(bench.joints[-1][1].position)
    status, result = bench.result(bench.send(make(arm)))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.outcome == Outcome.INVALID_GOAL
    assert word in result.message
    np.testing.assert_allclose(bench.joints[-1][1].position, before, atol=1e-3)


def test_negative_tolerance_is_an_invalid_goal(bench):
    _, result = bench.result(bench.send(pose(0.5, 0.0, 0.1), tolerance=-1.0))
    assert result.outcome == Outcome.INVALID_GOAL and 'tolerance' in result.message


def test_invalid_goal_does_not_affect_the_active_one(fresh):
    handle = fresh.go()
    assert fresh.result(fresh.send(pose(9.0, 0.0, 0.1)))[1].outcome == Outcome.INVALID_GOAL
    fresh.wait_status(PlannerStatus.PLANNING)
    handle.cancel_goal_async()
    assert fresh.result(handle)[1].outcome == Outcome.CANCELED


def test_canceled_goal_brings_the_arm_to_rest(fresh):
    handle = fresh.go()
    handle.cancel_goal_async()
    outcome, result = fresh.result(handle)
    assert outcome == GoalStatus.STATUS_CANCELED
    assert result.outcome == Outcome.CANCELED and result.replans > 0
    fresh.wait_rest(1.0)
    status = fresh.harness.wait(
        lambda: fresh.guard[-1][1].state != GuardStatus.STOPPING and fresh.guard[-1][1],
        'the end of the stop',
    )
    is_late = all(reason.startswith('plan_expired') for reason in status.reasons)
    assert status.state == (GuardStatus.HOLDING if status.reasons else GuardStatus.IDLE)
    assert is_late


def test_hold_ends_the_goal_and_a_later_goal_is_pursued(fresh):
    handle = fresh.go()
    assert fresh.harness.call(Trigger, 'planner/hold').success
    assert fresh.result(handle)[1].outcome == Outcome.CANCELED
    fresh.wait_rest(1.0)
    later = fresh.go(FAR[1])
    later.cancel_goal_async()
    fresh.result(later)


def test_new_goal_preempts_the_active_one_without_a_stop(fresh):
    first = fresh.go(FAR[0])
    second = fresh.go(FAR[1])
    status, result = fresh.result(first)
    assert status == GoalStatus.STATUS_ABORTED and result.outcome == Outcome.PREEMPTED
    fresh.wait_status(PlannerStatus.PLANNING)
    fresh.harness.wait(lambda: fresh.guard[-1][1].state == GuardStatus.FOLLOWING, 'motion')
    second.cancel_goal_async()
    assert fresh.result(second)[1].outcome == Outcome.CANCELED


def test_goal_ends_at_its_timeout(fresh):
    _, result = fresh.result(fresh.go(timeout=1.0))
    assert result.outcome == Outcome.TIMED_OUT and np.isfinite(result.final_distance)
    fresh.wait_rest(1.0)


def test_stopped_camera_ends_the_goal_and_stops_the_arm(fresh):
    handle = fresh.go()
    fault = InjectFault.Request(fault='camera_stop')
    assert fresh.harness.call(InjectFault, 'sim/inject_fault', fault).success
    fresh.wait_rest(1.0)
    _, result = fresh.result(handle)
    assert result.outcome == Outcome.NO_OBSERVATION and 'camera/image_raw' in result.message
    assert fresh.status[-1][1].state == PlannerStatus.HOLDING and fresh.status[-1][1].reason


def test_missing_joint_states_end_the_goal(fresh):
    handle = fresh.go()
    fault = InjectFault.Request(fault='joints_stop')
    assert fresh.harness.call(InjectFault, 'sim/inject_fault', fault).success
    _, result = fresh.result(handle)
    assert result.outcome in (Outcome.NO_OBSERVATION, Outcome.GUARD_STOPPED)


def test_holding_guard_ends_the_goal(fresh):
    handle = fresh.go()
    assert fresh.harness.call(Trigger, 'guard/hold').success
    _, result = fresh.result(handle)
    assert result.outcome == Outcome.GUARD_STOPPED and 'guard' in result.message
    assert fresh.harness.call(Trigger, 'guard/resume').success


def test_goal_right_after_a_hold_is_pursued(fresh):
    for i in range(5):
        assert fresh.harness.call(Trigger, 'guard/hold').success
        fresh.wait_messages(fresh.guard, 2 + i)
        assert fresh.harness.call(Trigger, 'guard/resume').success
        handle = fresh.send(pose(*FAR[i % 2]), 1e-4)
        fresh.wait_messages(fresh.status, 3)
        handle.cancel_goal_async()
        assert fresh.result(handle)[1].outcome == Outcome.CANCELED


def test_saved_state_can_be_a_goal(fresh):
    assert not fresh.harness.call(SaveState, 'planner/save_state').success
    assert fresh.harness.call(SaveState, 'planner/save_state', SaveState.Request(name='a')).success
    goal = Goal(kind=Goal.SAVED, saved_name='a', subject=Goal.SUBJECT_TIP)
    _, result = fresh.result(fresh.send(goal, tolerance=0.05))
    assert result.outcome == Outcome.SUCCEEDED, result.message
    fresh.wait_rest(1.0)


def test_joints_goal_is_a_tip_position(fresh, arm):
    goal = Goal(kind=Goal.JOINTS)
    sample = JointSample(arm.home, np.zeros(7), 0.0)
    goal.joints = convert.joints_to_msg(sample, list(reversed(arm.joint_names)))
    goal.joints.position = arm.home[::-1].tolist()
    _, result = fresh.result(fresh.send(goal, timeout=1.0))
    assert result.outcome in (Outcome.SUCCEEDED, Outcome.TIMED_OUT) and 'tip' in result.message


def test_imagine_returns_one_position_per_model_step(bench):
    call = bench.harness.call
    actions = [0.0] * (3 * 2 * 4)
    response = call(Imagine, 'planner/imagine', Imagine.Request(actions=actions))
    assert response.success, response.message
    np.testing.assert_allclose(response.stamps, [0.2, 0.4, 0.6, 0.8])
    assert len(response.tip_positions) == len(response.object_positions) == 12
    refused = call(Imagine, 'planner/imagine', Imagine.Request(actions=[0.0] * 7))
    assert not refused.success and 'control steps' in refused.message


def test_first_plan_of_a_goal_is_made_from_a_later_image(fresh):
    for i in range(4):
        fresh.wait_messages(fresh.joints, 50 + 3 * i)  # at rest fewer images are used
        before, known = fresh.joints[-1][1].header.stamp, len(fresh.status)
        handle = fresh.send(pose(*FAR[i % 2]), tolerance=1e-4)
        fresh.wait_status(PlannerStatus.PLANNING)
        first = next(m for _, m in fresh.status[known:] if m.state == PlannerStatus.PLANNING)
        sent, observed = map(convert.to_seconds, (before, first.observation_stamp))
        assert observed >= sent, first.reason
        fresh.harness.wait(handle.cancel_goal_async().done, 'the end')
        fresh.wait_rest(3.0)


def test_every_image_gets_a_status_that_describes_the_plan(fresh):
    count = len(fresh.status)
    handle = fresh.go()
    planned = fresh.harness.wait(
        lambda: [m for _, m in fresh.status[count:] if m.state == PlannerStatus.PLANNING][5:],
        'plans',
    )
    handle.cancel_goal_async()
    fresh.result(handle)
    stamped = [(convert.to_seconds(m.observation_stamp), m) for _, m in fresh.status[count:]]
    stamps = [stamp for stamp, _ in stamped if stamp > 0.0]
    assert np.all(np.diff(stamps) > 0.0)
    blind = [m for stamp, m in stamped if stamp == 0.0]  # a slow machine may pause
    assert all(m.state == PlannerStatus.HOLDING and m.reason for m in blind), blind
    last = planned[-1]
    assert last.candidates > 0 and last.plan_ms > 0.0 and last.distance > 0.0
    assert 0.0 < last.observation_age_ms < 1000.0
    (size,) = {m.candidates / m.iterations for m in planned}
    log = fresh.graph.log_file('planner').read_text()
    assert f'plans: {size:.0f} candidates per iteration' in log


def to_array(points):
    return np.array([[point.x, point.y, point.z] for point in points])


def test_markers_show_plan_candidates_goal_and_workspace(fresh, arm):
    shown = fresh.harness.record(MarkerArray, 'planner/plan_markers', STATUS_QOS)
    handle = fresh.go()

    def drawn():
        return [m.markers for _, m in shown if m.markers[0].type == Marker.LINE_STRIP]

    path, goal, candidates, box = fresh.harness.wait(lambda: drawn() and drawn()[-1], 'markers')
    handle.cancel_goal_async()
    fresh.result(handle)
    tips = to_array([*path.points, *candidates.points])
    assert len(path.points) >= 3 and len(candidates.points) >= 2 * (len(path.points) - 1)
    assert np.all(tips > arm.workspace_min - 0.05) and np.all(tips < arm.workspace_max + 0.05)
    np.testing.assert_allclose(to_array([goal.pose.position])[0], FAR[0], atol=1e-6)
    corners = to_array(box.points)
    assert len(corners) == 24
    np.testing.assert_allclose(corners.min(0), arm.workspace_min)
    np.testing.assert_allclose(corners.max(0), arm.workspace_max)
    fresh.harness.wait(
        lambda: shown[-1][1].markers[0].action == Marker.DELETEALL, 'the end of the plan'
    )
    assert [m.id for m in shown[-1][1].markers[1:]] == [PlanMarker.WORKSPACE]


def test_predicted_image_has_the_stamp_of_its_observation(fresh, arm_config):
    shown = fresh.harness.record(Image, 'planner/imagined', STATUS_QOS)
    handle = fresh.go()
    message = fresh.harness.wait(lambda: shown and shown[-1][1], 'a predicted image')
    handle.cancel_goal_async()
    fresh.result(handle)
    camera = arm_config.camera
    assert image_from_msg(message).shape == (camera.height, camera.width, 3)
    stamps = [convert.to_seconds(m.observation_stamp) for _, m in fresh.status]
    assert convert.to_seconds(message.header.stamp) in stamps
