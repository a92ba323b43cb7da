"""What the world model expects of given actions; nothing moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..arm import Arm
from ..model.checkpoint import Checkpoint
from ..motion import proprioception
from ..types import FloatArray, Observation

MAX_STEPS = 100
"""Model steps imagined at most."""


@dataclass(frozen=True)
class Imagined:
    """Predictions, one a model step.

    Attributes:
        stamps: (N,) s from the observation.
        tips, objects: (N, 3) m, as the probes read them from the predicted latents.
    """

    stamps: FloatArray
    tips: FloatArray
    objects: FloatArray


@torch.inference_mode()
def imagine(
    checkpoint: Checkpoint,
    arm: Arm,
    before: Observation,
    now: Observation,
    actions: FloatArray,
) -> Imagined:
    """Rolls ``actions`` out from ``now``.

    The arm is taken to stand where it was told to.

    Args:
        checkpoint: the world model with its probes. arm: its kinematics.
        before: about one model step before ``now``; the same if there is none.
        now: the newest observation.
        actions: (T * A,) in [-1, 1], row by row, one row a control step.

    Raises:
        ValueError: actions that are no whole number of model steps, too many, or out of range.
    """
    model, contract = checkpoint.model, checkpoint.contract
    steps, rest = divmod(actions.size, contract.block_width)
    if rest or not 1 <= steps <= MAX_STEPS:
        raise ValueError(
            f'actions: expected 1..{MAX_STEPS} model steps of {contract.time.frame_skip} control '
            f'steps x {contract.action_width} values, got {actions.size} values'
        )
    if not np.all(np.abs(actions) <= 1.0):
        raise ValueError('actions: expected finite values in [-1, 1]')
    tips = [arm.tip_position(o.joints) for o in (before, now)]
    velocity = None
    if model.sees_velocity:
        velocity = (now.joints - before.joints) / max(now.stamp - before.stamp, 1e-3)
    proprio = [
        proprioception(o.joints, t, t, velocity) for o, t in zip((before, now), tips, strict=True)
    ]
    z = model.encode(np.stack([before.image, now.image]), np.stack(proprio))
    blocks = torch.as_tensor(actions, dtype=torch.float32).view(1, steps, -1)
    latents = model.rollout(z[1:], z[:1].repeat(1, model.past), blocks)[0]
    read = checkpoint.probes.read
    return Imagined(
        stamps=contract.time.model_dt * np.arange(1, steps + 1, dtype=np.float64),
        tips=read('tip', latents).numpy().astype(float),
        objects=read('object', latents).numpy().astype(float),
    )
