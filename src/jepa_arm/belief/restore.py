"""Restoring a belief: a snapshot is propagated to the current time after a restart.

If the arm has rested since, nothing has to be predicted, and the next image's surprise is computed
against the last one. If it moved on, the belief is propagated without images, and no surprise is
computed for the first images, as after any gap in the images.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import TimeConfig
from jepa_arm.core.types import FloatArray, JointSample
from jepa_arm.robot.action_space import ACTION_METRES, proprioception
from jepa_arm.robot.arm import Arm

from .belief import Belief
from .snapshot import BeliefSnapshot, RestoreError

MAX_PATH_ERROR_M = 0.015
"""Distance between tip and commanded path up to which the arm counts as undisturbed."""
REST_M = 0.003
"""Distance up to which the tip counts as not having moved."""
SETTLING_STEPS = 3
"""Control steps that the arm takes to come to rest after its last command."""
MAX_UNFINISHED = 8
"""Number of last actions that the arm may still have been executing when the snapshot was made."""


def restore(
    belief: Belief, snapshot: BeliefSnapshot, arm: Arm, time: TimeConfig, now: JointSample
) -> None:
    """Replace ``belief`` by ``snapshot``, propagated to one control step before ``now``.

    At ``now`` the arm must be at rest on its commanded path or on the upcoming part of its last
    plan. The actions that lead there are assumed to have been executed, and the world to have
    been at rest since.

    Raises:
        RestoreError: the arm is not on that path, so its motion since is unknown.
        BlindError: the arm has moved, and there are no belief heads to predict the world.
    """
    tip = arm.tip_position(now.position)
    actions = torch.cat([snapshot.actions[-MAX_UNFINISHED:], snapshot.upcoming_actions])
    setpoint = arm.tip_position(snapshot.setpoint.numpy())
    done, error = _progress(setpoint, actions, len(snapshot.upcoming_actions), tip)
    if error > MAX_PATH_ERROR_M:
        raise RestoreError(
            f'the tip, at {np.round(tip, 3).tolist()} m, is {error * 100:.1f} cm off '
            f'its commanded path, expected up to {MAX_PATH_ERROR_M * 100:g} cm: the arm was moved '
            'since'
        )
    if _was_at_rest(snapshot, tip):
        belief.restore(snapshot)
    else:
        _propagate(belief, snapshot, arm, time, now, done)
    belief.rest_until(now.stamp - time.control_dt, _proprio(arm, now.position, tip))


def _progress(
    setpoint: FloatArray, actions: Tensor, upcoming: int, tip: FloatArray
) -> tuple[float, float]:
    """Return how many actions lead to the path point nearest to ``tip``, and its distance (m).

    Args:
        setpoint: (3,) m, commanded tip position before the last ``upcoming`` actions.
        actions: (N, A), those already sent, then those upcoming. upcoming: number of the latter.
        tip: (3,) m, measured tip position.

    Returns:
        Number of actions in [0, N], including a fraction of the last one; distance in m.
    """
    steps = ACTION_METRES * np.concatenate([np.zeros((1, 3)), actions.numpy().astype(float)])
    path = np.cumsum(steps, axis=0)
    path += setpoint - path[len(actions) - upcoming]
    done, nearest = float(len(actions) - upcoming), float(np.linalg.norm(tip - setpoint))
    for i, (a, b) in enumerate(zip(path[:-1], path[1:], strict=True)):
        length = float(np.sum((b - a) ** 2))
        share = float(np.clip(np.dot(tip - a, b - a) / length, 0.0, 1.0)) if length else 0.0
        error = float(np.linalg.norm(tip - a - share * (b - a)))
        if error < nearest:
            done, nearest = i + share, error
    return done, nearest


def _was_at_rest(snapshot: BeliefSnapshot, tip: FloatArray) -> bool:
    """Check whether the arm was already at rest at ``tip`` (3,) m in the snapshot."""
    joints = len(snapshot.setpoint)
    tips = snapshot.proprio[-SETTLING_STEPS:, joints : joints + 3].numpy()
    return bool(np.linalg.norm(tips - tip, axis=1).max() < REST_M)


def _propagate(
    belief: Belief,
    snapshot: BeliefSnapshot,
    arm: Arm,
    time: TimeConfig,
    now: JointSample,
    done: float,
) -> None:
    """Restore the belief and propagate it over the first ``done`` recent and upcoming actions."""
    recent, upcoming = snapshot.actions[-MAX_UNFINISHED:], snapshot.upcoming_actions
    actions, sent, dt = torch.cat([recent, upcoming]), len(recent), time.control_dt
    shares = (done - torch.arange(len(actions), dtype=torch.float32)).clamp(0.0, 1.0)
    carried = actions * shares[:, None]
    older = snapshot.actions[: len(snapshot.actions) - sent]
    belief.restore(replace(snapshot, actions=torch.cat([older, carried[:sent]])))
    begun = float(snapshot.action_stamps[-1]) if sent else snapshot.stamp
    further = max(0, int(np.ceil(done)) - sent)
    for i, action in enumerate(carried[sent : sent + further]):
        belief.record_action(begun + (i + 1) * dt, action)
    moves = int(snapshot.delay[0]) + further + 1
    start = snapshot.proprio[-1, : len(now.position)].numpy().astype(float)
    target = arm.tip_position(now.position)
    for i in range(1, moves + SETTLING_STEPS):
        joints = start + min(1.0, i / moves) * (now.position - start)
        belief.update_blind(snapshot.stamp + i * dt, _proprio(arm, joints, target))


def _proprio(arm: Arm, joints: FloatArray, tip_setpoint: FloatArray) -> Tensor:
    """Return the proprioception (1, P) for ``joints`` (J,) rad and ``tip_setpoint`` (3,) m."""
    row = proprioception(joints, arm.tip_position(joints), tip_setpoint)
    return torch.tensor(row[None], dtype=torch.float32)
