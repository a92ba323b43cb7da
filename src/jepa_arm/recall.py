"""How a belief that was kept becomes one of now: what the arm still did is carried on.

Over an arm at rest nothing has to be predicted: what was seen last is expected still, and the
next image is judged by it. Over one that went on the belief is carried as without images, and as
after any blackout the first images are not judged.
"""

from __future__ import annotations

import numpy as np
import torch

from .arm import Arm
from .belief import Belief
from .config import TimeConfig
from .memory import Memory, RecallError
from .motion import TipMotion, proprioception
from .types import FloatArray, JointSample

MOST_OFF_M = 0.015
"""By which the tip may be off the way that it was told to go."""
RESTS_M = 0.003
"""By which a tip at rest may seem to have moved."""
SETTLES = 3
"""Control steps that the arm takes to come to rest after its last command."""


def recall(belief: Belief, memory: Memory, arm: Arm, time: TimeConfig, now: JointSample) -> None:
    """Makes ``belief`` that of ``memory``, carried on to a control step before ``now``.

    The arm rests where it is by now, on the way of the commands it still had: as many of them are
    taken to have been carried out as lead there. Since then the world is taken to have rested.

    Raises:
        RecallError: the arm is not where its commands led, so nobody knows what it did.
        BlindError: the arm went on, and the belief has no heads to follow it.
    """
    tip, motion = arm.tip_position(now.position), TipMotion(arm)
    motion.reset(memory.told.numpy())
    coming = memory.coming.numpy().astype(float)
    targets = [arm.tip_position(q) for q in (motion.joints, *motion.preview(coming))]
    done, off = _way(np.array(targets), tip)
    if off > MOST_OFF_M:
        raise RecallError(
            f'the tip is {off * 100:.1f} cm off the way it was told to go, expected up to '
            f'{MOST_OFF_M * 100:g} cm: the arm was moved since'
        )
    belief.recall(memory)
    if done > 0.0 or not _rested(memory, tip):
        _go_on(belief, memory, arm, time, now, done)
    felt = _felt(now.position, tip, tip, memory)
    belief.rest_until(now.stamp - time.control_dt, felt)


def _felt(joints: FloatArray, tip: FloatArray, target: FloatArray, like: Memory) -> torch.Tensor:
    """(1, P) as that of ``like``, of an arm that is not fast."""
    sees_velocity = like.proprio.shape[1] > len(joints) + 6
    velocity = np.zeros_like(joints) if sees_velocity else None
    felt = proprioception(joints, tip, target, velocity)
    return torch.tensor(felt[None], dtype=torch.float32)


def _way(targets: FloatArray, tip: FloatArray) -> tuple[float, float]:
    """How many of the commands behind the first of ``targets`` (C+1, 3) lead to ``tip`` (3,).

    Returns:
        their number, with a share of the last, and m from there to ``tip``.
    """
    best = 0.0, float(np.linalg.norm(tip - targets[0]))
    for i, (a, b) in enumerate(zip(targets[:-1], targets[1:], strict=True)):
        length = float(np.sum((b - a) ** 2))
        share = float(np.clip(np.dot(tip - a, b - a) / length, 0.0, 1.0)) if length else 0.0
        off = float(np.linalg.norm(tip - a - share * (b - a)))
        if off < best[1]:
            best = i + share, off
    return best


def _rested(memory: Memory, tip: FloatArray) -> bool:
    """Whether the arm stood already where its ``tip`` (3,) m is when the belief was kept."""
    joints = len(memory.told)
    felt = memory.proprio[-SETTLES:, joints : joints + 3].numpy()
    return bool(np.linalg.norm(felt - tip, axis=1).max() < RESTS_M)


def _go_on(
    belief: Belief, memory: Memory, arm: Arm, time: TimeConfig, now: JointSample, done: float
) -> None:
    """Carries ``belief`` on over ``done`` of the coming commands until the arm rests."""
    dt, motion = time.control_dt, TipMotion(arm)
    motion.reset(memory.told.numpy())
    begun = memory.stamp if not len(memory.sent_at) else float(memory.sent_at[-1])
    for i, action in enumerate(memory.coming[: int(np.ceil(done))]):
        action = action * min(1.0, done - i)
        motion.apply(action.numpy().astype(float))
        belief.act(begun + (i + 1) * dt, action)
    moves = int(memory.wait[0]) + int(np.ceil(done)) + 1
    start = memory.proprio[-1, : len(now.position)].numpy().astype(float)
    for i in range(1, moves + SETTLES):
        joints = start + min(1.0, i / moves) * (now.position - start)
        tip = arm.tip_position(joints)
        felt = _felt(joints, tip, motion.target if i < moves else tip, memory)
        belief.feel(memory.stamp + i * dt, felt)
