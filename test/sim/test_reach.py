"""Every arm reaches tip goals in the virtual arm, through guard and stream."""

import pytest

from jepa_arm.config import ArmConfig, GuardConfig, SimConfig
from jepa_arm.evaluation.episode_runner import SimulationSetup
from jepa_arm.evaluation.protocol import EvaluationSettings, evaluate_policy

pytestmark = pytest.mark.sim


def test_the_scripted_planner_reaches_every_goal_within_the_limits(
    each_arm_config: ArmConfig, sim_config: SimConfig, guard_config: GuardConfig
) -> None:
    report, results = evaluate_policy(
        'scripted',
        SimulationSetup(each_arm_config, sim_config, guard_config),
        EvaluationSettings('reach', 3, 50_000),
    )
    assert report['success_rate'] == 1.0
    assert all(result.distance <= 0.01 for result in results)
    assert report['limit_violations'] == report['measured_violations'] == 0
