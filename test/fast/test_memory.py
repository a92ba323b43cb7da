"""A belief outlasts its process in a file, and one that cannot be of here and now is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from jepa_arm import memory as module
from jepa_arm.agent import Agent
from jepa_arm.arm import Arm
from jepa_arm.belief import Belief
from jepa_arm.config import PlannerConfig, TimeConfig, load
from jepa_arm.goals import PositionGoal
from jepa_arm.memory import (
    Kept,
    RecallError,
    fingerprint,
    load_memory,
    save_memory,
    widths,
)
from jepa_arm.model.belief_heads import BeliefHeads, StateEncoder, load_belief_heads
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint
from jepa_arm.model.pushing import ObjectPose, Pushing
from jepa_arm.model.world_model import Normaliser
from jepa_arm.motion import ACTION_METRES
from jepa_arm.recall import recall
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.types import JointSample, Observation

OWNER = '/planner of domain 0'
TIME = TimeConfig(physics_dt=0.005, stream_dt=0.01, control_dt=0.1, frame_skip=2)


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    """The one that is shipped."""
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def agent(checkpoint: Checkpoint, arm: Arm) -> Agent:
    """One that has decided on seven images, on its way to a place."""
    config = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=float('inf'))
    agent = Agent(checkpoint, arm, config)
    agent.set_goal(PositionGoal('tip', np.array([0.6, 0.2, 0.1])))
    agent.latency = 0.15
    camera, rng = checkpoint.contract.camera, np.random.default_rng(0)
    for i in range(7):
        image = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        agent.decide(Observation(image, arm.home, 10.0 + 0.1 * i))
    return agent


@pytest.fixture
def kept(agent: Agent) -> Kept:
    """What it believes, of now."""
    memory = agent.memory()
    assert memory is not None
    return Kept(memory, time.monotonic())


@pytest.fixture
def file(kept: Kept, checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """The same in a file."""
    path = tmp_path / 'belief.safetensors'
    save_memory(path, kept, fingerprint(checkpoint), OWNER)
    return path


def read(path: Path, checkpoint: Checkpoint) -> Kept:
    return load_memory(path, widths(checkpoint), fingerprint(checkpoint), OWNER)


def test_what_comes_back_from_the_file_predicts_the_same(
    file: Path, kept: Kept, checkpoint: Checkpoint
) -> None:
    heads, time_config = load_belief_heads(checkpoint), checkpoint.contract.time
    place = checkpoint.probes.object_position
    before, after = (Belief(checkpoint.model, heads, time_config, 3, read=place) for _ in range(2))
    before.recall(kept.memory)
    after.recall(read(file, checkpoint).memory)
    felt = kept.memory.proprio[-1:]
    for belief in (before, after):
        assert belief.waits == 1 and belief.late == pytest.approx(0.5)
        belief.feel(10.7, felt)
    for a, b in zip(before.ahead(), after.ahead(), strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    assert torch.equal(before.doubt(), after.doubt())
    assert torch.equal(before.prior(10.8, 3).predicted, after.prior(10.8, 3).predicted)
    assert before.blind_for == after.blind_for == pytest.approx(0.1)


def test_keeping_a_belief_does_not_change_it(agent: Agent) -> None:
    first, second = agent.memory(), agent.memory()
    assert first is not None and second is not None
    first.z.zero_()
    assert second.z.abs().max() > 0.0 and len(second.coming) == 9


@pytest.mark.parametrize('share', [0.02, 0.2, 0.5, 0.999])
def test_one_flipped_bit_is_damage(file: Path, checkpoint: Checkpoint, share: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(RecallError):
        read(file, checkpoint)


@pytest.mark.parametrize('size', [0, 7, 2000])
def test_a_file_that_was_cut_off_is_damage(file: Path, checkpoint: Checkpoint, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RecallError, match='whole safetensors file'):
        read(file, checkpoint)


def test_other_weights_have_another_fingerprint_and_are_refused(
    file: Path, checkpoint: Checkpoint
) -> None:
    other = load_checkpoint(checkpoint_path('compact'))
    assert fingerprint(other) == fingerprint(checkpoint)
    next(other.model.parameters())[0] += 1e-3
    with pytest.raises(RecallError, match='another checkpoint'):
        read(file, other)


def test_the_belief_of_another_planner_is_refused(file: Path, checkpoint: Checkpoint) -> None:
    other = '/left/planner of domain 0'
    with pytest.raises(RecallError, match=f'expected that of {other}'):
        load_memory(file, widths(checkpoint), fingerprint(checkpoint), other)


def test_a_belief_from_before_the_machine_was_started_is_refused(
    file: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steady clock begins anew then, and says nothing of its age."""
    (tmp_path / 'boot').write_text('another')
    monkeypatch.setattr(module, 'BOOT_FILE', tmp_path / 'boot')
    with pytest.raises(RecallError, match='started anew'):
        read(file, checkpoint)


def rewrite(file: Path, checkpoint: Checkpoint, kept: Kept, **changed: torch.Tensor) -> None:
    save_memory(
        file, replace(kept, memory=replace(kept.memory, **changed)), fingerprint(checkpoint), OWNER
    )


BAD = {
    'not finite': lambda m: {'z': m.z * float('nan')},
    'other width': lambda m: {'z': m.z[:, :10]},
    'other type': lambda m: {'z': m.z.double()},
    'rows missing': lambda m: {'is_seen': m.is_seen[:3]},
    'nothing': lambda m: {n: getattr(m, n)[:0] for n in ('stamps', 'z', 'proprio', 'is_seen')},
    'out of order': lambda m: {'stamps': m.stamps.flip(0)},
    'seen later': lambda m: {'seen_at': m.seen_at + 1.0},
    'endless wait': lambda m: {'wait': m.wait + 1e9},
}


@pytest.mark.parametrize('what', BAD)
def test_numbers_that_cannot_be_are_refused_though_the_checksum_fits(
    file: Path, checkpoint: Checkpoint, kept: Kept, what: str
) -> None:
    rewrite(file, checkpoint, kept, **BAD[what](kept.memory))
    with pytest.raises(RecallError, match='expected'):
        read(file, checkpoint)


def test_another_schema_is_refused(file: Path, checkpoint: Checkpoint) -> None:
    with safe_open(file, 'pt') as old:
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
        notes = old.metadata()
    save_file(tensors, file, {**notes, 'schema': 'jepa_arm belief 0'})
    with pytest.raises(RecallError, match="got 'jepa_arm belief 0'"):
        read(file, checkpoint)


def test_a_pickle_is_not_opened(file: Path, checkpoint: Checkpoint) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
            return (Path.unlink, (file,))

    torch.save(Trap(), file)
    with pytest.raises(RecallError, match='whole safetensors file'):
        read(file, checkpoint)
    assert file.is_file()


def test_what_is_no_file_or_too_large_is_refused(file: Path, checkpoint: Checkpoint) -> None:
    file.write_bytes(bytes(module.LIMIT + 1))
    with pytest.raises(RecallError, match='plain file'):
        read(file, checkpoint)
    with pytest.raises(RecallError, match='plain file'):
        read(file.parent, checkpoint)
    with pytest.raises(FileNotFoundError):
        read(file.parent / 'none', checkpoint)


@pytest.mark.parametrize(
    ('passed', 'steady', 'word'),
    [
        (-5.0, 5.0, 'the clock began anew'),
        (0.0, 5.0, 'the clock began anew'),
        (40.0, 40.0, '40.0 s old, expected up to 30 s'),
        (3.0, 40.0, '40.0 s old'),
        (2.0, 7.0, 'ROS time went on by 2.0 s'),
        (9.0, 1.0, 'ROS time went on by 9.0 s'),
    ],
)
def test_a_belief_not_of_this_time_is_refused(
    kept: Kept, passed: float, steady: float, word: str
) -> None:
    """A simulation that begins anew at zero seldom comes to an age that fits both clocks."""
    kept = replace(kept, at=time.monotonic() - steady)
    with pytest.raises(RecallError, match=word):
        kept.check_age(kept.memory.stamp + passed, 30.0)


def test_a_belief_of_a_moment_ago_is_of_this_time(kept: Kept) -> None:
    replace(kept, at=time.monotonic() - 4.0).check_age(kept.memory.stamp + 4.3, 30.0)


def test_an_arm_that_was_moved_meanwhile_is_not_believed_for(agent: Agent, arm: Arm) -> None:
    memory = agent.memory()
    assert memory is not None
    ahead = memory.coming.sum(0).numpy()
    aside = 0.1 * np.array([-ahead[1], ahead[0], 0.0]) / np.linalg.norm(ahead[:2])
    there = arm.ik(arm.tip_position(memory.told.numpy()) + aside, arm.home)[0]
    now = JointSample(there, there * 0.0, 13.0)
    before = agent.memory()
    with pytest.raises(RecallError, match='cm off the way'):
        agent.recall(memory, now)
    after = agent.memory()
    assert before is not None and after is not None and torch.equal(before.stamps, after.stamps)


class Sum:
    """Latents that are the sum of the actions (A=3,) at work."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return self.rollout(z, z_prev, action_block[:, None])[:, 0]

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        return z[:, None] + actions.unflatten(-1, (2, 3)).sum(2).cumsum(1)


class Places(StateEncoder):
    """Latents that are the object's place."""

    def forward(self, proprio: Tensor, place: Tensor, yaw: Tensor) -> Tensor:
        return place


class Carried(Pushing):
    """Objects that move by an action where the tip does."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, place=pose.place + (tips[:, 2] - tips[:, 1]) / ACTION_METRES)


def following(heads: BeliefHeads) -> Belief:
    """Latents that move as the actions say."""
    return Belief(Sum(), heads, TIME, 3, read=lambda z: z)


@pytest.mark.parametrize('done', [-1.5, -1.0, 0.0, 0.5, 2.0])
def test_as_many_actions_are_taken_to_have_been_done_as_lead_to_where_the_arm_rests(
    arm: Arm, done: float
) -> None:
    """Where the planner died the arm may have stopped short of what it was told, or gone on."""
    normaliser = Normaliser(0.5, 0.1, (0.0,) * 13, (1.0,) * 13)
    heads = BeliefHeads(3, normaliser, 6, 4, (16, 16)).eval()
    heads.state, heads.pushing = Places(3, normaliser), Carried()
    sent = torch.tensor([[0.8, 0.0, 0.0], [0.8, 0.2, 0.0], [0.0, 0.8, 0.0], [0.0, 0.8, 0.4]])
    coming = torch.tensor([[0.8, 0.0, 0.0], [0.8, 0.0, 0.4]])
    belief, waits, home = following(heads), 1, arm.tip_position(arm.home)
    belief.waits = waits
    for i in range(7):  # an action begins to work a control step after it was decided
        z = sent[: max(0, i - 4)].sum(0, keepdim=True)
        tip = home + ACTION_METRES * z[0].numpy()
        felt = np.concatenate([arm.home, tip, tip])
        belief.see(10.0 + 0.1 * i, z, torch.tensor(felt[None], dtype=torch.float32))
        if i >= 3:
            belief.act(10.0 + 0.1 * i, sent[i - 3])
    actions = torch.cat([sent, coming])
    shares = (4.0 + done - torch.arange(6.0)).clamp(0.0, 1.0)[:, None]
    tip = home + ACTION_METRES * (shares * actions).sum(0).numpy()
    told = arm.ik(home + ACTION_METRES * sent.sum(0).numpy(), arm.home)[0]
    memory, joints = belief.memory(torch.tensor(told), coming), arm.ik(tip, arm.home)[0]
    assert memory is not None
    other = following(heads)
    with torch.inference_mode():
        recall(other, memory, arm, TIME, JointSample(joints, joints * 0.0, 14.0))
    assert other.stamp == pytest.approx(13.9) and other.blind_for == pytest.approx(3.3)
    torch.testing.assert_close(other.now()[0][0], (shares * actions).sum(0), atol=0.02, rtol=0.0)
    assert torch.equal(*other.now())
