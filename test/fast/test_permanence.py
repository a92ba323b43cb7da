"""What something hides is remembered, as long as memory is the better witness."""

import pytest
import torch
from torch import Tensor

from jepa_arm.belief import Belief
from jepa_arm.config import TimeConfig
from jepa_arm.model.belief_heads import BeliefHeads
from jepa_arm.model.probes import Probes
from jepa_arm.model.world_model import Normaliser
from jepa_arm.permanence import HIDDEN_S, remembered

TIME = TimeConfig(physics_dt=0.005, stream_dt=0.01, control_dt=0.1, frame_skip=2)
WIDTH = 13
"""Of proprioception, of which the tip is the second last third."""
HERE, THERE, FEATURES = torch.zeros(1, WIDTH), torch.full((1, WIDTH), 0.3), torch.zeros(1, 4)
SURE_M, UNSURE_M = 0.004, 0.05


class Rest:
    """Nothing moves."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        return z[:, None].expand(-1, actions.shape[1], -1)


def constant(network: torch.nn.Module, value: float = 0.0) -> None:
    for parameter in network.parameters():
        parameter.detach().fill_(value)


@pytest.fixture
def probes() -> Probes:
    """Of one number; ``unit`` is the error of a reading divided by the root of 3."""
    probes = Probes(1)
    constant(probes.object_position.spread)
    return probes.eval().requires_grad_(False)


@pytest.fixture
def heads() -> BeliefHeads:
    """The image always shows the tip at 0; the doubt of the belief is 1 cm."""
    heads = BeliefHeads(1, Normaliser(0.5, 0.1, (0.0,) * WIDTH, (1.0,) * WIDTH), 2, 4)
    for part in (heads.correction, heads.doubt, heads.sight):
        constant(part)
    heads.doubt.unit.fill_(1.0)
    return heads.eval().requires_grad_(False)


def known(heads: BeliefHeads, blind: float = 0.0) -> Belief:
    """A belief that saw the latent 7 for half a second, then nothing for ``blind`` s."""
    belief = Belief(Rest(), heads, TIME, width=1)
    for i in range(6):
        belief.see(0.1 * i, torch.full((1, 1), 7.0), HERE)
    for i in range(round(blind / 0.1)):
        belief.feel(0.6 + 0.1 * i, HERE)
    return belief


def look(
    belief: Belief, probes: Probes, heads: BeliefHeads | None, felt: Tensor = HERE
) -> Belief | None:
    assert belief.stamp is not None
    z = torch.zeros(1, 1)
    return remembered(belief, probes, heads, belief.stamp + 0.1, z, felt, FEATURES)


def test_an_object_that_cannot_be_read_is_where_it_was(probes: Probes, heads: BeliefHeads) -> None:
    probes.object_position.unit.fill_(UNSURE_M)
    belief = known(heads)
    found = look(belief, probes, heads)
    assert found is not None and float(found.now()[0]) == 7.0
    assert found.blind_for == pytest.approx(0.1) and belief.blind_for == 0.0  # as it was


def test_the_image_is_believed_where_it_is_sure_or_memory_is_not(
    probes: Probes, heads: BeliefHeads
) -> None:
    probes.object_position.unit.fill_(SURE_M)
    assert look(known(heads), probes, heads) is None
    probes.object_position.unit.fill_(UNSURE_M)
    assert look(known(heads), probes, None) is None
    heads.doubt.unit.fill_(2.0 * 100.0 * UNSURE_M)
    assert look(known(heads), probes, heads) is None


def test_an_image_that_shows_the_arm_elsewhere_is_no_matter_of_hiding(
    probes: Probes, heads: BeliefHeads
) -> None:
    probes.object_position.unit.fill_(UNSURE_M)
    assert look(known(heads), probes, heads, THERE) is None


def test_nothing_is_remembered_for_ever(probes: Probes, heads: BeliefHeads) -> None:
    probes.object_position.unit.fill_(UNSURE_M)
    assert look(known(heads, HIDDEN_S - 0.2), probes, heads) is not None
    assert look(known(heads, HIDDEN_S + 0.1), probes, heads) is None


def test_before_anything_was_seen_the_image_is_all_there_is(
    probes: Probes, heads: BeliefHeads
) -> None:
    probes.object_position.unit.fill_(UNSURE_M)
    empty = Belief(Rest(), heads, TIME, width=1)
    z = torch.zeros(1, 1)
    assert remembered(empty, probes, heads, 1.0, z, HERE, FEATURES) is None
