"""An episode is judged by the task's rule, and the report's figures are what they claim to be."""

from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.config import SimConfig
from jepa_arm.evaluation.episode import EpisodeRecord, exceeds_limits
from jepa_arm.evaluation.report import format_report, summarise, wilson
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.scene import WorldState
from jepa_arm.sim.tasks import load_task

GOAL = np.array([0.5, 0.0, 0.025])
DT = 0.1


def record_of(
    arm: Arm, sim: SimConfig, distances: list[float], task: str = 'push', yaw: float | None = None
) -> EpisodeRecord:
    """Return the record of an object at ``distances`` (m) from its goal, turned by ``yaw``."""
    loaded = load_task(task, arm, sim)
    scene = replace(loaded.sample(50_000), goal=GOAL, goal_yaw=None if yaw is None else -yaw)
    states = [
        WorldState(
            joints=arm.home,
            joint_velocity=np.zeros_like(arm.home),
            tip_position=arm.tip_position(arm.home),
            object_position=GOAL + np.array([distance, 0.0, 0.0]),
            object_quaternion=np.array([0.0, 0.0, 0.0, 1.0]),
            contact=False,
            time=i * DT,
        )
        for i, distance in enumerate(distances)
    ]
    record = EpisodeRecord(loaded, scene, states[0])
    for i, state in enumerate(states[1:], 1):
        record.add_step(state, i * DT)
    return record


def test_the_goal_must_be_held_for_three_control_steps(arm: Arm, sim_config: SimConfig) -> None:
    assert not record_of(arm, sim_config, [0.1, 0.02, 0.02, 0.04, 0.02, 0.02]).is_over
    held = record_of(arm, sim_config, [0.1, 0.04, 0.02, 0.02, 0.02])
    assert held.success and held.is_over
    assert held.distance == pytest.approx(0.02)


def test_the_goal_must_be_reached_in_time(arm: Arm, sim_config: SimConfig) -> None:
    limit = load_task('push', arm, sim_config).config.time_limit
    late = record_of(arm, sim_config, [0.1] * (round(limit / DT) + 1))
    assert late.is_over and not late.success
    shown = np.zeros((1, 1, 3), dtype=np.uint8)
    assert late.finish(5, shown, GOAL, False).time_s == limit


@pytest.mark.parametrize(('yaw', 'is_solved'), [(0.1, True), (np.pi / 2.0, True), (0.3, False)])
def test_the_yaw_counts_where_the_goal_has_one(
    arm: Arm, sim_config: SimConfig, yaw: float, is_solved: bool
) -> None:
    record = record_of(arm, sim_config, [0.1, 0.01, 0.01, 0.01], 'push_yaw', yaw)
    assert record.success == is_solved
    result = record.finish(5, np.zeros((1, 1, 3), dtype=np.uint8), GOAL, False)
    assert result.yaw_errors[-1] == pytest.approx(0.0 if yaw > 1.0 else yaw, abs=1e-6)


def test_limits_are_violated_by_position_or_velocity_and_only_beyond_the_slack(arm: Arm) -> None:
    rest, limit = np.zeros_like(arm.home), arm.velocity_limit
    assert not exceeds_limits(arm, arm.upper + 1e-7, limit, limit, 1e-6)
    assert exceeds_limits(arm, arm.upper + 1e-5, rest, limit, 1e-6)
    assert exceeds_limits(arm, arm.home, -limit - 1e-5, limit, 1e-6)


def test_a_report_counts_successes_and_lists_the_failed_seeds(
    arm: Arm, sim_config: SimConfig
) -> None:
    shown = np.zeros((1, 1, 3), dtype=np.uint8)
    solved = record_of(arm, sim_config, [0.1, 0.015, 0.015, 0.015]).finish(1, shown, GOAL, False)
    failed = record_of(arm, sim_config, [0.1, 0.08]).finish(2, shown, GOAL, False)
    task = load_task('push', arm, sim_config)
    report = summarise([solved, failed], task, 'local', 0, {'random': 0.0})
    assert report['success_rate'] == 0.5 and report['failed_seeds'] == [2]
    assert report['episodes'] == 2 and report['median_time_s'] == pytest.approx(0.3)
    assert report['random_rate'] == 0.0 and report['scripted_rate'] is None
    assert report['ended_within'] == {'1': 0.0, '2': 0.5, '3': 0.5, '4': 0.5}
    assert '50.0%' in format_report(report)


@pytest.mark.parametrize(
    ('wins', 'count', 'low', 'high'),
    [(58, 60, 0.886, 0.991), (60, 60, 0.940, 1.0), (0, 20, 0.0, 0.161)],
)
def test_wilson_interval_equals_published_values(
    wins: int, count: int, low: float, high: float
) -> None:
    assert wilson(wins, count) == pytest.approx((low, high), abs=1e-3)
