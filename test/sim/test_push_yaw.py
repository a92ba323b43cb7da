"""Pushes to a position and a yaw: reading the yaw, training for it, and reaching it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import synthetic
from jepa_arm.agent.agent import Agent
from jepa_arm.config import CollectConfig, ModelFile, PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.geometry import yaw_error
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.datasets.collection import collect
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_pose_actor_critic,
    save_checkpoint,
)
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.sim.tasks import EVALUATION_SEED
from jepa_arm.training.encoding import HeadTraining, encode_for
from jepa_arm.training.pose import train_pose

pytestmark = pytest.mark.sim
POSE = load(ModelFile, config_path('model/compact.yaml')).pose
BRIEF = replace(
    POSE, yaw_probe_steps=3, yaw_change_steps=3, actor_steps=3, value_steps=3, batch=16
)
DEVELOPMENT = EVALUATION_SEED + 70_000
"""Scenes that no figure is of."""


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def evaluator(arm_config, sim_config, guard_config):
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, guard_config), 'push_yaw')
    yield evaluator
    evaluator.world.close()


@pytest.fixture(scope='module')
def agent(checkpoint: Checkpoint, evaluator: EpisodeRunner) -> Agent:
    config = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=float('inf'))
    return Agent(checkpoint, evaluator.arm, config)


def test_the_yaw_of_a_goal_image_is_read(
    agent: Agent, evaluator: EpisodeRunner, one_thread
) -> None:
    errors = []
    for seed in range(DEVELOPMENT, DEVELOPMENT + 20):
        scene = evaluator.prepare(seed)
        shown = evaluator.world.render_goal(scene, 'object')
        try:
            goal = agent.goal_images.read(shown, 'object', with_yaw=True)
        except GoalError:
            continue  # the arm hides the object
        assert goal.yaw is not None and scene.goal_yaw is not None
        errors.append(abs(np.degrees(yaw_error(goal.yaw, scene.goal_yaw))))
        assert agent.goal_images.read(shown, 'object').yaw is None
    assert len(errors) >= 16 and np.median(errors) < 3.0


def test_objects_are_pushed_to_a_place_and_a_yaw(
    agent: Agent, evaluator: EpisodeRunner, one_thread
) -> None:
    results = [evaluator.run_agent(agent, DEVELOPMENT + i) for i in range(3)]
    assert [r.success for r in results] == [True] * 3
    assert all(r.yaw_errors[-1] <= np.radians(10.0) for r in results)


def test_a_yaw_that_nobody_watched_is_forgotten(
    agent: Agent, evaluator: EpisodeRunner, one_thread
) -> None:
    scene = evaluator.prepare(DEVELOPMENT)
    evaluator.world.reset(scene)
    agent.reset(scene.joints)
    place = np.array([*scene.object_position, 0.025])
    seen = evaluator.world.observe()
    tracker = agent.planners.yaw_tracker
    assert tracker is not None
    agent.set_goal(PositionGoal('object', place, yaw=0.0))
    agent.step(seen)
    assert tracker.estimate.yaw is not None
    agent.set_goal(PositionGoal('object', place, yaw=0.5))
    assert tracker.estimate.yaw is not None
    for goal in (PositionGoal('object', place), PositionGoal('object', place, yaw=0.5)):
        agent.set_goal(goal)
        assert tracker.estimate.yaw is None


def test_a_checkpoint_without_it_says_so(
    agent: Agent, evaluator: EpisodeRunner, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    info = {k: v for k, v in checkpoint.info.items() if k != 'pose'}
    bare = Agent(replace(checkpoint, info=info), evaluator.arm, agent.config)
    goal = PositionGoal('object', np.array([0.5, 0.0, 0.025]), yaw=0.3)
    with pytest.raises(GoalError, match='jepa-arm train --only pose'):
        bare.check_goal(goal)
    agent.check_goal(goal)


@pytest.fixture
def inputs(checkpoint: Checkpoint, arm_config, sim_config, tmp_path: Path) -> HeadTraining:
    """Return a copy of the shipped checkpoint and a little play to train it with."""
    folder, data = tmp_path / 'checkpoint', tmp_path / 'play.h5'
    shutil.copytree(checkpoint.folder, folder)
    play = load(CollectConfig, config_path('collect.yaml'))
    collect(data, arm_config, sim_config, replace(play, episodes=10, frames=13), 1)
    return HeadTraining(folder, encode_for(checkpoint, data), seed=0)


def train_briefly(inputs: HeadTraining) -> tuple[dict, PoseActorCritic]:
    """Return the report and the networks after three steps each."""
    report = train_pose(inputs, BRIEF)
    networks = load_pose_actor_critic(load_checkpoint(inputs.folder))
    assert networks is not None
    return report, networks


def test_networks_trained_for_poses_load(inputs: HeadTraining) -> None:
    report, networks = train_briefly(inputs)
    assert 0.0 < report['yaw_median_deg'] <= 45.0 and networks.max_steps == BRIEF.max_steps


@pytest.mark.extended
def test_training_for_poses_is_reproducible(inputs: HeadTraining) -> None:
    (_, first), (_, again) = train_briefly(inputs), train_briefly(inputs)
    for name, value in again.state_dict().items():
        np.testing.assert_array_equal(value, first.state_dict()[name])


def test_actions_in_the_plane_are_refused_for_pose_goals(tmp_path: Path, toy_data: Path) -> None:
    normaliser = Normaliser(0.4, 0.2, (0.0,) * 8, (1.0,) * 8)
    model = WorldModel(synthetic.MODEL, synthetic.CONTRACT, normaliser).eval()
    info = {'training': {'seed': 0, 'config': {'held_out': 0.2}}}
    save_checkpoint(tmp_path / 'toy', model, Probes(model.latent_dim), info)
    encoded = encode_for(load_checkpoint(tmp_path / 'toy'), toy_data)
    with pytest.raises(CheckpointError, match='3 directions, got 2'):
        train_pose(HeadTraining(tmp_path / 'toy', encoded, seed=0), POSE)
