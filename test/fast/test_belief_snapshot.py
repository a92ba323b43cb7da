"""Belief snapshots: what is saved is restored, and everything doubtful is refused."""

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

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.decision import StepFeedback
from jepa_arm.belief import snapshot as module
from jepa_arm.belief.belief import Belief
from jepa_arm.belief.restore import restore
from jepa_arm.belief.snapshot import (
    BeliefSnapshot,
    RestoreError,
    SnapshotOwner,
    load_snapshot,
    save_snapshot,
)
from jepa_arm.config import PlannerConfig, TimeConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import JointSample, Observation
from jepa_arm.model.checkpoint import Checkpoint, load_belief_heads, load_checkpoint
from jepa_arm.model.heads.belief_heads import BeliefHeads, StateEncoder
from jepa_arm.model.heads.push_dynamics import ObjectPose, PushDynamics
from jepa_arm.model.world_model import Normaliser
from jepa_arm.robot.action_space import ACTION_METRES
from jepa_arm.robot.arm import Arm

OWNER = '/planner of domain 0'
TIME = TimeConfig(physics_dt=0.005, stream_dt=0.01, control_dt=0.1, frame_skip=2)


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    """The one that is shipped."""
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def agent(checkpoint: Checkpoint, arm: Arm) -> Agent:
    """Agent that has made seven decisions on its way to a goal."""
    config = replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=float('inf'))
    agent = Agent(checkpoint, arm, config)
    agent.set_goal(PositionGoal('tip', np.array([0.6, 0.2, 0.1])))
    camera, rng = checkpoint.contract.camera, np.random.default_rng(0)
    for i in range(7):
        image = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        observation = Observation(image, arm.home, 10.0 + 0.1 * i)
        agent.step(observation, StepFeedback(delay=0.15))
    return agent


@pytest.fixture
def kept(agent: Agent) -> BeliefSnapshot:
    """Snapshot of its belief, made now."""
    snapshot = agent.snapshot()
    assert snapshot is not None
    return snapshot


@pytest.fixture
def file(kept: BeliefSnapshot, checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """The same snapshot in a file."""
    path = tmp_path / 'belief.safetensors'
    save_snapshot(path, kept, SnapshotOwner.of(OWNER, checkpoint))
    return path


def read(path: Path, checkpoint: Checkpoint) -> BeliefSnapshot:
    return load_snapshot(path, SnapshotOwner.of(OWNER, checkpoint))


def test_a_restored_belief_predicts_the_same(
    file: Path, kept: BeliefSnapshot, checkpoint: Checkpoint
) -> None:
    heads, time_config = load_belief_heads(checkpoint), checkpoint.contract.time
    place = checkpoint.probes.object_position
    before, after = (
        Belief(checkpoint.model, heads, time_config, action_width=3, read=place) for _ in range(2)
    )
    before.restore(kept)
    after.restore(read(file, checkpoint))
    proprio = kept.proprio[-1:]
    for belief in (before, after):
        assert belief.delay_steps == 1 and belief.delay_fraction == pytest.approx(0.5)
        belief.update_blind(10.7, proprio)
    for a, b in zip(before.predict_start(), after.predict_start(), strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    assert torch.equal(before.position_std(), after.position_std())
    assert torch.equal(before.predict(10.8, 3).predicted, after.predict(10.8, 3).predicted)
    assert before.blind_for == after.blind_for == pytest.approx(0.1)


def test_a_snapshot_does_not_share_memory_with_the_belief(agent: Agent) -> None:
    first, second = agent.snapshot(), agent.snapshot()
    assert first is not None and second is not None
    first.z.zero_()
    assert second.z.abs().max() > 0.0 and len(second.upcoming_actions) == 9


@pytest.mark.parametrize('share', [0.02, 0.2, 0.5, 0.999])
def test_a_flipped_bit_is_detected(file: Path, checkpoint: Checkpoint, share: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(RestoreError):
        read(file, checkpoint)


@pytest.mark.parametrize('size', [0, 7, 2000])
def test_a_truncated_file_is_refused(file: Path, checkpoint: Checkpoint, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RestoreError, match='whole safetensors file'):
        read(file, checkpoint)


def test_other_weights_have_another_fingerprint_and_are_refused(
    file: Path, checkpoint: Checkpoint
) -> None:
    other = load_checkpoint(checkpoint_path('compact'))
    owner = SnapshotOwner.of(OWNER, checkpoint)
    assert SnapshotOwner.of(OWNER, other) == owner
    next(other.model.parameters())[0] += 1e-3
    with pytest.raises(RestoreError, match='another checkpoint'):
        read(file, other)


def test_the_belief_of_another_planner_is_refused(file: Path, checkpoint: Checkpoint) -> None:
    other = '/left/planner of domain 0'
    with pytest.raises(RestoreError, match=f'expected that of {other}'):
        load_snapshot(file, SnapshotOwner.of(other, checkpoint))


def test_a_belief_from_before_a_reboot_is_refused(
    file: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steady clock begins anew then, and says nothing of its age."""
    (tmp_path / 'boot').write_text('another')
    monkeypatch.setattr(module, 'BOOT_FILE', tmp_path / 'boot')
    with pytest.raises(RestoreError, match='rebooted'):
        read(file, checkpoint)


def rewrite(
    file: Path, checkpoint: Checkpoint, kept: BeliefSnapshot, **changed: torch.Tensor
) -> None:
    save_snapshot(file, replace(kept, **changed), SnapshotOwner.of(OWNER, checkpoint))


BAD = {
    'not finite': lambda m: {'z': m.z * float('nan')},
    'other width': lambda m: {'z': m.z[:, :10]},
    'other type': lambda m: {'z': m.z.double()},
    'rows missing': lambda m: {'has_image': m.has_image[:3]},
    'no rows': lambda m: {n: getattr(m, n)[:0] for n in ('stamps', 'z', 'proprio', 'has_image')},
    'out of order': lambda m: {'stamps': m.stamps.flip(0)},
    'image after the last step': lambda m: {'image_stamp': m.image_stamp + 1.0},
    'endless delay': lambda m: {'delay': m.delay + 1e9},
}


@pytest.mark.parametrize('what', BAD)
def test_impossible_numbers_are_refused_although_the_checksum_fits(
    file: Path, checkpoint: Checkpoint, kept: BeliefSnapshot, what: str
) -> None:
    rewrite(file, checkpoint, kept, **BAD[what](kept))
    with pytest.raises(RestoreError, match='expected'):
        read(file, checkpoint)


def test_another_schema_is_refused(file: Path, checkpoint: Checkpoint) -> None:
    with safe_open(file, 'pt') as old:
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
        notes = old.metadata()
    save_file(tensors, file, {**notes, 'schema': 'jepa_arm belief 0'})
    with pytest.raises(RestoreError, match="got 'jepa_arm belief 0'"):
        read(file, checkpoint)


def test_a_pickle_is_not_opened(file: Path, checkpoint: Checkpoint) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
            return (Path.unlink, (file,))

    torch.save(Trap(), file)
    with pytest.raises(RestoreError, match='whole safetensors file'):
        read(file, checkpoint)
    assert file.is_file()


def test_a_folder_or_a_large_file_is_refused(file: Path, checkpoint: Checkpoint) -> None:
    file.write_bytes(bytes(module.MAX_BYTES + 1))
    with pytest.raises(RestoreError, match='plain file'):
        read(file, checkpoint)
    with pytest.raises(RestoreError, match='plain file'):
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
def test_a_belief_whose_age_is_wrong_is_refused(
    kept: BeliefSnapshot, passed: float, steady: float, word: str
) -> None:
    """A simulation that begins anew at zero seldom comes to an age that fits both clocks."""
    kept.made_at.fill_(time.monotonic() - steady)
    with pytest.raises(RestoreError, match=word):
        kept.check_age(kept.stamp + passed, 30.0)


def test_a_recent_belief_is_accepted(kept: BeliefSnapshot) -> None:
    kept.made_at.fill_(time.monotonic() - 4.0)
    kept.check_age(kept.stamp + 4.3, 30.0)


def test_a_belief_is_not_restored_for_an_arm_that_was_moved(agent: Agent, arm: Arm) -> None:
    snapshot = agent.snapshot()
    assert snapshot is not None
    ahead = snapshot.upcoming_actions.sum(0).numpy()
    aside = 0.1 * np.array([-ahead[1], ahead[0], 0.0]) / np.linalg.norm(ahead[:2])
    there = arm.ik(arm.tip_position(snapshot.setpoint.numpy()) + aside, arm.home)[0]
    now = JointSample(there, there * 0.0, 13.0)
    before = agent.snapshot()
    with pytest.raises(RestoreError, match='cm off its commanded path'):
        agent.restore(snapshot, now)
    after = agent.snapshot()
    assert before is not None and after is not None and torch.equal(before.stamps, after.stamps)


class SummedActions:
    """Latents that are the sum of the actions (A=3,) at work."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return self.rollout(z, z_prev, action_block[:, None])[:, 0]

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        return z[:, None] + actions.unflatten(-1, (2, 3)).sum(2).cumsum(1)


class PositionLatents(StateEncoder):
    """Latents that are the object's position."""

    def forward(self, proprio: Tensor, place: Tensor, yaw: Tensor) -> Tensor:
        return place


class CarriedObject(PushDynamics):
    """Objects that move by an action where the tip does."""

    def forward(self, pose: ObjectPose, tips: Tensor) -> ObjectPose:
        return replace(pose, position=pose.position + (tips[:, 2] - tips[:, 1]) / ACTION_METRES)


def following(heads: BeliefHeads) -> Belief:
    """Belief whose latents move with the actions."""
    return Belief(SummedActions(), heads, TIME, action_width=3, read=lambda z: z)


@pytest.mark.parametrize('done', [-1.5, -1.0, 0.0, 0.5, 2.0])
def test_restoring_applies_the_actions_that_lead_to_where_the_arm_rests(
    arm: Arm, done: float
) -> None:
    """The arm may have stopped before its last setpoint, or gone on to planned ones."""
    normaliser = Normaliser(0.5, 0.1, (0.0,) * 13, (1.0,) * 13)
    heads = BeliefHeads(3, normaliser, 6, 4, (16, 16)).eval()
    heads.state_encoder, heads.push_dynamics = PositionLatents(3, normaliser), CarriedObject()
    sent = torch.tensor([[0.8, 0.0, 0.0], [0.8, 0.2, 0.0], [0.0, 0.8, 0.0], [0.0, 0.8, 0.4]])
    coming = torch.tensor([[0.8, 0.0, 0.0], [0.8, 0.0, 0.4]])
    belief, home = following(heads), arm.tip_position(arm.home)
    belief.delay_steps = 1
    for i in range(7):  # an action begins to work a control step after it was decided
        z = sent[: max(0, i - 4)].sum(0, keepdim=True)
        tip = home + ACTION_METRES * z[0].numpy()
        proprio = np.concatenate([arm.home, tip, tip])
        belief.update(10.0 + 0.1 * i, z, torch.tensor(proprio[None], dtype=torch.float32))
        if i >= 3:
            belief.record_action(10.0 + 0.1 * i, sent[i - 3])
    actions = torch.cat([sent, coming])
    shares = (4.0 + done - torch.arange(6.0)).clamp(0.0, 1.0)[:, None]
    tip = home + ACTION_METRES * (shares * actions).sum(0).numpy()
    setpoint = arm.ik(home + ACTION_METRES * sent.sum(0).numpy(), arm.home)[0]
    snapshot, joints = belief.snapshot(torch.tensor(setpoint), coming), arm.ik(tip, arm.home)[0]
    assert snapshot is not None
    other = following(heads)
    with torch.inference_mode():
        restore(other, snapshot, arm, TIME, JointSample(joints, joints * 0.0, 14.0))
    assert other.stamp == pytest.approx(13.9) and other.blind_for == pytest.approx(3.3)
    torch.testing.assert_close(
        other.current()[0][0], (shares * actions).sum(0), atol=0.02, rtol=0.0
    )
    assert torch.equal(*other.current())
