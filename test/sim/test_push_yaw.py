"""Pushes to a place and a yaw: what is read of images, what is taught, and that they arrive."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import synthetic
from jepa_arm.agent import Agent
from jepa_arm.angles import yaw_error
from jepa_arm.collection import collect
from jepa_arm.config import CollectConfig, ModelFile, PlannerConfig, load
from jepa_arm.evaluator import Evaluator
from jepa_arm.goals import GoalError, PositionGoal
from jepa_arm.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from jepa_arm.model.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.planning.pose_heads import load_pose_heads
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.sim.tasks import EVALUATION_SEED
from jepa_arm.training.pose import train_pose

pytestmark = pytest.mark.sim
POSE = load(ModelFile, config_path('model/compact.yaml')).pose
DEVELOPMENT = EVALUATION_SEED + 70_000
"""Scenes that no figure is of."""


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def evaluator(arm_config, sim_config, guard_config):
    evaluator = Evaluator(arm_config, sim_config, guard_config, 'push_yaw')
    yield evaluator
    evaluator.world.close()


@pytest.fixture(scope='module')
def agent(checkpoint: Checkpoint, evaluator: Evaluator) -> Agent:
    config = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=float('inf'))
    return Agent(checkpoint, evaluator.arm, config)


def test_the_yaw_of_a_goal_image_is_read(agent: Agent, evaluator: Evaluator, one_thread) -> None:
    errors = []
    for seed in range(DEVELOPMENT, DEVELOPMENT + 20):
        scene = evaluator.prepare(seed)
        shown = evaluator.world.image_of(scene, 'object')
        try:
            goal = agent.goal_images.read(shown, 'object', with_yaw=True)
        except GoalError:
            continue  # the arm hides the object
        assert goal.yaw is not None and scene.goal_yaw is not None
        errors.append(abs(np.degrees(yaw_error(goal.yaw, scene.goal_yaw))))
        assert agent.goal_images.read(shown, 'object').yaw is None
    assert len(errors) >= 16 and np.median(errors) < 3.0


def test_objects_are_pushed_to_a_place_and_a_yaw(
    agent: Agent, evaluator: Evaluator, one_thread
) -> None:
    results = [evaluator.run_agent(agent, DEVELOPMENT + i) for i in range(3)]
    assert [r.success for r in results] == [True] * 3
    assert all(r.yaw_error <= np.radians(10.0) for r in results)


def test_a_yaw_that_nobody_watched_is_forgotten(
    agent: Agent, evaluator: Evaluator, one_thread
) -> None:
    scene = evaluator.prepare(DEVELOPMENT)
    evaluator.world.reset(scene)
    agent.reset(scene.joints)
    place = np.array([*scene.object_position, 0.025])
    seen = evaluator.world.observe()
    turning = agent.planners.turning
    assert turning is not None
    agent.set_goal(PositionGoal('object', place, yaw=0.0))
    agent.observe(seen)
    assert turning.yaw is not None
    agent.set_goal(PositionGoal('object', place, yaw=0.5))
    assert turning.yaw is not None
    for goal in (PositionGoal('object', place), PositionGoal('object', place, yaw=0.5)):
        agent.set_goal(goal)
        assert turning.yaw is None


def test_a_checkpoint_without_it_says_so(
    agent: Agent, evaluator: Evaluator, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    info = {k: v for k, v in checkpoint.info.items() if k != 'pose'}
    bare = Agent(replace(checkpoint, info=info), evaluator.arm, agent._config)
    goal = PositionGoal('object', np.array([0.5, 0.0, 0.025]), yaw=0.3)
    with pytest.raises(GoalError, match='jepa-arm pose'):
        bare.check_goal(goal)
    agent.check_goal(goal)


def test_what_is_taught_for_yaws_loads_and_is_the_same_for_a_seed(
    checkpoint: Checkpoint, arm_config, sim_config, tmp_path: Path
) -> None:
    folder, data = tmp_path / 'checkpoint', tmp_path / 'play.h5'
    shutil.copytree(checkpoint.folder, folder)
    play = load(CollectConfig, config_path('collect.yaml'))
    collect(data, arm_config, sim_config, replace(play, episodes=10, frames=13), workers=1)
    config = replace(POSE, reader_steps=3, turn_steps=3, actor_steps=3, value_steps=3, batch=16)
    told = train_pose(folder, data, config, seed=0, progress=False)
    assert 0.0 < told['yaw_median_deg'] <= 45.0
    first = load_pose_heads(load_checkpoint(folder))
    assert first is not None and first.max_steps == config.max_steps
    train_pose(folder, data, config, seed=0, progress=False)
    again = load_pose_heads(load_checkpoint(folder))
    assert again is not None
    for name, value in again.state_dict().items():  # the same seed teaches the same
        np.testing.assert_array_equal(value, first.state_dict()[name])


def test_a_world_without_heights_is_refused(tmp_path: Path, toy_data: Path) -> None:
    normaliser = Normaliser(0.4, 0.2, (0.0,) * 8, (1.0,) * 8)
    model = WorldModel(synthetic.MODEL, synthetic.CONTRACT, normaliser).eval()
    save_checkpoint(tmp_path / 'toy', model, Probes(model.latent), {})
    with pytest.raises(CheckpointError, match='3 directions, got 2'):
        train_pose(tmp_path / 'toy', toy_data, POSE, seed=0, progress=False)
