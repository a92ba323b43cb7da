"""Evaluation over the real nodes: the episode record from messages, and the same report."""

import os
from dataclasses import replace

import numpy as np
import pytest
from geometry_msgs.msg import Pose, PoseArray
from planner_bench import save_untrained
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.core.files import checkpoint_path
from jepa_arm.core.types import JointSample
from jepa_arm.evaluation.episode import EpisodeRecord
from jepa_arm.evaluation.protocol import EvaluationSettings
from jepa_arm.evaluation.report import format_report, summarise
from jepa_arm.ros.graph.bench import bench_ros
from jepa_arm.ros.graph.episode_runner import EpisodeObserver, GraphEpisodeRunner
from jepa_arm.ros.graph.evaluate import evaluate_over_ros
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.environment import isolated_domain
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene import WorldState
from jepa_arm.sim.tasks import EVALUATION_SEED, load_task

pytestmark = [pytest.mark.ros, pytest.mark.sim]
GOAL = np.array([0.5, 0.0, 0.025])
DT = 0.1
YAW_SCENE = 70_000
"""For development; no published figure uses it."""
UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])


@pytest.fixture
def push(arm, sim_config):
    return load_task('push', arm, sim_config)


def observe(arm, task, distances, first=3.7):
    """An observer that has heard of the object at ``distances`` (m) from the goal."""
    scene = replace(task.sample(50_000), goal=GOAL)
    away = GOAL + np.array([distances[0], 0.0, 0.0])
    start = WorldState(
        arm.home, np.zeros(7), arm.tip_position(arm.home), away, UPRIGHT, False, 0.0
    )
    observer = EpisodeObserver(arm, EpisodeRecord(task, scene, start), GOAL, DT, False)
    for i, distance in enumerate(distances):
        hear_truth(observer, GOAL + np.array([distance, 0.0, 0.0]), first + i * DT)
        hear_joints(observer, arm, arm.home, first + i * DT)
    return observer


def hear_truth(observer, position, stamp):
    poses = [(position, UPRIGHT)]
    observer.on_truth(convert.poses_to_msg(poses, '', convert.to_time(stamp)))


def hear_joints(observer, arm, q, stamp):
    sample = JointSample(q, np.zeros(7), stamp)
    observer.on_joints(convert.joints_to_msg(sample, arm.joint_names))


def result_of(observer):
    return observer.record.finish(
        5, np.zeros((1, 1, 3), dtype=np.uint8), observer.read_goal, False
    )


def test_an_episode_lasts_as_long_as_its_ground_truth_says(arm, push):
    observer = observe(arm, push, [0.1, 0.04, 0.02, 0.02, 0.02])
    assert observer.record.is_over
    result = result_of(observer)
    assert result.success and result.time_s == pytest.approx(0.4)
    late = observe(arm, push, [0.1] * round(push.config.time_limit / DT - 1) + [0.02] * 9)
    assert late.record.is_over and not result_of(late).success
    assert result_of(late).time_s == push.config.time_limit


def test_ground_truth_without_poses_does_not_move_the_object(arm, push):
    observer = observe(arm, push, [0.1, 0.1])
    msg = PoseArray()
    msg.header.stamp = convert.to_time(3.9)
    observer.on_truth(msg)
    hear_joints(observer, arm, arm.home, 3.9)
    positions = result_of(observer).object_path
    np.testing.assert_allclose(positions[1:], [GOAL + [0.1, 0.0, 0.0]] * 2)


def test_a_step_counts_with_the_joints_of_its_time_though_they_come_later(arm, push):
    observer = observe(arm, push, [0.1])
    hear_truth(observer, GOAL, 3.8)
    moved = arm.home + 0.1
    for stamp, q in ((3.79, arm.home), (3.80, moved), (3.81, arm.home)):
        hear_joints(observer, arm, q, stamp)
    np.testing.assert_allclose(result_of(observer).tip_path[-1], arm.tip_position(moved))


def test_the_goal_that_was_read_is_not_an_obstacle_that_is_drawn_with_it(arm, push):
    """Any sphere was taken for it, and a round obstacle comes behind it."""
    goal, ball = (
        Marker(id=number, type=Marker.SPHERE, pose=Pose(position=convert.point_to_msg(position)))
        for number, position in ((PlanMarker.GOAL, GOAL), (PlanMarker.OBSTACLE, GOAL + 0.1))
    )
    observer = observe(arm, push, [0.1])
    observer.on_markers(MarkerArray(markers=[goal, ball]))
    observer.on_markers(MarkerArray(markers=[ball]))
    np.testing.assert_allclose(observer.read_goal, GOAL)


def test_an_arm_has_touched_an_obstacle_where_the_physics_say_so(arm, sim_config):
    task, found = load_task('avoid_reach', arm, sim_config), []
    world = BulletWorld(arm, sim_config)
    for seed in range(50_000, 50_008):  # straight to the goal, without a guard
        scene = task.sample(seed)
        record = EpisodeRecord(task, scene, world.reset(scene))
        observer = EpisodeObserver(arm, record, scene.goal, DT, False)
        for share in np.linspace(0.0, 1.0, 100):
            way = scene.goal_joints - scene.joints
            world.command(scene.joints + share * way, way)
            world.step()
            sample = JointSample(*world.joints(), world.time)
            observer.on_joints(convert.joints_to_msg(sample, arm.joint_names))
        found.append(world.has_touched_obstacle)
        assert observer.has_touched(scene.obstacles) == world.has_touched_obstacle, seed
    world.close()
    assert len(set(found)) == 2


def test_a_domain_of_its_own_is_given_back(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '7')
    with isolated_domain() as domain:
        assert os.environ['ROS_DOMAIN_ID'] == str(domain) != '7'
    assert os.environ['ROS_DOMAIN_ID'] == '7'


@pytest.mark.slow
@pytest.mark.extended
def test_an_object_is_pushed_to_a_place_and_a_yaw():
    settings = EvaluationSettings('push_yaw', 1, YAW_SCENE, with_baselines=False)
    report, _ = evaluate_over_ros(settings, checkpoint_path('compact'), lock_step=True)
    assert report['success_rate'] == 1.0, report['failures']
    assert report['yaw_error_deg']['p50'] <= 10.0


@pytest.mark.slow
def test_the_report_has_the_schema_of_the_one_in_process(tmp_path, arm, arm_config, sim_config):
    checkpoint = save_untrained(tmp_path / 'untrained', arm_config, sim_config)
    settings = EvaluationSettings('reach', 1, 3, 0.02, with_baselines=False, keep_frames=True)
    report, results = evaluate_over_ros(settings, checkpoint)
    task = load_task('reach', arm, sim_config, 0.02)
    in_process = summarise(results, task, 'local', 3)
    assert in_process.keys() <= report.keys()
    assert report['tolerance_cm'] == 2.0 and report['episodes'] == 1
    assert format_report(report)
    (result,) = results
    assert list(report['failures']) == ([] if result.success else [str(result.seed)])
    assert result.seed == EVALUATION_SEED + 3
    assert len(result.plan_ms) > 0 and len(result.command_ms) > 0
    assert len(result.frames) == len(result.predicted) > 0
    assert result.frames[0].shape == (64, 80, 3)
    scene = task.sample(result.seed)
    np.testing.assert_allclose(result.goal, scene.goal)
    np.testing.assert_allclose(result.tip_path[0], arm.tip_position(scene.joints), atol=1e-3)


@pytest.mark.slow
@pytest.mark.extended
def test_in_lock_step_the_same_seeds_give_the_same_motion_however_busy_the_machine_is(
    tmp_path, arm_config, sim_config
):
    checkpoint = save_untrained(tmp_path / 'untrained', arm_config, sim_config)
    paths = []
    for _ in range(2):
        with GraphEpisodeRunner('push', checkpoint, lock_step=True) as runner:
            result = runner.run_episode(EVALUATION_SEED, time_limit=1.5)
        assert len(result.plan_ms) >= 3 and result.limit_violations == 0
        paths.append(result.tip_path)
    both = min(map(len, paths))
    assert both >= 4 and np.ptp(paths[0], axis=0).max() > 0.005
    np.testing.assert_array_equal(paths[0][:both], paths[1][:both])


@pytest.mark.slow
@pytest.mark.extended
def test_the_bench_gives_plain_numbers(tmp_path, arm_config, sim_config, monkeypatch):
    monkeypatch.setattr('jepa_arm.ros.graph.bench.SETTLE_S', 0.0)
    checkpoint = save_untrained(tmp_path / 'untrained', arm_config, sim_config)
    figures = bench_ros(checkpoint, seconds=0.5, idle=0.2)
    expected = {
        'obs_to_command_ms_p99',
        'start_to_motion_s',
        'replan_hz',
        'plan_ms_p50',
        'image_rate_hz',
        'rss_mb_sim',
    }
    assert expected <= figures.keys()
    assert all(np.isfinite(v) for v in figures.values())
