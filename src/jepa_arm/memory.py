"""What a planner keeps of its belief in a file, for when it is started anew.

The file is safetensors: numbers alone, nothing is pickled. It is written whole or not at all. A
checksum tells damage, the fingerprint of the weights tells the model whose latents these are.
Neither is a signature: who may write the file may tell the planner what to believe.
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

from .config import to_dict
from .model.belief_heads import load_belief_heads
from .model.checkpoint import Checkpoint, save_tensors
from .model.checkpoint import fingerprint as weights_of

SCHEMA = 'jepa_arm belief 1'
LIMIT = 1_000_000
"""Bytes of the largest file that is read."""
MOST_ROWS = 100
CLOCKS_S = 1.0
"""By which ROS time and the steady clock may differ over the time that a belief was kept."""
NOTES = ('schema', 'fingerprint', 'owner', 'boot', 'kept_at', 'checksum')
BOOT_FILE = Path('/proc/sys/kernel/random/boot_id')


class Widths(NamedTuple):
    """Of a latent, of proprioception, of an action, and the number of joints."""

    latent: int
    proprio: int
    action: int
    joints: int


class RecallError(RuntimeError):
    """A kept belief that is not taken up; says what was expected and what came."""


@dataclass(frozen=True)
class Memory:
    """What was believed of the world, and what the arm was told, at the newest stamp.

    Attributes:
        stamps: (N,) float64 s, ROS time of the steps, the newest last.
        z: (N, D). proprio: (N, P). is_seen: (N,) bool, see ``belief.Step``.
        seen_at: () float64 s, of the newest image.
        sent_at: (M,) float64 s. sent: (M, A), the actions and when they were decided.
        wait: (2,) float64, whole control steps until an action begins to work, and the share of
            one beyond.
        coming: (C, A) actions planned after those; the guard has the first of them.
        told: (J,) float64 rad, where the arm is told to be after ``sent``.
    """

    stamps: Tensor
    z: Tensor
    proprio: Tensor
    is_seen: Tensor
    seen_at: Tensor
    sent_at: Tensor
    sent: Tensor
    wait: Tensor
    coming: Tensor
    told: Tensor

    @property
    def stamp(self) -> float:
        """s, ROS time of the newest step."""
        return float(self.stamps[-1])


@dataclass(frozen=True)
class Kept:
    """A memory and when it was made.

    Attributes:
        memory: it. at: s on the steady clock, which all processes since the boot share.
    """

    memory: Memory
    at: float

    def check_age(self, now: float, most: float) -> None:
        """Call it when the belief is to be taken up, at ROS time ``now`` (s).

        The world changes in ROS time, which a simulation may begin anew at zero, or stop; the
        steady clock does neither. The age counts on both, and they must agree.

        Raises:
            RecallError: it is newer than now, the clocks disagree, or it is older than ``most`` s.
        """
        age, steady = now - self.memory.stamp, monotonic() - self.at
        if age <= 0.0:
            raise RecallError(
                f'it is of {self.memory.stamp:.2f} s, and now is {now:.2f} s: the clock began anew'
            )
        if max(age, steady) > most:
            raise RecallError(f'it is {max(age, steady):.1f} s old, expected up to {most:g} s')
        if abs(age - steady) > CLOCKS_S:
            raise RecallError(
                f'ROS time went on by {age:.1f} s since, the steady clock by {steady:.1f} s: '
                'expected both to run alike; time stood still, jumped or began anew'
            )


def fingerprint(checkpoint: Checkpoint) -> str:
    """Of the weights that a belief is made with, and of the robot that they are for."""
    parts = [checkpoint.model, load_belief_heads(checkpoint)]
    said = [to_dict(checkpoint.contract), *(weights_of(p) for p in parts if p)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def widths(checkpoint: Checkpoint) -> Widths:
    """Of the beliefs that are made with ``checkpoint``."""
    model, contract = checkpoint.model, checkpoint.contract
    joints = len(contract.joints)
    proprio = joints + 6 + (joints if model.sees_velocity else 0)
    return Widths(model.latent, proprio, contract.action_width, joints)


def save_memory(path: Path, kept: Kept, fingerprint: str, owner: str) -> None:
    """Writes ``kept`` to ``path``, whole or not at all.

    Args:
        fingerprint: of the model. owner: whose belief it is, see ``load_memory``.

    Raises:
        OSError: it cannot be written; what was there is kept.
    """
    tensors = _tensors(kept.memory)
    notes = {
        'schema': SCHEMA,
        'fingerprint': fingerprint,
        'owner': owner,
        'boot': _boot(),
        'kept_at': repr(kept.at),
    }
    save_tensors(path, tensors, {**notes, 'checksum': _checksum(tensors, notes)})


def load_memory(path: Path, widths: Widths, fingerprint: str, owner: str) -> Kept:
    """The belief kept in ``path``.

    Args:
        widths: expected of it. fingerprint: of the model. owner: whose belief it is to be.

    Raises:
        FileNotFoundError: there is none.
        RecallError: damaged, of another schema, model, owner or boot.
    """
    tensors, notes = _read(path)
    if notes.get('schema') != SCHEMA:
        raise RecallError(f'expected the schema {SCHEMA!r}, got {notes.get("schema", "")[:40]!r}')
    if set(notes) != set(NOTES):
        raise RecallError(f'expected the notes {sorted(NOTES)}, got {sorted(notes)}')
    checksum = notes.pop('checksum')
    if _checksum(tensors, notes) != checksum:
        raise RecallError('its checksum is not that of its content: the file is damaged')
    if notes['fingerprint'] != fingerprint:
        raise RecallError(
            f'it is of another checkpoint (weights {notes["fingerprint"][:12]}, here '
            f'{fingerprint[:12]})'
        )
    if notes['owner'] != owner:
        raise RecallError(f'it is that of {notes["owner"]}, expected that of {owner}')
    if notes['boot'] != _boot():
        raise RecallError('the machine was started anew since')
    return Kept(_memory(tensors, widths), float(notes['kept_at']))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise FileNotFoundError(f'no belief is kept in {path}')
    if not path.is_file() or path.stat().st_size > LIMIT:
        raise RecallError(f'expected a plain file of up to {LIMIT} bytes')
    try:
        with safe_open(path, 'pt') as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RecallError(f'expected a whole safetensors file ({error})') from error


def _memory(tensors: Mapping[str, Tensor], widths: Widths) -> Memory:
    """Raises RecallError where ``tensors`` are no memory of such ``widths``."""
    expected = {f.name for f in fields(Memory)}
    if set(tensors) != expected:
        raise RecallError(f'expected the tensors {sorted(expected)}, got {sorted(tensors)}')
    memory, count = Memory(**tensors), tensors['stamps'].numel()
    sent, coming = (
        tensors['sent_at'].numel(),
        tensors['coming'].shape[0] if tensors['coming'].ndim else 0,
    )
    exact, single = torch.float64, torch.float32
    kinds = {
        'stamps': (exact, (count,)),
        'z': (single, (count, widths.latent)),
        'proprio': (single, (count, widths.proprio)),
        'is_seen': (torch.bool, (count,)),
        'seen_at': (exact, ()),
        'sent_at': (exact, (sent,)),
        'sent': (single, (sent, widths.action)),
        'wait': (exact, (2,)),
        'coming': (single, (coming, widths.action)),
        'told': (exact, (widths.joints,)),
    }
    for name, (dtype, shape) in kinds.items():
        got = tensors[name]
        if got.dtype != dtype or tuple(got.shape) != shape:
            raise RecallError(
                f'{name}: expected {shape} of {dtype}, got {tuple(got.shape)} of {got.dtype}'
            )
        if not torch.isfinite(got).all():
            raise RecallError(f'{name}: expected finite values')
    is_ordered = bool((memory.stamps.diff() > 0.0).all())
    if not count or not is_ordered or float(memory.seen_at) > memory.stamp:
        raise RecallError('expected steps in the order of their stamps, with an image before')
    if max(count, sent, coming, float(memory.wait[0])) > MOST_ROWS or memory.wait.min() < 0.0:
        raise RecallError(f'expected at most {MOST_ROWS} steps, actions, and steps to wait')
    return memory


def _tensors(memory: Memory) -> dict[str, Tensor]:
    return {f.name: getattr(memory, f.name).contiguous() for f in fields(Memory)}


def _checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    said = json.dumps([_digest(tensors), sorted(notes.items())])
    return hashlib.sha256(said.encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def _boot() -> str:
    """Which start of the machine this is; empty where it does not tell."""
    try:
        return BOOT_FILE.read_text().strip()
    except OSError:
        return ''
