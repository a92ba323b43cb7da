"""Hindsight sampling: transitions of recorded episodes with goals that were reached later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.model.heads.actor_critic import goal_features

from .encoding import EncodedEpisodes

FIRST_FRAME_REPEATS = 4
"""Number of extra samples of an episode's first frame. Later the arm rests only where a goal has
just been reached; without these samples, rest itself would predict success."""
NEAR_GOAL_STD = 0.04
"""m, standard deviation on each axis of the offset of random goals near the subject."""
Batch = dict[str, Tensor]


class GoalSampler(Protocol):
    """Source of training batches for actor and value."""

    def sample(self, count: int, max_steps: int, random_goals: float) -> Batch:
        """Return ``count`` transitions with goals, as tensors by name.

        Args:
            count: number of transitions.
            max_steps: longest time to a goal, in control steps.
            random_goals: share of goals that are not taken from the future of the episode.
        """
        ...

    def features(self, batch: Batch, later: bool = False) -> Tensor:
        """Return network inputs (B, N) at the transitions' start, or their end if ``later``."""
        ...

    def is_reached(self, batch: Batch, tolerance: float) -> Tensor:
        """Return the mask (B,) of goals within ``tolerance`` (m) at the transitions' start."""
        ...


@dataclass(frozen=True)
class Trajectories:
    """Latents and actions of all frames, and which frames form the episodes to sample from.

    Attributes:
        latents: (N, D). actions: (N, A), the last row of an episode is not used.
        starts, lengths: (E,) first frame and number of frames of each episode.
        frame_skip: K, control steps in a model step.
    """

    latents: NDArray[np.float32]
    actions: NDArray[np.float32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    frame_skip: int

    @classmethod
    def training_split(cls, encoded: EncodedEpisodes) -> Trajectories:
        """Return the episodes of the training split."""
        episodes, indices = encoded.episodes, encoded.training
        return cls(
            encoded.z,
            np.asarray(episodes.action),
            episodes.ep_offset[indices],
            episodes.ep_len[indices],
            episodes.contract.time.frame_skip,
        )

    def transitions(
        self, first_frame_repeats: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the start frames (T,) of all transitions, each with a model step after it.

        Also return the first and the last frame (T,) of the episode of each of them. The first
        frame of each episode occurs ``first_frame_repeats`` more times.
        """
        starts, lengths = self.starts, self.lengths
        usable = np.maximum(lengths - self.frame_skip, 0)
        now = [start + np.arange(n) for start, n in zip(starts, usable, strict=True)]
        first = np.repeat(starts, first_frame_repeats)
        last = np.repeat(starts + lengths - 1, first_frame_repeats)
        return (
            np.concatenate([*now, first]),
            np.concatenate([np.repeat(starts, usable), first]),
            np.concatenate([np.repeat(starts + lengths - 1, usable), last]),
        )

    def batch(self, now: NDArray[np.int64], start: NDArray[np.int64]) -> dict[str, NDArray]:
        """Return latents and action blocks of transitions from frames ``now`` (B,).

        Args:
            now: (B,) frames. start: (B,) first frames of their episodes.

        Returns:
            z, z_prev, z_next (B, D), one model step apart; action (B, K*A).
        """
        skip = self.frame_skip
        return {
            'z': self.latents[now],
            'z_prev': self.latents[np.maximum(now - skip, start)],
            'z_next': self.latents[now + skip],
            'action': np.concatenate([self.actions[now + i] for i in range(skip)], axis=1),
        }


class HindsightSampler:
    """Sampler of transitions with tip or object positions as goals; see ``GoalSampler``."""

    def __init__(
        self,
        trajectories: Trajectories,
        positions: NDArray[np.float32],
        estimates: NDArray[np.float32],
        rng: np.random.Generator,
    ) -> None:
        """Create the sampler.

        Args:
            trajectories: trajectories to sample from.
            positions: (2, N, 3) m, true tip target and object position. Goals are taken from
                these: with estimates as goals, the value would learn to change the estimate, for
                instance by hiding the object behind the arm.
            estimates: (2, N, 3) m, the same positions as read from the latents by the probes.
            rng: source of randomness.
        """
        self._trajectories, self._rng = trajectories, rng
        self._positions, self._estimates = positions, estimates
        self._now, self._start, self._end = trajectories.transitions(FIRST_FRAME_REPEATS)

    def sample(self, count: int, max_steps: int, random_goals: float) -> Batch:
        """Return ``count`` transitions with goals; see ``GoalSampler.sample``.

        Goals more than 1 cm from the subject are preferred.

        Returns:
            z, z_prev, z_next (B, D); action (B, K*A); goal (B, 3) m; read, read_next (B, 3) m:
            estimated position of the subject now and one model step later; gap (B,) m from the
            subject to the goal; subject (B,) 1 for the object, 0 for the tip; remaining (B,)
            control steps until the episode reached the goal (meaningless for random goals).
        """
        rng, positions = self._rng, self._positions
        pick = rng.integers(0, len(self._now), 2 * count)
        now, end, start = self._now[pick], self._end[pick], self._start[pick]
        subject = (rng.random(2 * count) < 0.65).astype(np.int64)
        steps = np.minimum(rng.integers(1, max_steps + 1, 2 * count), end - now)
        goal = positions[subject, now + steps]
        moved = np.linalg.norm(goal - positions[subject, now], axis=1) > 0.01
        order = np.argsort(~moved & (rng.random(2 * count) < 0.7), kind='stable')[:count]
        now, start, subject = now[order], start[order], subject[order]
        steps, goal = steps[order], goal[order]
        is_random = rng.random(count) < random_goals
        elsewhere = self._now[rng.integers(0, len(self._now), count)]
        offset = rng.normal(0.0, NEAR_GOAL_STD, (count, 3)).astype(np.float32)
        offset[subject == 1, 2] = 0.0
        near = positions[subject, now] + offset
        is_near = rng.random(count) < 0.5
        random = np.where(is_near[:, None], near, positions[subject, elsewhere])
        goal = np.where(is_random[:, None], random, goal)
        gap = np.linalg.norm(goal - positions[subject, now], axis=1)
        rows = {
            **self._trajectories.batch(now, start),
            'goal': goal,
            'gap': gap.astype(np.float32),
            'read': self._estimates[subject, now],
            'read_next': self._estimates[subject, now + self._trajectories.frame_skip],
            'subject': subject.astype(np.float32),
            'remaining': steps.astype(np.float32),
        }
        return {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in rows.items()}

    def features(self, batch: Batch, later: bool = False) -> Tensor:
        """Return inputs (B, D + 7); see ``GoalSampler.features``."""
        z, read = ('z_next', 'read_next') if later else ('z', 'read')
        return goal_features(batch[z], batch[read], batch['subject'], batch['goal'])

    def is_reached(self, batch: Batch, tolerance: float) -> Tensor:
        """Return the mask (B,) of reached goals; see ``GoalSampler.is_reached``."""
        return batch['gap'] < tolerance
