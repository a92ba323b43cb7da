"""The learned model of planar pushing: what it must do whatever it has learned."""

from __future__ import annotations

import math

import pytest
import torch

from jepa_arm.angles import QUARTER
from jepa_arm.model.pushing import ObjectPose, Pushing


@pytest.fixture
def pushing() -> Pushing:
    """As if taught: its last layer, which is zero at first, is random."""
    torch.manual_seed(0)
    made = Pushing().requires_grad_(False)
    torch.nn.init.normal_(made.net[-1].weight)
    return made


def scene() -> tuple[ObjectPose, torch.Tensor]:
    """Eight objects on their way, with tips around them."""
    generator = torch.Generator().manual_seed(1)
    place = torch.rand(8, 3, generator=generator) - 0.5
    yaw = 2.0 * math.pi * torch.rand(8, generator=generator)
    moved = 0.02 * torch.randn(8, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.0])
    turned = 0.1 * torch.randn(8, generator=generator)
    tips = place[:, None] + 0.05 * torch.randn(8, 3, 3, generator=generator)
    return ObjectPose(place, yaw, moved, turned), tips


def rotated(way: torch.Tensor, angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return way @ torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def test_an_untaught_one_leaves_objects_where_they_are() -> None:
    pose, tips = scene()
    after = Pushing()(pose, tips)
    assert torch.equal(after.place, pose.place) and torch.equal(after.yaw, pose.yaw)


@pytest.mark.parametrize('angle', [0.3, 2.5])
def test_a_table_that_is_turned_and_shifted_changes_nothing(
    pushing: Pushing, angle: float
) -> None:
    pose, tips = scene()
    shift = torch.tensor([0.2, -0.1, 0.0])
    there = ObjectPose(
        rotated(pose.place, angle) + shift,
        pose.yaw + angle,
        rotated(pose.moved, angle),
        pose.turned,
    )
    here, there = pushing(pose, tips), pushing(there, rotated(tips, angle) + shift)
    torch.testing.assert_close(there.place, rotated(here.place, angle) + shift)
    torch.testing.assert_close(there.yaw, here.yaw + angle)
    torch.testing.assert_close(there.moved, rotated(here.moved, angle))


def test_a_square_has_four_equal_faces(pushing: Pushing) -> None:
    pose, tips = scene()
    other = ObjectPose(pose.place, pose.yaw + QUARTER, pose.moved, pose.turned)
    torch.testing.assert_close(pushing(other, tips).place, pushing(pose, tips).place)


def test_what_is_mirrored_moves_in_the_mirrored_way(pushing: Pushing) -> None:
    pose, tips = scene()
    mirror = torch.tensor([1.0, -1.0, 1.0])
    other = ObjectPose(pose.place * mirror, -pose.yaw, pose.moved * mirror, -pose.turned)
    here, there = pushing(pose, tips), pushing(other, tips * mirror)
    torch.testing.assert_close(there.place, here.place * mirror)
    torch.testing.assert_close(there.yaw, -here.yaw)


def test_where_nothing_stirs_nothing_moves(pushing: Pushing) -> None:
    pose, tips = scene()
    after = pushing(pose.at_rest(), tips[:, :1].expand(-1, 3, -1))
    assert torch.equal(after.place, pose.place) and torch.equal(after.yaw, pose.yaw)


def test_an_object_keeps_its_height(pushing: Pushing) -> None:
    pose, tips = scene()
    after = pushing(pose, tips)
    assert torch.equal(after.place[:, 2], pose.place[:, 2])
    assert not torch.equal(after.place, pose.place)
