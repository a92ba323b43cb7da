"""The belief is carried on while images are late or missing, as long as it can be."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.belief.belief import HISTORY_S, Belief, BlindError, EncodedObservation
from jepa_arm.belief.surprise import ALARM_PERIOD_S, fit_alarm_threshold
from jepa_arm.config import TimeConfig
from jepa_arm.model.heads.belief_heads import BeliefHeads, StateEncoder
from jepa_arm.model.heads.push_dynamics import ObjectPose, PushDynamics
from jepa_arm.model.world_model import Normaliser

TIME = TimeConfig(physics_dt=0.005, stream_dt=0.01, control_dt=0.1, frame_skip=2)
PROPRIO = torch.zeros(1, 7)
NORMALISER = Normaliser(0.5, 0.1, (0.0,) * 7, (1.0,) * 7)


class ConstantVelocity:
    """Latents (one number) with constant velocity, plus the sum of the actions."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + (z - z_prev) + action_block.sum(-1, keepdim=True)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        latents = []
        for block in actions.unbind(1):
            z, z_prev = self.predict(z, z_prev, block), z
            latents.append(z)
        return torch.stack(latents, 1)


class PositionLatents(StateEncoder):
    """Latents that are the object's x."""

    def forward(self, proprio: Tensor, place: Tensor, yaw: Tensor) -> Tensor:
        return place[:, :1]


def position_in(z: Tensor) -> Tensor:
    """Return the object's position (1, 3) in the latent ``z`` (1, 1)."""
    return torch.cat([z, 0.0 * z, 0.0 * z], dim=1)


class ConstantMotion(PushDynamics):
    """Objects that repeat their last step."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, position=pose.position + pose.position_step)


def heads() -> BeliefHeads:
    """Return heads whose latents are the object's x, which repeats its last step."""
    torch.manual_seed(0)
    made = BeliefHeads(1, NORMALISER, 2, 4, (16, 16)).eval().requires_grad_(False)
    made.state_encoder, made.push_dynamics = PositionLatents(1, NORMALISER), ConstantMotion()
    return made


def fill(stamps: list[float], with_heads: bool = True) -> Belief:
    """Return a belief whose latents equal their stamps."""
    belief = Belief(
        ConstantVelocity(), heads() if with_heads else None, TIME, action_width=1, read=position_in
    )
    for stamp in stamps:
        belief.update(stamp, torch.tensor([[stamp]]), PROPRIO)
    return belief


def test_z_prev_is_the_latent_two_control_steps_before() -> None:
    z, z_prev = fill([0.0, 0.1, 0.2, 0.3]).current()
    torch.testing.assert_close(torch.cat([z, z_prev]), torch.tensor([[0.3], [0.1]]))


def test_a_missing_sample_is_interpolated() -> None:
    z, z_prev = fill([0.0, 0.3, 0.4]).current()
    torch.testing.assert_close(torch.cat([z, z_prev]), torch.tensor([[0.4], [0.2]]))


def test_in_the_first_model_step_the_arm_is_assumed_to_have_rested() -> None:
    z, z_prev = fill([1.0]).current()
    torch.testing.assert_close(z, z_prev)


@pytest.mark.parametrize('stamp', [0.3, 0.1])
def test_a_stamp_that_is_not_newer_is_refused_and_changes_nothing(stamp: float) -> None:
    belief = fill([0.0, 0.3])
    with pytest.raises(ValueError, match='newer than 0.300 s'):
        belief.update(stamp, torch.zeros(1, 1), PROPRIO)
    assert belief.stamp == 0.3


def test_without_images_the_object_is_predicted_and_blindness_is_timed() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3])
    for stamp in (0.4, 0.5, 0.6):
        belief.update_blind(stamp, PROPRIO)
    torch.testing.assert_close(torch.cat(belief.current()), torch.tensor([[0.6], [0.4]]))
    assert belief.blind_for == pytest.approx(0.3)


class SummedActions(ConstantVelocity):
    """Latents that move by the actions and rest otherwise."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + action_block.sum(-1, keepdim=True)


@pytest.mark.parametrize('delay_steps', [0, 1, 2, 3])
def test_plans_start_after_the_actions_that_are_under_way(delay_steps: int) -> None:
    belief = Belief(SummedActions(), None, TIME, action_width=1, read=position_in)
    sent = [1.0, 10.0, 100.0, 1000.0, 10000.0]
    belief.delay_steps = delay_steps
    place = [sum(sent[: max(0, i - delay_steps)], 0.0) for i in range(20)]  # where it is at step i
    for i, action in enumerate(sent):
        belief.update(i * 0.1, torch.tensor([[place[i]]]), PROPRIO)
        belief.record_action(i * 0.1, torch.tensor([action]))
    belief.update(0.5, torch.tensor([[place[5]]]), PROPRIO)
    z, z_prev, before = belief.predict_start()
    assert float(z) == sum(sent) and float(z_prev) == place[5 + delay_steps - 2]
    if delay_steps == 0:
        assert before is None
    else:
        assert before is not None and float(before) == sent[-1]


def delayed_belief(sent: dict[float, float], delay_steps: int) -> Belief:
    """Return a belief at 0.5 s of an arm that has not moved, with half a step more delay."""
    belief = Belief(SummedActions(), None, TIME, action_width=1, read=position_in)
    belief.delay_steps, belief.delay_fraction = delay_steps, 0.5
    for i in range(6):
        belief.update(i * 0.1, torch.zeros(1, 1), PROPRIO)
    for stamp, action in sent.items():
        belief.record_action(stamp, torch.tensor([action]))
    return belief


def test_the_rest_of_a_late_action_passes_to_the_next_model_step() -> None:

    z, _, before = delayed_belief(
        {0.1: 1.0, 0.2: 10.0, 0.3: 100.0, 0.4: 1000.0}, delay_steps=3
    ).predict_start()
    torch.testing.assert_close(z, torch.tensor([[111.0 + 0.5 * 1000.0]]))
    torch.testing.assert_close(before, torch.tensor([1000.0]))


def test_an_action_that_ended_before_the_plan_starts_has_no_further_effect() -> None:
    z, _, before = delayed_belief({0.3: 1.0}, delay_steps=1).predict_start()
    torch.testing.assert_close(z, torch.tensor([[1.0]]))
    torch.testing.assert_close(before, torch.tensor([0.0]))


def test_only_the_actions_of_the_last_model_step_are_applied() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3])
    belief.record_action(
        0.1, torch.tensor([100.0])
    )  # works from 0.1 to 0.2 s, before the model step
    belief.record_action(0.2, torch.tensor([1.0]))
    belief.record_action(0.3, torch.tensor([2.0]))
    torch.testing.assert_close(belief.predict(0.4).predicted, torch.tensor([[3.4]]))


def test_a_late_image_is_inserted_and_later_steps_are_predicted_again() -> None:
    seen, late = fill([0.0, 0.1, 0.2, 0.3]), fill([0.0, 0.1, 0.2, 0.3])
    surprising = torch.tensor([[5.0]])
    seen.update(0.4, surprising, PROPRIO)
    late.update_blind(0.4, PROPRIO)
    for stamp in (0.5, 0.6):
        seen.update_blind(stamp, PROPRIO)
        late.update_blind(stamp, PROPRIO)
    assert not torch.allclose(late.current()[0], seen.current()[0])
    late.update(0.4, surprising, PROPRIO)
    torch.testing.assert_close(torch.cat(late.current()), torch.cat(seen.current()))
    assert late.blind_for == pytest.approx(0.2)


def test_a_skipped_step_is_filled_in() -> None:
    with_all, with_gap = fill([0.0, 0.1, 0.2]), fill([0.0, 0.1, 0.2])
    for stamp in (0.3, 0.4, 0.5):
        with_all.update_blind(stamp, PROPRIO)
    with_gap.update_blind(0.5, PROPRIO)
    torch.testing.assert_close(torch.cat(with_gap.current()), torch.cat(with_all.current()))


def test_blind_updates_need_heads_an_image_and_a_short_gap() -> None:
    with pytest.raises(BlindError, match='no belief heads'):
        fill([0.0, 0.1], with_heads=False).update_blind(0.2, PROPRIO)
    with pytest.raises(BlindError, match='no image'):
        fill([]).update_blind(0.2, PROPRIO)
    belief = fill([0.0, 0.1])
    with pytest.raises(BlindError, match='ago'):
        belief.update_blind(0.2 + HISTORY_S, PROPRIO)
    assert belief.stamp == 0.1


class CarriedObject(PushDynamics):
    """Objects that stick to the tip."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, position=pose.position + tips[:, 2] - tips[:, 1])


def tip_at(x: float) -> Tensor:
    return torch.tensor([[0.0, x, 0.0, 0.0, 0.0, 0.0, 0.0]])


def belief_of_carried_object() -> Belief:
    """Return a belief whose object sticks to the tip."""
    made = heads()
    made.push_dynamics = CarriedObject()
    return Belief(SummedActions(), made, TIME, action_width=1, read=position_in)


def test_an_unseen_object_moves_with_the_tip_and_its_yaw_is_read_once() -> None:
    belief, reads = belief_of_carried_object(), []
    for i in range(3):

        def read_yaw(image: int = i) -> float:
            reads.append(image)
            return 0.0

        belief.update(0.1 * i, torch.tensor([[5.0]]), tip_at(0.0), read_yaw)
    assert reads == []
    for i in range(1, 5):
        belief.update_blind(0.2 + 0.1 * i, tip_at(float(i)))
        torch.testing.assert_close(belief.current()[0], torch.tensor([[5.0 + i]]))
    assert reads == [2]  # once, in the last image


def test_a_late_image_corrects_where_the_object_was_pushed_from() -> None:
    belief = belief_of_carried_object()
    for i in range(3):
        belief.update(0.1 * i, torch.tensor([[5.0]]), tip_at(0.0), lambda: 0.0)
    for i in range(1, 4):
        belief.update_blind(0.2 + 0.1 * i, tip_at(float(i)))
    belief.update(0.3, torch.tensor([[7.0]]), tip_at(1.0), lambda: 0.0)
    torch.testing.assert_close(belief.current()[0], torch.tensor([[9.0]]))


class YawDisplacement(PushDynamics):
    """Objects that move by their yaw."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, position=pose.position + pose.yaw[:, None])


@pytest.mark.parametrize(
    ('read_yaw', 'displacement'), [(lambda: 0.2, 0.2), (lambda: None, 0.589), (None, 0.589)]
)
def test_an_object_of_unknown_yaw_is_at_the_mean_of_its_hypotheses(
    read_yaw: Callable[[], float | None] | None, displacement: float
) -> None:
    made = heads()
    made.push_dynamics = YawDisplacement()
    made.position_std.scale[0] = 7.0  # of what is unknown
    belief = Belief(SummedActions(), made, TIME, action_width=1, read=position_in)
    belief.update(0.0, torch.tensor([[5.0]]), PROPRIO, read_yaw)
    seen = belief.position_std()
    belief.update_blind(0.1, PROPRIO)
    torch.testing.assert_close(
        belief.current()[0], torch.tensor([[5.0 + displacement]]), atol=1e-3, rtol=0.0
    )
    assert (belief.position_std() > 3.0 * seen).all() == (displacement > 0.5)


def test_the_object_has_no_velocity_after_a_blackout() -> None:
    """An image that comes after a blackout shows the object elsewhere, not on its displacement."""
    belief = fill([0.0, 0.1, 0.2])
    belief.update_blind(0.3, PROPRIO)
    belief.update(0.4, torch.tensor([[9.0]]), PROPRIO)
    belief.update_blind(0.5, PROPRIO)
    torch.testing.assert_close(belief.current()[0], torch.tensor([[9.0]]))


def test_a_blackout_longer_than_the_history_is_timed_as_a_whole() -> None:
    belief = fill([0.0, 0.1])
    for i in range(2, 40):
        belief.update_blind(0.1 * i, PROPRIO)
    assert belief.blind_for == pytest.approx(3.8)
    assert torch.isfinite(belief.position_std()).all()


def test_a_prediction_after_a_blackout_does_not_rest_on_images() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3, 0.4])
    assert belief.rests_on_images(0.5)
    belief.update_blind(0.5, PROPRIO)
    assert not belief.rests_on_images(0.6)


def test_a_prediction_long_after_a_blackout_does_not_rest_on_images_either() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3, 0.4])
    assert belief.rests_on_images(2.0)  # of a world at rest
    belief.update_blind(0.5, PROPRIO)
    assert not belief.rests_on_images(2.0)


def test_a_frame_contains_proprioception_and_setpoints_of_the_control_steps_before() -> None:
    belief = fill([])
    proprio = torch.arange(35.0).view(5, 1, 7)
    for i in range(4):
        belief.update(0.1 * i, torch.zeros(1, 1), proprio[i])
    image = np.zeros((1, 4, 4, 3), np.uint8)
    encoded = EncodedObservation(0.4, image, proprio[4], torch.zeros(1, 1), torch.zeros(1, 4))
    frame = belief.compare(encoded)
    assert frame is not None
    torch.testing.assert_close(frame.recent, torch.stack([proprio[3], proprio[2]], dim=1))
    setpoints = torch.stack([row[:, 1:4] + row[:, 4:] for row in (proprio[4], proprio[3])], dim=1)
    torch.testing.assert_close(frame.tip_setpoints, setpoints)
    delayed = belief.compare(encoded, tip_setpoints=setpoints - 1.0)
    assert delayed is not None and torch.equal(delayed.tip_setpoints, setpoints - 1.0)


def test_the_alarm_threshold_gives_the_wanted_rate_also_for_dependent_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    hours = 100
    alone = torch.rand(hours * 36000, 1, generator=generator).log().neg()
    both = torch.cat([alone, alone + 0.1 * torch.rand(alone.shape, generator=generator)], dim=1)
    level = fit_alarm_threshold(both[:20000].amax(-1), 0.1)
    alarms = int((both.amax(-1) > level).sum())
    assert 0.5 < alarms / (hours * 3600.0 / ALARM_PERIOD_S) < 2.0
