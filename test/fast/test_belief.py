"""The belief gives the latent a model step ago, whatever samples came."""

import pytest
import torch

from jepa_arm.belief import Belief


def fill(stamps: list[float]) -> Belief:
    """A belief whose latents equal their stamps."""
    belief = Belief(model_dt=0.2, control_dt=0.1)
    for stamp in stamps:
        belief.update(stamp, torch.tensor([[stamp]]))
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
        belief.update(stamp, torch.zeros(1, 1))
    assert belief.stamp == 0.3
