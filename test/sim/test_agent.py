"""The agent in closed loop with the virtual arm."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.control_loop import ControlLoop
from jepa_arm.agent.decision import NO_FEEDBACK, Decision, StepFeedback
from jepa_arm.agent.obstacle_mask import ObstacleMask
from jepa_arm.belief.belief import BlindError
from jepa_arm.config import (
    ArmConfig,
    GuardConfig,
    ObstacleConfig,
    PlannerConfig,
    SimConfig,
    load,
)
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.core.types import FloatArray, GuardState, ImageArray, JointSample, Observation
from jepa_arm.evaluation.episode_runner import (
    Blackout,
    Conditions,
    EpisodeRunner,
    SimulationSetup,
)
from jepa_arm.evaluation.protocol import EvaluationSettings, evaluate_policy
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.sim.scene_sampling import joints_for_tip


def test_a_misreading_tip_probe_leaves_no_error(
    arm_config: ArmConfig, sim_config: SimConfig
) -> None:
    planner = load(PlannerConfig, config_path('planner.yaml'))
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, guard), 'reach')
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    checkpoint.probes.tip_target.mean += 0.025
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
        SimulationSetup(arm_config, sim_config, load(GuardConfig, config_path('guard.yaml'))),
        EvaluationSettings('reach', 1, 50_000),
    )
    assert (report['planner'], report['success_rate']) == (policy, expected)
    assert not episodes[0].plan_ms


@pytest.fixture(scope='module')
def compiled(
    arm_config: ArmConfig, sim_config: SimConfig
) -> Iterator[tuple[Agent, EpisodeRunner]]:
    """Return an agent and a runner of the push task for all tests of this module."""
    guard = load(GuardConfig, config_path('guard.yaml'))
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, guard), 'push')
    planner = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=10_000.0)
    yield Agent(load_checkpoint(checkpoint_path('compact')), evaluator.arm, planner), evaluator
    evaluator.world.close()


def test_a_blackout_begins_and_ends_at_the_configured_share_of_the_path(
    compiled: tuple[Agent, EpisodeRunner],
    arm_config: ArmConfig,
    sim_config: SimConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conditions = Conditions(Blackout(0.5, duration=0.3, by_progress=True))
    guard = load(GuardConfig, config_path('guard.yaml'))
    setup = SimulationSetup(arm_config, sim_config, guard)
    step, left = Agent.step, []
    with EpisodeRunner(setup, 'reach', conditions=conditions) as runner:
        goal = runner.task.sample(50_000).goal

        def noted(
            self: Agent,
            observation: Observation | JointSample,
            feedback: StepFeedback = NO_FEEDBACK,
        ) -> Decision:
            distance = np.linalg.norm(runner.world.state().tip_position - goal)
            left.append((isinstance(observation, JointSample), distance))
            return step(self, observation, feedback)

        monkeypatch.setattr(Agent, 'step', noted)
        result = runner.run_agent(compiled[0], 50_000)
    blind = [i for i, (is_blind, _) in enumerate(left) if is_blind]
    assert blind == list(range(blind[0], blind[0] + 3)) and result.success
    assert left[blind[0]][1] <= 0.5 * left[0][1] < left[blind[0] - 1][1]


@pytest.fixture
def pushing(compiled: tuple[Agent, EpisodeRunner]) -> Iterator[tuple[Agent, EpisodeRunner]]:
    """Return the agent without a goal and obstacles, and the runner."""
    yield compiled
    compiled[0].set_goal(None)
    compiled[0].set_obstacles(())


def test_a_known_delay_surprises_less_than_an_unknown_one_and_raises_no_alarm(
    arm_config: ArmConfig, sim_config: SimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = load(GuardConfig, config_path('guard.yaml'))
    planner = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=10_000.0)
    checkpoint = load_checkpoint(checkpoint_path('compact'))

    def surprise(is_known: bool) -> FloatArray:
        conditions = Conditions(delay=0.13, is_delay_known=is_known)
        evaluator = EpisodeRunner(
            SimulationSetup(arm_config, sim_config, guard), 'reach', conditions=conditions
        )
        agent, found = Agent(checkpoint, evaluator.arm, planner), []
        assess = agent.assess

        def note(decision: Decision) -> Decision:
            decision = assess(decision)
            found.append(decision.surprise)
            return decision

        monkeypatch.setattr(agent, 'assess', note)
        for seed in (1_079_000, 1_079_001):
            evaluator.run_agent(agent, seed)
        evaluator.world.close()
        return np.array(found)[np.isfinite(found)]

    known, unknown = surprise(True), surprise(False)
    assert len(known) > 20 and known.max() < 1.0
    assert np.median(known) < 0.8 * np.median(unknown)


def test_the_belief_follows_an_object_that_is_pushed_unseen(
    pushing: tuple[Agent, EpisodeRunner],
) -> None:
    agent, evaluator = pushing
    probes, world = load_checkpoint(checkpoint_path('compact')).probes, evaluator.world
    guard, ticks, ways, errors = evaluator.guard, world.config.time.ticks, [], []
    for seed in range(78_000, 78_003):
        scene = evaluator.prepare(seed)
        begun = world.reset(scene).object_position
        guard.reset(scene.joints, now=world.time)
        agent.reset(scene.joints)
        agent.set_goal(PositionGoal('object', scene.goal))
        loop = ControlLoop(agent, guard, world, ticks)
        seen = loop.step()
        for _ in range(60):
            if np.linalg.norm(world.state().object_position - begun) > 0.02:
                break
            seen = loop.step()
        lost = world.state().object_position
        for _ in range(6):
            loop.step(is_blind=True)
        truth = world.state().object_position
        last = agent.assess(agent.step(JointSample(*world.joints(), world.time)))
        snapshot = agent.snapshot()
        assert snapshot is not None and last.position_std > seen.position_std
        believed = probes.read('object', snapshot.z[-1]).numpy()
        ways.append(np.linalg.norm(truth - lost))
        errors.append(np.linalg.norm(believed - truth))
    assert np.median(ways) > 0.04
    assert np.median(errors) < 0.3 * np.median(ways)


def test_a_tip_below_the_workspace_first_moves_straight_up(
    pushing: tuple[Agent, EpisodeRunner],
) -> None:
    """The guard would refuse any sideways motion at the table."""
    agent, evaluator = pushing
    arm, place = evaluator.arm, np.array([0.39, 0.03, 0.001])
    scene = evaluator.task.sample(1_050_025)
    scene = replace(scene, joints=joints_for_tip(arm, place))
    evaluator.world.reset(scene)
    agent.reset(scene.joints)
    agent.set_goal(PositionGoal('object', scene.goal))
    proposal = agent.step(evaluator.world.observe()).proposal
    assert proposal is not None
    above = [*place[:2], arm.workspace_min[2]]
    np.testing.assert_allclose(arm.tip_position(proposal.positions[0]), above, atol=1e-3)
    assert np.linalg.norm(arm.tip_position(proposal.positions[1]) - above) > 0.01


def test_the_loop_continues_from_where_the_guard_stopped_the_arm(
    pushing: tuple[Agent, EpisodeRunner], sim_config: SimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal that the guard accepts and then drops was not carried out."""
    agent, evaluator = pushing
    scene, guard, world = evaluator.task.sample(1_050_025), evaluator.guard, evaluator.world
    world.reset(scene)
    guard.reset(scene.joints, now=world.time)
    agent.reset(scene.joints)
    agent.set_goal(PositionGoal('object', scene.goal))
    ticks = sim_config.time.ticks
    loop = ControlLoop(agent, guard, world, ticks)
    for _ in range(3):
        loop.step()
    monkeypatch.setattr(world, 'step', lambda: guard.stop('test: something is in the way'))
    decision = loop.step()
    monkeypatch.undo()
    assert decision.proposal is not None and guard.command is not None
    assert guard.state in (GuardState.STOPPING, GuardState.HOLDING)
    world.step()
    held_at = guard.command.position.copy()
    setpoint = loop.step().setpoint
    assert setpoint is not None
    np.testing.assert_allclose(setpoint, held_at)


HIDDEN = 1_050_011
"""A scene in whose goal image the arm hides the object."""


def test_only_goal_images_that_hide_the_object_are_refused(
    pushing: tuple[Agent, EpisodeRunner],
) -> None:
    agent, evaluator = pushing

    def shown(seed):
        return evaluator.world.render_goal(evaluator.task.sample(seed), 'object')

    for seed in range(HIDDEN + 1, HIDDEN + 21):
        agent.goal_images.read(shown(seed), 'object')
    with pytest.raises(GoalError, match='show it unhidden'):
        agent.goal_images.read(shown(HIDDEN), 'object')
    result = evaluator.run_agent(agent, HIDDEN)
    assert not result.success and result.limit_violations == 0
    assert len(result.plan_ms) == 0


POST = ObstacleConfig('post', 'box', (0.06, 0.06, 0.12), (0.46, 0.12, 0.06))
"""An obstacle; the model was trained without any."""


def test_imagination_starts_from_images_with_obstacles_masked(
    pushing: tuple[Agent, EpisodeRunner],
) -> None:
    agent, evaluator = pushing
    scene = replace(evaluator.task.sample(1_050_025), obstacles=(POST,))
    evaluator.world.reset(scene)
    seen = evaluator.world.observe()
    masked = ObstacleMask(evaluator.arm.config.camera, (POST,)).apply(seen.image)

    def imagine(image: ImageArray, obstacles: tuple[ObstacleConfig, ...]) -> FloatArray:
        agent.set_obstacles(obstacles)
        agent.reset(scene.joints)
        agent.step(replace(seen, image=image))
        return agent.imagine(np.zeros(6)).objects

    expected = imagine(masked, ())
    assert not np.allclose(imagine(seen.image, ()), expected, atol=1e-4)
    np.testing.assert_array_equal(imagine(seen.image, (POST,)), expected)


def test_imagination_starts_from_the_belief_while_images_are_missing(
    pushing: tuple[Agent, EpisodeRunner],
) -> None:
    agent, evaluator = pushing
    world, scene = evaluator.world, evaluator.task.sample(1_050_025)
    world.reset(scene)
    evaluator.guard.reset(scene.joints, now=world.time)
    agent.reset(scene.joints)
    with pytest.raises(BlindError):
        agent.imagine(np.zeros(6))
    agent.set_goal(PositionGoal('object', scene.goal))
    loop = ControlLoop(agent, evaluator.guard, world, world.config.time.ticks)
    loop.step()
    begun = world.state().tip_position
    for _ in range(8):
        loop.step(is_blind=True)
    tip = world.state().tip_position
    assert np.linalg.norm(tip - begun) > 0.05
    assert np.linalg.norm(agent.imagine(np.zeros(6)).tips[0] - tip) < 0.03
