"""Belief snapshots: the planner's belief in a file, from which a restarted planner continues.

The file is in safetensors format, which cannot contain code, and is written atomically. A checksum
detects damage; the fingerprint of the weights identifies the model that the latents belong to.
Neither is a signature: anyone with write access to the file can set the planner's belief.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa_arm.config import to_dict
from jepa_arm.core.errors import JepaArmError
from jepa_arm.model.checkpoint import Checkpoint, load_belief_heads
from jepa_arm.model.checkpoint_files import fingerprint, save_tensors

SCHEMA = 'jepa_arm belief 3'
MAX_BYTES = 1_000_000
MAX_ROWS = 100
"""Most steps, most actions and longest delay (control steps) that a snapshot may hold."""
MAX_CLOCK_DIFFERENCE_S = 1.0
"""Largest allowed difference in the age of a snapshot between ROS time and the steady clock."""
NOTES = ('schema', 'fingerprint', 'owner', 'boot', 'checksum')
BOOT_FILE = Path('/proc/sys/kernel/random/boot_id')


class RestoreError(JepaArmError, RuntimeError):
    """The snapshot cannot be restored; the message says what was expected and what was found."""


@dataclass(frozen=True)
class BeliefSnapshot:
    """Belief, recent actions and setpoint at the newest stamp.

    Attributes:
        stamps: (N,) float64 s, ROS time of the steps, the newest last.
        z: (N, D). proprio: (N, P). has_image: (N,) bool, see ``belief.BeliefStep``.
        image_stamp: () float64 s, stamp of the newest image.
        actions: (M, A) recent actions. action_stamps: (M,) float64 s, when they were decided.
        delay: (2,) float64, ``delay_steps`` and ``delay_fraction``, see ``belief.Belief``.
        upcoming_actions: (C, A) planned after ``actions``; the guard already has the first ones.
        setpoint: (J,) float64 rad, commanded joints after ``actions``.
        made_at: () float64 s on the steady clock, which all processes share until a reboot.
    """

    stamps: Tensor
    z: Tensor
    proprio: Tensor
    has_image: Tensor
    image_stamp: Tensor
    action_stamps: Tensor
    actions: Tensor
    delay: Tensor
    upcoming_actions: Tensor
    setpoint: Tensor
    made_at: Tensor

    @property
    def stamp(self) -> float:
        """s, ROS time of the newest step."""
        return float(self.stamps[-1])

    def check_age(self, now: float, max_age: float) -> None:
        """Check that the snapshot may be restored at ROS time ``now`` (s).

        A simulation can stop or restart ROS time, but not the steady clock. The age is checked on
        both, and they must agree.

        Raises:
            RestoreError: it is newer than ``now``, older than ``max_age`` s, or the clocks differ.
        """
        age, steady = now - self.stamp, monotonic() - float(self.made_at)
        if age <= 0.0:
            raise RestoreError(
                f'it is of {self.stamp:.2f} s, and now is {now:.2f} s: the clock began anew'
            )
        if max(age, steady) > max_age:
            raise RestoreError(f'it is {max(age, steady):.1f} s old, expected up to {max_age:g} s')
        if abs(age - steady) > MAX_CLOCK_DIFFERENCE_S:
            raise RestoreError(
                f'ROS time went on by {age:.1f} s since, the steady clock by {steady:.1f} s: '
                'expected both to run alike; time stood still, jumped or began anew'
            )


class SnapshotOwner(NamedTuple):
    """The planner that a snapshot belongs to.

    Attributes:
        name: name of the planner, unique on the machine.
        fingerprint: hash of the contract and of the weights of world model and belief heads.
        latent, proprio, action, joints: D, P, A and J, the widths of the snapshot's tensors.
    """

    name: str
    fingerprint: str
    latent: int
    proprio: int
    action: int
    joints: int

    @classmethod
    def of(cls, name: str, checkpoint: Checkpoint) -> SnapshotOwner:
        """Return the owner for a planner that uses ``checkpoint``."""
        model, contract = checkpoint.model, checkpoint.contract
        parts = [model, load_belief_heads(checkpoint)]
        hashed = [to_dict(contract), *(fingerprint(part) for part in parts if part)]
        digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
        widths = model.latent_dim, contract.proprio_width, contract.action_width
        return cls(name, digest, *widths, len(contract.joints))


def save_snapshot(path: Path, snapshot: BeliefSnapshot, owner: SnapshotOwner) -> None:
    """Write a snapshot to ``path``, completely or not at all.

    Raises:
        OSError: it cannot be written; the previous file is kept.
    """
    tensors = {f.name: getattr(snapshot, f.name).contiguous() for f in _TENSORS}
    notes = {
        'schema': SCHEMA,
        'fingerprint': owner.fingerprint,
        'owner': owner.name,
        'boot': _boot_id(),
    }
    save_tensors(path, tensors, {**notes, 'checksum': _checksum(tensors, notes)})


def load_snapshot(path: Path, owner: SnapshotOwner) -> BeliefSnapshot:
    """Return the snapshot in ``path``, which must belong to ``owner``.

    Raises:
        FileNotFoundError: there is no snapshot.
        RestoreError: the file is damaged, or has a different schema, model, owner or boot.
    """
    tensors, notes = _read(path)
    if notes.get('schema') != SCHEMA:
        raise RestoreError(f'expected the schema {SCHEMA!r}, got {notes.get("schema", "")[:40]!r}')
    if set(notes) != set(NOTES):
        raise RestoreError(f'expected the notes {sorted(NOTES)}, got {sorted(notes)}')
    checksum = notes.pop('checksum')
    if _checksum(tensors, notes) != checksum:
        raise RestoreError('its checksum is not that of its content: the file is damaged')
    if notes['fingerprint'] != owner.fingerprint:
        raise RestoreError(
            f'it is of another checkpoint (weights {notes["fingerprint"][:12]}, here '
            f'{owner.fingerprint[:12]})'
        )
    if notes['owner'] != owner.name:
        raise RestoreError(f'it is that of {notes["owner"]}, expected that of {owner.name}')
    if notes['boot'] != _boot_id():
        raise RestoreError('the machine was rebooted since')
    return _checked(tensors, owner)


_TENSORS = fields(BeliefSnapshot)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise FileNotFoundError(f'there is no belief in {path}')
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise RestoreError(f'expected a plain file of up to {MAX_BYTES} bytes')
    try:
        with safe_open(path, 'pt') as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RestoreError(f'expected a whole safetensors file ({error})') from error


def _checked(tensors: Mapping[str, Tensor], owner: SnapshotOwner) -> BeliefSnapshot:
    """Return ``tensors`` as a snapshot, after checking their names, types, shapes and values.

    Raises:
        RestoreError: the tensors are not those of a snapshot of this ``owner``.
    """
    expected = {f.name for f in _TENSORS}
    if set(tensors) != expected:
        raise RestoreError(f'expected the tensors {sorted(expected)}, got {sorted(tensors)}')
    steps, actions = tensors['stamps'].numel(), tensors['action_stamps'].numel()
    upcoming = tensors['upcoming_actions']
    coming = upcoming.shape[0] if upcoming.ndim else 0
    exact, single = torch.float64, torch.float32
    layout = {
        'stamps': (exact, (steps,)),
        'z': (single, (steps, owner.latent)),
        'proprio': (single, (steps, owner.proprio)),
        'has_image': (torch.bool, (steps,)),
        'image_stamp': (exact, ()),
        'action_stamps': (exact, (actions,)),
        'actions': (single, (actions, owner.action)),
        'delay': (exact, (2,)),
        'upcoming_actions': (single, (coming, owner.action)),
        'setpoint': (exact, (owner.joints,)),
        'made_at': (exact, ()),
    }
    for name, (dtype, shape) in layout.items():
        got = tensors[name]
        if got.dtype != dtype or tuple(got.shape) != shape:
            raise RestoreError(
                f'{name}: expected {shape} of {dtype}, got {tuple(got.shape)} of {got.dtype}'
            )
        if not torch.isfinite(got).all():
            raise RestoreError(f'{name}: expected finite values')
    snapshot = BeliefSnapshot(**tensors)
    is_ordered = bool((snapshot.stamps.diff() > 0.0).all())
    if not steps or not is_ordered or float(snapshot.image_stamp) > snapshot.stamp:
        raise RestoreError('expected steps in the order of their stamps, with an image before')
    delay = snapshot.delay
    if max(steps, actions, coming, float(delay[0])) > MAX_ROWS or delay.min() < 0.0:
        raise RestoreError(f'expected at most {MAX_ROWS} steps, actions, and steps of delay')
    return snapshot


def _checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    """Return a hash of ``notes`` and of the names, types, shapes and values of ``tensors``."""
    found = hashlib.sha256(json.dumps(sorted(notes.items())).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def _boot_id() -> str:
    """Return the machine's boot id; empty if it has none."""
    try:
        return BOOT_FILE.read_text().strip()
    except OSError:
        return ''
