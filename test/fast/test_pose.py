"""Yaw of the object: read from image patches, filtered, predicted and planned for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.agent.yaw_tracker import YawEstimate
from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.geometry import QUARTER, yaw_error
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint, load_pose_actor_critic
from jepa_arm.model.heads.pose_actor_critic import (
    PoseActorCritic,
    YawChangeHead,
    motion_features,
    pose_features,
)
from jepa_arm.model.heads.push_dynamics import ObjectFrame
from jepa_arm.model.heads.yaw_probe import crop_patches
from jepa_arm.model.world_model import WorldModel
from jepa_arm.planning.backends.stage_compiler import make_stage_compiler
from jepa_arm.planning.planner import Plan, Planner
from jepa_arm.planning.pose_dynamics import POSE_WIDTH, PoseDynamics
from jepa_arm.planning.rollout import StartState

POSITION = np.array([0.5, 0.1, 0.025])


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def networks(checkpoint: Checkpoint) -> PoseActorCritic:
    networks = load_pose_actor_critic(checkpoint)
    assert networks is not None
    return networks


@pytest.fixture(scope='module')
def poses(checkpoint: Checkpoint, networks: PoseActorCritic) -> PoseDynamics:
    assert isinstance(checkpoint.model, WorldModel)
    return PoseDynamics(checkpoint.model, checkpoint.probes, networks)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_yaws_differ_up_to_quarter_turns() -> None:
    assert yaw_error(0.1, 0.3) == pytest.approx(0.2)
    assert yaw_error(0.1, 0.3 + 3 * QUARTER) == pytest.approx(0.2)
    assert yaw_error(-3.0, 3.0) == pytest.approx(yaw_error(-3.0 + math.pi, 3.0))
    assert np.all(np.abs(yaw_error(np.linspace(-9.0, 9.0, 100), 0.2)) <= QUARTER / 2.0 + 1e-9)


def test_a_patch_moves_with_its_centre() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 64, 80, 3), dtype=np.uint8)
    moved = np.roll(image, (3, 5), axis=(1, 2))
    here, there = torch.tensor([[30.0, 31.0]]), torch.tensor([[35.0, 34.0]])
    first = crop_patches(torch.from_numpy(image), here)
    torch.testing.assert_close(first, crop_patches(torch.from_numpy(moved), there))
    assert not torch.allclose(first, crop_patches(torch.from_numpy(moved), here))
    outside = crop_patches(torch.from_numpy(image), torch.tensor([[-2.0, 66.0]]))
    assert torch.isfinite(outside).all()


def test_features_do_not_change_with_a_quarter_turn() -> None:
    yaw, goal = random(50), torch.cat([random(50, 3, seed=1), random(50, 1, seed=2)], 1)
    tip, position = (random(50, 3, seed=3), random(50, 3, seed=4)), (random(50, 3, seed=5),) * 2
    actions = random(50, 2, 3, seed=6)
    features, frame = pose_features(yaw, tip, position, goal)
    motion = motion_features(yaw, tip, position, actions)
    for turns in (1, 2, -1):
        turned = yaw + turns * QUARTER
        again, _ = pose_features(turned, tip, position, goal)
        torch.testing.assert_close(again, features, rtol=0, atol=1e-3)
        moved = motion_features(turned, tip, position, actions)
        torch.testing.assert_close(moved, motion, rtol=0, atol=1e-3)
    ahead = frame.from_base(tip[0] - position[0])
    assert torch.all(ahead[:, 0] >= ahead[:, 1].abs() - 1e-5)  # the face nearest the tip
    torch.testing.assert_close(frame.to_base(ahead), tip[0] - position[0])


def test_a_mirrored_push_turns_the_other_way() -> None:
    torch.manual_seed(0)
    head, mirror = YawChangeHead(2), torch.tensor([1.0, -1.0, 1.0])
    yaw, actions = random(20), random(20, 2, 3, seed=1)
    tip, position = (random(20, 3, seed=2), random(20, 3, seed=3)), (random(20, 3, seed=4),) * 2
    with torch.inference_mode():
        turned = head(motion_features(yaw, tip, position, actions))
        mirrored = head(
            motion_features(
                -yaw,
                (tip[0] * mirror, tip[1] * mirror),
                (position[0] * mirror, position[1] * mirror),
                actions * mirror,
            )
        )
    assert turned.abs().max() > 1e-4
    torch.testing.assert_close(mirrored, -turned)


def test_a_yaw_that_is_not_finite_gives_no_finite_frame() -> None:
    frame = ObjectFrame(torch.tensor([math.nan]), torch.ones(1, 3))
    assert not torch.isfinite(frame.from_base(torch.ones(1, 3))).all()


def test_predicting_the_yaw_does_not_change_the_latents(
    checkpoint: Checkpoint, poses: PoseDynamics
) -> None:
    z, z_prev = random(1, 64), random(1, 64, seed=1)
    actions = random(1, 5, 6, seed=2).clamp(-1.0, 1.0)
    with torch.inference_mode():
        alone = checkpoint.model.rollout(z, z_prev, actions)
        together = poses.rollout(*poses.augment(z, z_prev, 0.3), actions)
    torch.testing.assert_close(together[..., :-POSE_WIDTH], alone)
    for subject in ('tip', 'object'):
        expected = checkpoint.probes.read(subject, alone)
        torch.testing.assert_close(poses.read(subject, together), expected)
    assert torch.isfinite(together[..., -1]).all()
    assert not torch.equal(together[..., -1], torch.full((1, 5), 0.3))


def make(
    checkpoint: Checkpoint, poses: PoseDynamics, networks: PoseActorCritic, backend: str
) -> Planner:
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, deadline_ms=float('inf'), backend=backend)
    return Planner(
        poses.planning_model(networks),
        config,
        region=torch.tensor([[0.3, -0.3], [0.7, 0.3]]),
        compile_stages=make_stage_compiler(checkpoint, config, poses),
    )


def plan_of(planner: Planner, poses: PoseDynamics, yaw: float, goal: PositionGoal) -> Plan:
    return planner.plan(StartState(*start_at(poses, yaw)), goal)


def start_at(poses: PoseDynamics, yaw: float) -> tuple[Tensor, Tensor]:
    """Return a moving latent and the one before it, augmented with ``yaw`` (rad)."""
    z, other = random(1, 64, seed=3), random(1, 64, seed=4)
    return poses.augment(z, z + 0.1 * other, yaw)


def test_compiled_pose_plans_agree_with_torch(
    checkpoint: Checkpoint, poses: PoseDynamics, networks: PoseActorCritic
) -> None:
    goal = PositionGoal('object', POSITION, yaw=0.4)
    compiled = plan_of(make(checkpoint, poses, networks, 'openvino'), poses, 0.1, goal)
    plain = plan_of(make(checkpoint, poses, networks, 'torch'), poses, 0.1, goal)
    assert set(plain.terms) == {'distance', 'yaw', 'value', 'press', 'region'}
    assert compiled.candidates == plain.candidates
    assert compiled.cost == pytest.approx(plain.cost, abs=0.3)  # bfloat16 on some processors
    start, blocks = start_at(poses, 0.1), compiled.actions.view(1, 5, 6)
    with torch.inference_mode():
        expected = poses.rollout(*start, blocks)[0]
    torch.testing.assert_close(compiled.latents, expected, rtol=0, atol=0.1)


def test_plans_depend_on_the_yaw_of_the_goal_up_to_quarter_turns(
    checkpoint: Checkpoint, poses: PoseDynamics, networks: PoseActorCritic
) -> None:
    planner = make(checkpoint, poses, networks, 'torch')
    position = np.asarray(poses.read('object', start_at(poses, 0.0)[0])[0])  # of the object
    first = plan_of(planner, poses, 0.0, PositionGoal('object', position, yaw=0.0))
    planner.reset()
    again = plan_of(planner, poses, 0.0, PositionGoal('object', position, yaw=QUARTER))
    planner.reset()
    other = plan_of(planner, poses, 0.0, PositionGoal('object', position, yaw=0.7))
    torch.testing.assert_close(again.actions, first.actions, rtol=0, atol=0.05)
    assert not torch.allclose(other.actions, first.actions, atol=0.05)


def test_readings_are_weighted_by_their_predicted_error() -> None:
    estimate = YawEstimate()
    assert estimate.yaw is None
    estimate.update(0.2, 0.03, POSITION)
    for _ in range(5):
        estimate.update(-0.5, 0.6, POSITION)  # hidden
    assert estimate.yaw == pytest.approx(0.2, abs=0.05)
    estimate.update(-0.5, 0.03, POSITION + [0.05, 0.0, 0.0])  # pushed, and seen well
    assert estimate.yaw == pytest.approx(-0.5, abs=0.05)
    estimate.update(QUARTER / 2 + 0.1, 0.001, POSITION)
    assert abs(estimate.yaw) <= QUARTER / 2


def test_a_yaw_of_the_tip_or_one_that_is_not_finite_is_refused() -> None:
    with pytest.raises(GoalError, match='for the tip'):
        PositionGoal('tip', POSITION, yaw=0.1)
    with pytest.raises(GoalError, match='finite'):
        PositionGoal('object', POSITION, yaw=math.nan)
