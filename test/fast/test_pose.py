"""An object's yaw: read off pieces of images, remembered, predicted beside the latent."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.angles import QUARTER, yaw_error
from jepa_arm.config import PlannerConfig, load
from jepa_arm.goals import GoalError, PositionGoal
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint
from jepa_arm.model.world_model import WorldModel
from jepa_arm.model.yaw import pieces_of
from jepa_arm.planning.planner import Plan, Planner
from jepa_arm.planning.pose import SEEN, PoseDynamics
from jepa_arm.planning.pose_heads import (
    Face,
    PoseHeads,
    Turn,
    load_pose_heads,
    motion_features,
    pose_features,
)
from jepa_arm.planning.runtime import stage_compiler
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.turning import YawMemory

PLACE = np.array([0.5, 0.1, 0.025])


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def heads(checkpoint: Checkpoint) -> PoseHeads:
    heads = load_pose_heads(checkpoint)
    assert heads is not None
    return heads


@pytest.fixture(scope='module')
def poses(checkpoint: Checkpoint, heads: PoseHeads) -> PoseDynamics:
    assert isinstance(checkpoint.model, WorldModel)
    return PoseDynamics(checkpoint.model, checkpoint.probes, heads)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_yaws_differ_up_to_quarter_turns() -> None:
    assert yaw_error(0.1, 0.3) == pytest.approx(0.2)
    assert yaw_error(0.1, 0.3 + 3 * QUARTER) == pytest.approx(0.2)
    assert yaw_error(-3.0, 3.0) == pytest.approx(yaw_error(-3.0 + math.pi, 3.0))
    assert np.all(np.abs(yaw_error(np.linspace(-9.0, 9.0, 100), 0.2)) <= QUARTER / 2.0 + 1e-9)


def test_a_piece_of_an_image_goes_with_what_it_is_around() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 64, 80, 3), dtype=np.uint8)
    moved = np.roll(image, (3, 5), axis=(1, 2))
    here, there = torch.tensor([[30.0, 31.0]]), torch.tensor([[35.0, 34.0]])
    first = pieces_of(torch.from_numpy(image), here)
    torch.testing.assert_close(first, pieces_of(torch.from_numpy(moved), there))
    assert not torch.allclose(first, pieces_of(torch.from_numpy(moved), here))
    rim = pieces_of(torch.from_numpy(image), torch.tensor([[-2.0, 66.0]]))
    assert torch.isfinite(rim).all()


def test_a_quarter_turn_changes_nothing_that_is_told() -> None:
    yaw, goal = some(50), torch.cat([some(50, 3, seed=1), some(50, 1, seed=2)], 1)
    tip, thing = (some(50, 3, seed=3), some(50, 3, seed=4)), (some(50, 3, seed=5),) * 2
    actions = some(50, 2, 3, seed=6)
    told, face = pose_features(yaw, tip, thing, goal)
    motion = motion_features(yaw, tip, thing, actions)
    for turns in (1, 2, -1):
        turned = yaw + turns * QUARTER
        again, _ = pose_features(turned, tip, thing, goal)
        torch.testing.assert_close(again, told, rtol=0, atol=1e-3)
        moved = motion_features(turned, tip, thing, actions)
        torch.testing.assert_close(moved, motion, rtol=0, atol=1e-3)
    ahead = face.to(tip[0] - thing[0])
    assert torch.all(ahead[:, 0] >= ahead[:, 1].abs() - 1e-5)  # the face nearest the tip
    torch.testing.assert_close(face.back(ahead), tip[0] - thing[0])


def test_a_mirrored_push_turns_the_other_way() -> None:
    torch.manual_seed(0)
    turn, mirror = Turn(2), torch.tensor([1.0, -1.0, 1.0])
    yaw, actions = some(20), some(20, 2, 3, seed=1)
    tip, thing = (some(20, 3, seed=2), some(20, 3, seed=3)), (some(20, 3, seed=4),) * 2
    with torch.inference_mode():
        turned = turn(motion_features(yaw, tip, thing, actions))
        mirrored = turn(
            motion_features(
                -yaw,
                (tip[0] * mirror, tip[1] * mirror),
                (thing[0] * mirror, thing[1] * mirror),
                actions * mirror,
            )
        )
    assert turned.abs().max() > 1e-4
    torch.testing.assert_close(mirrored, -turned)


def test_faces_of_broken_yaws_are_broken() -> None:
    face = Face(torch.tensor([math.nan]), torch.ones(1, 3))
    assert not torch.isfinite(face.to(torch.ones(1, 3))).all()


def test_the_yaw_goes_along_and_leaves_the_latent_alone(
    checkpoint: Checkpoint, poses: PoseDynamics
) -> None:
    z, z_prev = some(1, 64), some(1, 64, seed=1)
    actions = some(1, 5, 6, seed=2).clamp(-1.0, 1.0)
    with torch.inference_mode():
        alone = checkpoint.model.rollout(z, z_prev, actions)
        together = poses.rollout(*poses.joined(z, z_prev, 0.3), actions)
    torch.testing.assert_close(together[..., :-SEEN], alone)
    for subject in ('tip', 'object'):
        seen = checkpoint.probes.read(subject, alone)
        torch.testing.assert_close(poses.read(subject, together), seen)
    assert torch.isfinite(together[..., -1]).all()
    assert not torch.equal(together[..., -1], torch.full((1, 5), 0.3))


def make(checkpoint: Checkpoint, poses: PoseDynamics, heads: PoseHeads, runtime: str) -> Planner:
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, deadline_ms=float('inf'), runtime=runtime)
    return Planner(
        poses,
        poses.read,
        heads,
        checkpoint.contract,
        config,
        spread=poses.spread,
        reach=torch.tensor([[0.3, -0.3], [0.7, 0.3]]),
        compile_stages=stage_compiler(checkpoint, config, poses),
    )


def plan_of(planner: Planner, poses: PoseDynamics, yaw: float, goal: PositionGoal) -> Plan:
    return planner.plan(*start_at(poses, yaw), goal)


def start_at(poses: PoseDynamics, yaw: float) -> tuple[Tensor, Tensor]:
    """A latent that moves, and the one before it, with ``yaw`` (rad) beside them."""
    z, other = some(1, 64, seed=3), some(1, 64, seed=4)
    return poses.joined(z, z + 0.1 * other, yaw)


def test_compiled_plans_for_a_pose_are_those_of_torch(
    checkpoint: Checkpoint, poses: PoseDynamics, heads: PoseHeads
) -> None:
    goal = PositionGoal('object', PLACE, yaw=0.4)
    compiled = plan_of(make(checkpoint, poses, heads, 'openvino'), poses, 0.1, goal)
    plain = plan_of(make(checkpoint, poses, heads, 'torch'), poses, 0.1, goal)
    assert set(plain.terms) == {'distance', 'turn', 'value', 'press', 'away'}
    assert compiled.candidates == plain.candidates
    assert compiled.cost == pytest.approx(plain.cost, abs=0.3)  # bfloat16 on some processors
    start, blocks = start_at(poses, 0.1), compiled.actions.view(1, 5, 6)
    with torch.inference_mode():
        expected = poses.rollout(*start, blocks)[0]
    torch.testing.assert_close(compiled.latents, expected, rtol=0, atol=0.1)


def test_the_goals_yaw_decides(
    checkpoint: Checkpoint, poses: PoseDynamics, heads: PoseHeads
) -> None:
    planner = make(checkpoint, poses, heads, 'torch')
    place = np.asarray(poses.read('object', start_at(poses, 0.0)[0])[0])  # there it is
    first = plan_of(planner, poses, 0.0, PositionGoal('object', place, yaw=0.0))
    planner.reset()
    again = plan_of(planner, poses, 0.0, PositionGoal('object', place, yaw=QUARTER))
    planner.reset()
    other = plan_of(planner, poses, 0.0, PositionGoal('object', place, yaw=0.7))
    torch.testing.assert_close(again.actions, first.actions, rtol=0, atol=0.05)
    assert not torch.allclose(other.actions, first.actions, atol=0.05)


def test_what_was_read_is_weighed_by_how_sure_it_was() -> None:
    memory = YawMemory()
    assert memory.yaw is None
    memory.see(0.2, 0.03, PLACE)
    for _ in range(5):
        memory.see(-0.5, 0.6, PLACE)  # hidden
    assert memory.yaw == pytest.approx(0.2, abs=0.05)
    memory.see(-0.5, 0.03, PLACE + [0.05, 0.0, 0.0])  # pushed, and seen well
    assert memory.yaw == pytest.approx(-0.5, abs=0.05)
    memory.see(QUARTER / 2 + 0.1, 0.001, PLACE)
    assert abs(memory.yaw) <= QUARTER / 2


def test_yaws_that_cannot_be_asked_for() -> None:
    with pytest.raises(GoalError, match='for the tip'):
        PositionGoal('tip', PLACE, yaw=0.1)
    with pytest.raises(GoalError, match='finite'):
        PositionGoal('object', PLACE, yaw=math.nan)
