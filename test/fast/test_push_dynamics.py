"""Push dynamics: symmetries that hold whatever the network has learned."""

from __future__ import annotations

import math

import pytest
import torch

from jepa_arm.core.geometry import QUARTER
from jepa_arm.model.heads.push_dynamics import ObjectPose, PushDynamics


@pytest.fixture
def push_dynamics() -> PushDynamics:
    """Push dynamics with a random last layer, which is zero before training."""
    torch.manual_seed(0)
    made = PushDynamics().requires_grad_(False)
    torch.nn.init.normal_(made.net[-1].weight)
    return made


def scene() -> tuple[ObjectPose, torch.Tensor]:
    """Eight moving objects, with tips around them."""
    generator = torch.Generator().manual_seed(1)
    position = torch.rand(8, 3, generator=generator) - 0.5
    yaw = 2.0 * math.pi * torch.rand(8, generator=generator)
    position_step = 0.02 * torch.randn(8, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.0])
    yaw_step = 0.1 * torch.randn(8, generator=generator)
    tips = position[:, None] + 0.05 * torch.randn(8, 3, 3, generator=generator)
    return ObjectPose(position, yaw, position_step, yaw_step), tips


def rotated(vectors: torch.Tensor, angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return vectors @ torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def test_an_untrained_network_predicts_no_motion() -> None:
    pose, tips = scene()
    after = PushDynamics()(pose, tips)
    assert torch.equal(after.position, pose.position) and torch.equal(after.yaw, pose.yaw)


@pytest.mark.parametrize('angle', [0.3, 2.5])
def test_prediction_is_equivariant_to_planar_motion_of_the_scene(
    push_dynamics: PushDynamics, angle: float
) -> None:
    pose, tips = scene()
    shift = torch.tensor([0.2, -0.1, 0.0])
    there = ObjectPose(
        rotated(pose.position, angle) + shift,
        pose.yaw + angle,
        rotated(pose.position_step, angle),
        pose.yaw_step,
    )
    here, there = push_dynamics(pose, tips), push_dynamics(there, rotated(tips, angle) + shift)
    torch.testing.assert_close(there.position, rotated(here.position, angle) + shift)
    torch.testing.assert_close(there.yaw, here.yaw + angle)
    torch.testing.assert_close(there.position_step, rotated(here.position_step, angle))


def test_prediction_is_the_same_for_all_four_faces(push_dynamics: PushDynamics) -> None:
    pose, tips = scene()
    other = ObjectPose(pose.position, pose.yaw + QUARTER, pose.position_step, pose.yaw_step)
    torch.testing.assert_close(
        push_dynamics(other, tips).position, push_dynamics(pose, tips).position
    )


def test_a_mirrored_push_gives_mirrored_motion(push_dynamics: PushDynamics) -> None:
    pose, tips = scene()
    mirror = torch.tensor([1.0, -1.0, 1.0])
    other = ObjectPose(
        pose.position * mirror, -pose.yaw, pose.position_step * mirror, -pose.yaw_step
    )
    here, there = push_dynamics(pose, tips), push_dynamics(other, tips * mirror)
    torch.testing.assert_close(there.position, here.position * mirror)
    torch.testing.assert_close(there.yaw, -here.yaw)


def test_nothing_moves_if_tip_and_object_rest(push_dynamics: PushDynamics) -> None:
    pose, tips = scene()
    after = push_dynamics(pose.at_rest(), tips[:, :1].expand(-1, 3, -1))
    assert torch.equal(after.position, pose.position) and torch.equal(after.yaw, pose.yaw)


def test_an_object_keeps_its_height(push_dynamics: PushDynamics) -> None:
    pose, tips = scene()
    after = push_dynamics(pose, tips)
    assert torch.equal(after.position[:, 2], pose.position[:, 2])
    assert not torch.equal(after.position, pose.position)
