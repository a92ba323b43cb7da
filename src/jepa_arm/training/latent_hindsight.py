"""Hindsight for heads that are told goals as latents: what the same episode looked like later."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..planning.heads import latent_goal_features
from .hindsight import frames_with_next


class LatentHindsight:
    """Samples (state, next state, action block, goal latent) from episodes of frozen latents.

    No labels are used. A goal counts as reached in its own frame alone, so goals lie whole model
    steps ahead: from elsewhere the path that was recorded would step over them.

    Args:
        latents: (N, D) of all frames. actions: (N, A), last row of an episode unused.
        starts, lengths: (E,) offset and frames of the episodes to sample from.
        frame_skip: control steps in a model step.
    """

    def __init__(
        self,
        latents: NDArray[np.float32],
        actions: NDArray[np.float32],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        frame_skip: int,
        rng: np.random.Generator,
    ) -> None:
        self._latents, self._actions, self._skip, self._rng = latents, actions, frame_skip, rng
        self._now, self._start, self._end = frames_with_next(starts, lengths, frame_skip)

    def sample(self, count: int, max_steps: int, random_goals: float) -> dict[str, Tensor]:
        """``count`` rows; goals from the future of the episode, or at random.

        Half of the random goals are of the same episode, past or future; the others of any.

        Returns:
            z, z_prev, z_next, goal (B, D); action (B, K*A); gap (B,) control steps to the goal,
            0 where it is there now, infinite where it is not on the way; remaining (B,) control
            steps to a goal of the future.
        """
        rng, skip = self._rng, self._skip
        pick = rng.integers(0, len(self._now), count)
        now, start, end = self._now[pick], self._start[pick], self._end[pick]
        blocks = rng.integers(0, max_steps // skip + 1, count)
        blocks = np.minimum(blocks, (end - now) // skip)
        if random_goals == 0.0:
            blocks = np.maximum(blocks, 1)
        goal = now + skip * blocks
        gap = (skip * blocks).astype(np.float32)
        other = rng.random(count) < random_goals
        same = start + (rng.random(count) * (end - start + 1)).astype(np.int64)
        anywhere = self._now[rng.integers(0, len(self._now), count)]
        strange = np.where(rng.random(count) < 0.5, same, anywhere)
        goal = np.where(other, strange, goal)
        gap = np.where(other, np.where(strange == now, 0.0, np.inf), gap)
        rows = {
            'z': self._latents[now],
            'z_prev': self._latents[np.maximum(now - skip, start)],
            'z_next': self._latents[now + skip],
            'action': np.concatenate([self._actions[now + i] for i in range(skip)], axis=1),
            'goal': self._latents[goal],
            'gap': gap.astype(np.float32),
            'remaining': (skip * blocks).astype(np.float32),
        }
        return {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in rows.items()}

    def features(self, rows: dict[str, Tensor], later: bool = False) -> Tensor:
        """See ``Samples.features``."""
        return latent_goal_features(rows['z_next' if later else 'z'], rows['goal'])

    def is_reached(self, rows: dict[str, Tensor], within: float) -> Tensor:
        """See ``Samples.is_reached``."""
        return rows['gap'] == 0.0
