"""The agent in closed loop with the virtual arm."""

from dataclasses import replace

import pytest

from jepa_arm.agent import Agent
from jepa_arm.config import ArmConfig, GuardConfig, PlannerConfig, SimConfig, load
from jepa_arm.evaluation import Evaluator, evaluate_policy
from jepa_arm.goals import GoalError
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.resources import checkpoint_path, config_path


@pytest.mark.parametrize('misread', [0.0, 0.025])
def test_a_misreading_tip_probe_leaves_no_error(
    misread: float, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    planner = load(PlannerConfig, config_path('planner.yaml'))
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = Evaluator(arm_config, sim_config, guard, 'reach')
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    checkpoint.probes.tip_target.mean += misread
    agent = Agent(checkpoint, evaluator.arm, replace(planner, deadline_ms=10_000.0))
    result = evaluator.run_agent(agent, seed=2_000_000)
    evaluator.world.close()
    assert result.success and result.distance < 0.01


@pytest.mark.parametrize(('policy', 'expected'), [('scripted', 1.0), ('random', 0.0)])
def test_a_policy_can_take_the_place_of_the_agent(
    policy: str, expected: float, arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    report, episodes = evaluate_policy(
        policy,
        arm_config,
        sim_config,
        load(GuardConfig, config_path('guard.yaml')),
        'reach',
        episodes=1,
        seed=50_000,
        progress=False,
    )
    assert (report['planner'], report['success_rate']) == (policy, expected)
    assert not episodes[0].plan_ms


HIDDEN = 1_050_011
"""A scene in whose goal image the arm hides the object."""


def test_a_goal_image_that_hides_the_object_is_refused_and_others_are_not(
    arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = Evaluator(arm_config, sim_config, guard, 'push')
    planner = load(PlannerConfig, config_path('planner.yaml'))
    agent = Agent(load_checkpoint(checkpoint_path('compact')), evaluator.arm, planner)

    def shown(seed):
        return evaluator.world.image_of(evaluator.task.sample(seed), 'object')

    for seed in range(HIDDEN + 1, HIDDEN + 21):
        agent.read_goal(shown(seed), 'object')
    with pytest.raises(GoalError, match='show it unhidden'):
        agent.read_goal(shown(HIDDEN), 'object')
    result = evaluator.run_agent(agent, HIDDEN)
    evaluator.world.close()
    assert not result.success and result.limit_violations == 0
    assert len(result.plan_ms) == 0
