"""The belief tells what is, whatever images came, and refuses to tell what it cannot know."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jepa_arm.belief import KEPT_S, Belief, BlindError
from jepa_arm.config import TimeConfig
from jepa_arm.model.belief_heads import BeliefHeads, StateEncoder
from jepa_arm.model.pushing import ObjectPose, Pushing
from jepa_arm.model.world_model import Normaliser
from jepa_arm.surprise import ALARM_S, fit_level

TIME = TimeConfig(physics_dt=0.005, stream_dt=0.01, control_dt=0.1, frame_skip=2)
PROPRIO = torch.zeros(1, 7)
NORMALISER = Normaliser(0.5, 0.1, (0.0,) * 7, (1.0,) * 7)


class Drift:
    """Latents of one number that go on as they went, plus the sum of the actions."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + (z - z_prev) + action_block.sum(-1, keepdim=True)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        latents = []
        for block in actions.unbind(1):
            z, z_prev = self.predict(z, z_prev, block), z
            latents.append(z)
        return torch.stack(latents, 1)


class Places(StateEncoder):
    """Latents that are the object's x."""

    def forward(self, proprio: Tensor, place: Tensor, yaw: Tensor) -> Tensor:
        return place[:, :1]


def place_in(z: Tensor) -> Tensor:
    """(1, 3) the place of an object in the latent ``z`` (1, 1)."""
    return torch.cat([z, 0.0 * z, 0.0 * z], dim=1)


class GoesOn(Pushing):
    """Objects that go on as they went."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, place=pose.place + pose.moved)


def heads() -> BeliefHeads:
    """Latents are where the object is, which goes on as it went; else untrained."""
    torch.manual_seed(0)
    made = BeliefHeads(1, NORMALISER, 2, 4, (16, 16)).eval().requires_grad_(False)
    made.state, made.pushing = Places(1, NORMALISER), GoesOn()
    return made


def fill(stamps: list[float], with_heads: bool = True) -> Belief:
    """A belief whose latents equal their stamps."""
    belief = Belief(Drift(), heads() if with_heads else None, TIME, width=1, read=place_in)
    for stamp in stamps:
        belief.see(stamp, torch.tensor([[stamp]]), PROPRIO)
    return belief


def test_regular_samples_give_the_latent_two_control_steps_ago() -> None:
    z, z_prev = fill([0.0, 0.1, 0.2, 0.3]).now()
    torch.testing.assert_close(torch.cat([z, z_prev]), torch.tensor([[0.3], [0.1]]))


def test_a_missing_sample_is_bridged() -> None:
    z, z_prev = fill([0.0, 0.3, 0.4]).now()
    torch.testing.assert_close(torch.cat([z, z_prev]), torch.tensor([[0.4], [0.2]]))


def test_before_a_model_step_has_passed_the_arm_is_taken_to_rest() -> None:
    z, z_prev = fill([1.0]).now()
    torch.testing.assert_close(z, z_prev)


@pytest.mark.parametrize('stamp', [0.3, 0.1])
def test_a_stamp_that_is_not_newer_is_refused_and_changes_nothing(stamp: float) -> None:
    belief = fill([0.0, 0.3])
    with pytest.raises(ValueError, match='newer than 0.300 s'):
        belief.see(stamp, torch.zeros(1, 1), PROPRIO)
    assert belief.stamp == 0.3


def test_without_images_the_object_goes_on_and_it_knows_for_how_long() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3])
    for stamp in (0.4, 0.5, 0.6):
        belief.feel(stamp, PROPRIO)
    torch.testing.assert_close(torch.cat(belief.now()), torch.tensor([[0.6], [0.4]]))
    assert belief.blind_for == pytest.approx(0.3)


class Sum(Drift):
    """Latents that move by the actions at work and rest otherwise."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + action_block.sum(-1, keepdim=True)


@pytest.mark.parametrize('waits', [0, 1, 2, 3])
def test_plans_start_where_the_actions_that_still_wait_will_have_led(waits: int) -> None:
    belief, sent = (
        Belief(Sum(), None, TIME, width=1, read=place_in),
        [1.0, 10.0, 100.0, 1000.0, 10000.0],
    )
    belief.waits = waits
    place = [sum(sent[: max(0, i - waits)], 0.0) for i in range(20)]  # where it is at step i
    for i, action in enumerate(sent):
        belief.see(i * 0.1, torch.tensor([[place[i]]]), PROPRIO)
        belief.act(i * 0.1, torch.tensor([action]))
    belief.see(0.5, torch.tensor([[place[5]]]), PROPRIO)
    z, z_prev, before = belief.ahead()
    assert float(z) == sum(sent) and float(z_prev) == place[5 + waits - 2]
    assert before is None if waits == 0 else float(before) == sent[-1]


def wait(sent: dict[float, float], waits: int) -> Belief:
    """A belief at 0.5 s, half a step late beyond ``waits``; the arm has not moved yet."""
    belief = Belief(Sum(), None, TIME, width=1, read=place_in)
    belief.waits, belief.late = waits, 0.5
    for i in range(6):
        belief.see(i * 0.1, torch.zeros(1, 1), PROPRIO)
    for stamp, action in sent.items():
        belief.act(stamp, torch.tensor([action]))
    return belief


def test_what_a_late_action_has_left_to_do_is_not_lost_between_two_model_steps() -> None:
    """The rest of the second action was, where the wait is longer than a model step."""
    z, _, before = wait({0.1: 1.0, 0.2: 10.0, 0.3: 100.0, 0.4: 1000.0}, waits=3).ahead()
    torch.testing.assert_close(z, torch.tensor([[111.0 + 0.5 * 1000.0]]))
    torch.testing.assert_close(before, torch.tensor([1000.0]))


def test_an_action_that_is_over_when_the_plan_begins_has_nothing_left_to_do() -> None:
    """It was done half again where no decision had been made at 0.4 s."""
    z, _, before = wait({0.3: 1.0}, waits=1).ahead()
    torch.testing.assert_close(z, torch.tensor([[1.0]]))
    torch.testing.assert_close(before, torch.tensor([0.0]))


def test_the_actions_of_the_last_model_step_are_at_work() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3])
    belief.act(0.1, torch.tensor([100.0]))  # at work from 0.1 to 0.2: before the model step
    belief.act(0.2, torch.tensor([1.0]))
    belief.act(0.3, torch.tensor([2.0]))
    torch.testing.assert_close(belief.prior(0.4).predicted, torch.tensor([[3.4]]))


def test_a_late_image_is_put_where_it_belongs_and_what_followed_is_worked_out_anew() -> None:
    seen, late = fill([0.0, 0.1, 0.2, 0.3]), fill([0.0, 0.1, 0.2, 0.3])
    surprising = torch.tensor([[5.0]])
    seen.see(0.4, surprising, PROPRIO)
    late.feel(0.4, PROPRIO)
    for stamp in (0.5, 0.6):
        seen.feel(stamp, PROPRIO)
        late.feel(stamp, PROPRIO)
    assert not torch.allclose(late.now()[0], seen.now()[0])
    late.see(0.4, surprising, PROPRIO)
    torch.testing.assert_close(torch.cat(late.now()), torch.cat(seen.now()))
    assert late.blind_for == pytest.approx(0.2)


def test_a_step_that_was_left_out_is_made_up_for() -> None:
    with_all, with_gap = fill([0.0, 0.1, 0.2]), fill([0.0, 0.1, 0.2])
    for stamp in (0.3, 0.4, 0.5):
        with_all.feel(stamp, PROPRIO)
    with_gap.feel(0.5, PROPRIO)
    torch.testing.assert_close(torch.cat(with_gap.now()), torch.cat(with_all.now()))


def test_nothing_is_believed_without_heads_or_before_the_first_image_or_after_too_long() -> None:
    with pytest.raises(BlindError, match='no belief heads'):
        fill([0.0, 0.1], with_heads=False).feel(0.2, PROPRIO)
    with pytest.raises(BlindError, match='no image'):
        fill([]).feel(0.2, PROPRIO)
    belief = fill([0.0, 0.1])
    with pytest.raises(BlindError, match='ago'):
        belief.feel(0.2 + KEPT_S, PROPRIO)
    assert belief.stamp == 0.1


class Carried(Pushing):
    """Objects that stick to the tip."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, place=pose.place + tips[:, 2] - tips[:, 1])


def tip_at(x: float) -> Tensor:
    return torch.tensor([[0.0, x, 0.0, 0.0, 0.0, 0.0, 0.0]])


def follower() -> Belief:
    """The object sticks to the tip."""
    made = heads()
    made.pushing = Carried()
    return Belief(Sum(), made, TIME, 1, read=place_in)


def test_an_object_that_is_pushed_unseen_is_believed_where_the_tip_has_pushed_it() -> None:
    belief, looks = follower(), []
    for i in range(3):

        def look(image: int = i) -> float:
            looks.append(image)
            return 0.0

        belief.see(0.1 * i, torch.tensor([[5.0]]), tip_at(0.0), look)
    assert looks == []
    for i in range(1, 5):
        belief.feel(0.2 + 0.1 * i, tip_at(float(i)))
        torch.testing.assert_close(belief.now()[0], torch.tensor([[5.0 + i]]))
    assert looks == [2]  # once, in the last image


def test_a_late_image_tells_anew_where_the_object_was_pushed_from() -> None:
    belief = follower()
    for i in range(3):
        belief.see(0.1 * i, torch.tensor([[5.0]]), tip_at(0.0), lambda: 0.0)
    for i in range(1, 4):
        belief.feel(0.2 + 0.1 * i, tip_at(float(i)))
    belief.see(0.3, torch.tensor([[7.0]]), tip_at(1.0), lambda: 0.0)
    torch.testing.assert_close(belief.now()[0], torch.tensor([[9.0]]))


class Turned(Pushing):
    """Objects that go as far as they are turned."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, place=pose.place + pose.yaw[:, None])


@pytest.mark.parametrize(
    ('look', 'way'), [(lambda: 0.2, 0.2), (lambda: None, 0.589), (None, 0.589)]
)
def test_an_object_of_unknown_yaw_is_where_it_would_be_in_the_mean_of_yaws(
    look: Callable[[], float | None] | None, way: float
) -> None:
    made = heads()
    made.pushing = Turned()
    made.doubt.unit[0] = 7.0  # of what is unknown
    belief = Belief(Sum(), made, TIME, 1, read=place_in)
    belief.see(0.0, torch.tensor([[5.0]]), PROPRIO, look)
    seen = belief.doubt()
    belief.feel(0.1, PROPRIO)
    torch.testing.assert_close(belief.now()[0], torch.tensor([[5.0 + way]]), atol=1e-3, rtol=0.0)
    assert (belief.doubt() > 3.0 * seen).all() == (way > 0.5)


def test_what_was_believed_tells_no_velocity() -> None:
    """An image that comes after a blackout shows the object elsewhere, not on its way."""
    belief = fill([0.0, 0.1, 0.2])
    belief.feel(0.3, PROPRIO)
    belief.see(0.4, torch.tensor([[9.0]]), PROPRIO)
    belief.feel(0.5, PROPRIO)
    torch.testing.assert_close(belief.now()[0], torch.tensor([[9.0]]))


def test_a_blackout_longer_than_what_is_remembered_is_still_counted_whole() -> None:
    belief = fill([0.0, 0.1])
    for i in range(2, 40):
        belief.feel(0.1 * i, PROPRIO)
    assert belief.blind_for == pytest.approx(3.8)
    assert torch.isfinite(belief.doubt()).all()


def test_an_expectation_after_a_blackout_does_not_pass_for_one_from_images() -> None:
    belief = fill([0.0, 0.1, 0.2, 0.3, 0.4])
    assert belief.prior(0.5).is_seen
    belief.feel(0.5, PROPRIO)
    assert not belief.prior(0.6).is_seen


def test_nor_does_one_that_nothing_was_added_to_since_the_blackout() -> None:
    """After a rest of more than a model step it did."""
    belief = fill([0.0, 0.1, 0.2, 0.3, 0.4])
    assert belief.prior(2.0).is_seen  # of a world at rest
    belief.feel(0.5, PROPRIO)
    assert not belief.prior(2.0).is_seen


def test_a_frame_tells_what_was_felt_and_told_in_the_control_steps_before() -> None:
    belief = fill([])
    felt = torch.arange(35.0).view(5, 1, 7)
    for i in range(4):
        belief.see(0.1 * i, torch.zeros(1, 1), felt[i])
    frame = belief.frame(0.4, torch.zeros(1, 1), felt[4], torch.zeros(1, 4))
    assert frame is not None
    torch.testing.assert_close(frame.recent, torch.stack([felt[3], felt[2]], dim=1))
    targets = torch.stack([one[:, 1:4] + one[:, 4:] for one in (felt[4], felt[3])], dim=1)
    torch.testing.assert_close(frame.told, targets)
    late = belief.frame(0.4, torch.zeros(1, 1), felt[4], torch.zeros(1, 4), told=targets - 1.0)
    assert late is not None and torch.equal(late.told, targets - 1.0)


def test_the_level_of_surprise_is_passed_once_in_its_time_though_channels_depend() -> None:
    generator = torch.Generator().manual_seed(0)
    hours = 100
    alone = torch.rand(hours * 36000, 1, generator=generator).log().neg()
    both = torch.cat([alone, alone + 0.1 * torch.rand(alone.shape, generator=generator)], dim=1)
    level = fit_level(both[:20000].amax(-1), 0.1)
    alarms = int((both.amax(-1) > level).sum())
    assert 0.5 < alarms / (hours * 3600.0 / ALARM_S) < 2.0
