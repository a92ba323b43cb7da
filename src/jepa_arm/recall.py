"""How a belief that was kept becomes one of now: what the arm still did is carried on.

Over an arm at rest nothing has to be predicted: what was seen last is expected still, and the
next image is judged by it. Over one that went on the belief is carried as without images, and as
after any blackout the first images are not judged.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .arm import Arm
from .belief import Belief
from .config import TimeConfig
from .memory import Memory, RecallError
from .motion import ACTION_METRES, proprioception
from .types import FloatArray, JointSample

MOST_OFF_M = 0.015
"""By which the tip may be off the way that it was told to go."""
RESTS_M = 0.003
"""By which a tip at rest may seem to have moved."""
SETTLES = 3
"""Control steps that the arm takes to come to rest after its last command."""
UNDONE = 8
"""Of the actions sent, how many the arm may not have carried out."""


def recall(belief: Belief, memory: Memory, arm: Arm, time: TimeConfig, now: JointSample) -> None:
    """Makes ``belief`` that of ``memory``, carried on to a control step before ``now``.

    The arm rests where it is by now, on the way that it was told to go or was about to be told: as
    many of the actions are taken to have been carried out as lead there. Since then the world is
    taken to have rested.

    Raises:
        RecallError: the arm is not on that way, so nobody knows what it did.
        BlindError: the arm went on, and the belief has no heads to follow it.
    """
    tip = arm.tip_position(now.position)
    actions = torch.cat([memory.sent[-UNDONE:], memory.coming])
    told = arm.tip_position(memory.told.numpy())
    done, off = _way(told, actions, len(memory.coming), tip)
    if off > MOST_OFF_M:
        raise RecallError(
            f'the tip, at {np.round(tip, 3).tolist()} m, is {off * 100:.1f} cm off the way it was '
            f'told to go, expected up to {MOST_OFF_M * 100:g} cm: the arm was moved since'
        )
    if _rested(memory, tip):
        belief.recall(memory)
    else:
        _go_on(belief, memory, arm, time, now, actions, done)
    belief.rest_until(now.stamp - time.control_dt, _felt(now.position, tip, tip, memory))


def _way(told: FloatArray, actions: Tensor, coming: int, tip: FloatArray) -> tuple[float, float]:
    """How many of ``actions`` (N, A) lead to ``tip`` (3,) m, and m from there to it.

    Args:
        told: (3,) m, where all but the last ``coming`` of them lead.
    """
    steps = ACTION_METRES * np.concatenate([np.zeros((1, 3)), actions.numpy().astype(float)])
    way = np.cumsum(steps, axis=0)
    way += told - way[len(actions) - coming]
    done, nearest = float(len(actions) - coming), float(np.linalg.norm(tip - told))
    for i, (a, b) in enumerate(zip(way[:-1], way[1:], strict=True)):
        length = float(np.sum((b - a) ** 2))
        share = float(np.clip(np.dot(tip - a, b - a) / length, 0.0, 1.0)) if length else 0.0
        off = float(np.linalg.norm(tip - a - share * (b - a)))
        if off < nearest:
            done, nearest = i + share, off
    return done, nearest


def _rested(memory: Memory, tip: FloatArray) -> bool:
    """Whether the arm stood already where its ``tip`` (3,) m is when the belief was kept."""
    joints = len(memory.told)
    felt = memory.proprio[-SETTLES:, joints : joints + 3].numpy()
    return bool(np.linalg.norm(felt - tip, axis=1).max() < RESTS_M)


def _go_on(
    belief: Belief,
    memory: Memory,
    arm: Arm,
    time: TimeConfig,
    now: JointSample,
    actions: Tensor,
    done: float,
) -> None:
    """Carries the belief on over ``done`` of ``actions`` (N, A), the last sent and the coming."""
    shares = (done - torch.arange(len(actions), dtype=torch.float32)).clamp(0.0, 1.0)
    carried, dt = actions * shares[:, None], time.control_dt
    sent = len(actions) - len(memory.coming)
    older = memory.sent[: len(memory.sent) - sent]
    belief.recall(replace(memory, sent=torch.cat([older, carried[:sent]])))
    begun = float(memory.sent_at[-1]) if sent else memory.stamp
    further = max(0, int(np.ceil(done)) - sent)
    for i, action in enumerate(carried[sent : sent + further]):
        belief.act(begun + (i + 1) * dt, action)
    moves = int(memory.wait[0]) + further + 1
    start = memory.proprio[-1, : len(now.position)].numpy().astype(float)
    target = arm.tip_position(now.position)
    for i in range(1, moves + SETTLES):
        joints = start + min(1.0, i / moves) * (now.position - start)
        felt = _felt(joints, arm.tip_position(joints), target, memory)
        belief.feel(memory.stamp + i * dt, felt)


def _felt(joints: FloatArray, tip: FloatArray, target: FloatArray, like: Memory) -> Tensor:
    """(1, P) as that of ``like``, of an arm that is not fast."""
    sees_velocity = like.proprio.shape[1] > len(joints) + 6
    velocity = np.zeros_like(joints) if sees_velocity else None
    felt = proprioception(joints, tip, target, velocity)
    return torch.tensor(felt[None], dtype=torch.float32)
