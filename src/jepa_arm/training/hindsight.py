"""Trains the goal-conditioned heads on frozen latents, with goals taken from hindsight.

Actor: mixture-density behaviour cloning towards what the same episode reached 1 to
``max_steps`` control steps later (goal-conditioned supervised learning). Value: expectile
regression of the goal-reaching return (HIQL, arXiv:2307.11949, eq. 4, action-free form), with
"reached" meaning within ``reached_within`` of the goal position.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..config import HeadsConfig, to_dict
from ..data.episodes import EpisodeFile
from ..model.checkpoint import (
    Checkpoint,
    add_module,
    check_contract,
    git_hash,
    load_checkpoint,
    round_weights,
)
from ..model.optimizers import adamw
from ..planning.heads import Heads, goal_features
from ..planning.pose_heads import PoseHeads
from .cpu import worker_pool
from .encoding import Encoded, encode_frames, split_of


def train_heads(
    folder: Path,
    data: Path,
    config: HeadsConfig,
    seed: int,
    progress: bool,
    encoded: Encoded | None = None,
) -> None:
    """Trains actor and value for the checkpoint in ``folder`` and adds them to it.

    The two train side by side in two processes of one thread each.

    Args:
        folder: checkpoint with a world model and probes; gets ``heads.safetensors``.
        data: the episode file it was trained on; only its training split is used.
        encoded: all of its frames; None: they are encoded first.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
        RuntimeError: a loss that is not finite.
    """
    checkpoint = load_checkpoint(folder)
    episodes = EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    encoded = encoded or encode_frames(checkpoint.model, episodes)
    fit_heads(checkpoint, episodes, encoded.z, config, seed, progress)


def fit_heads(
    checkpoint: Checkpoint,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    config: HeadsConfig,
    seed: int,
    progress: bool,
) -> None:
    """``train_heads`` for an open checkpoint and the ``latents`` (N, D) of all frames."""
    with torch.inference_mode():
        z = torch.from_numpy(latents)
        reads = np.stack([checkpoint.probes.read(s, z).numpy() for s in ('tip', 'object')])
    training, _ = split_of(checkpoint, episodes)
    arguments = (
        latents,
        np.asarray(episodes.action),
        np.stack([episodes.tip_target, episodes.object_position]),
        reads,
        episodes.ep_offset[training],
        episodes.ep_len[training],
        episodes.contract.time.frame_skip,
    )
    sizes = (checkpoint.model.latent, checkpoint.model.block_width, config.max_steps)
    jobs = [(name, sizes, arguments, config, seed, progress) for name in ('actor', 'value')]
    with worker_pool(2) as pool:
        results = list(pool.map(_train_head, jobs))
    heads = Heads(*sizes)
    for name, (state, _) in zip(('actor', 'value'), results, strict=True):
        getattr(heads, name).load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    round_weights(heads)
    losses = {'actor_loss': results[0][1], 'value_loss': results[1][1]}
    info = {**to_dict(config), 'seed': seed, 'git': git_hash(), **losses}
    add_module(checkpoint.folder, 'heads', heads, info)


def _train_head(job: tuple) -> tuple[dict[str, NDArray], float]:
    name, sizes, arguments, config, seed, progress = job
    torch.manual_seed(seed)
    heads = Heads(*sizes)
    data = Hindsight(*arguments, rng=np.random.default_rng([seed, ord(name[0])]))
    train = {'actor': train_actor, 'value': train_value}[name]
    loss = train(heads, data, config, progress)
    state = getattr(heads, name).state_dict()
    return {k: v.numpy() for k, v in state.items()}, loss


FIRST_FRAMES = 4
"""How often the first frame of an episode is drawn beside the others. Later the arm rests only
where a goal was just reached; without these, rest itself would look like success."""


MISSED_BY = 0.04
"""m, how far the random goals near the subject lie from it on each axis (standard deviation)."""


class Samples(Protocol):
    """What heads are trained on."""

    def sample(self, count: int, max_steps: int, random_goals: float) -> dict[str, Tensor]:
        """``count`` rows: z, z_prev, z_next, action, remaining, and what the goals are told by."""
        ...

    def features(self, rows: dict[str, Tensor], later: bool = False) -> Tensor:
        """What the heads see in ``rows`` now, or a model step later."""
        ...

    def is_reached(self, rows: dict[str, Tensor], within: float) -> Tensor:
        """(B,) whether the goals are reached now; ``within`` m, where they are places."""
        ...


def frames_with_next(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], frame_skip: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Frames that have another a model step later, and first and last of their episodes, (N,)."""
    usable = np.maximum(lengths - frame_skip, 0)
    now = [start + np.arange(n) for start, n in zip(starts, usable, strict=True)]
    return (
        np.concatenate(now),
        np.repeat(starts, usable),
        np.repeat(starts + lengths - 1, usable),
    )


class Hindsight:
    """Samples (state, next state, action block, goal) from episodes of frozen latents.

    Args:
        latents: (N, D) of all frames. actions: (N, A), last row of an episode unused.
        truth: (2, N, 3) m, where the tip was told to be, and where the object was. Goals are
            taken from here: a value taught by the probes' readings learns to move the reading,
            for instance by hiding the object behind the arm.
        reads: (2, N, 3) m, the same as the probes read it in ``latents``.
        starts, lengths: (E,) offset and frames of the episodes to sample from.
        frame_skip: control steps in a model step.
    """

    def __init__(
        self,
        latents: NDArray[np.float32],
        actions: NDArray[np.float32],
        truth: NDArray[np.float32],
        reads: NDArray[np.float32],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        frame_skip: int,
        rng: np.random.Generator,
    ) -> None:
        self._latents, self._actions, self._skip, self._rng = latents, actions, frame_skip, rng
        self._truth, self._reads = truth, reads
        now, start, end = frames_with_next(starts, lengths, frame_skip)
        first = np.repeat(starts, FIRST_FRAMES)
        self._now = np.concatenate([now, first])
        self._start = np.concatenate([start, first])
        self._end = np.concatenate([end, first + np.repeat(lengths - 1, FIRST_FRAMES)])

    def sample(self, count: int, max_steps: int, random_goals: float) -> dict[str, Tensor]:
        """``count`` rows; goals from the future of the episode, or at random.

        Object goals prefer futures in which the object moves by more than 1 cm. Half of the
        random goals are near where the subject is: else an arm that has left the object would
        be seen with goals that are reached or far away only, and a near miss would look good.

        Returns:
            z, z_prev, z_next (B, D); action (B, K*A); goal, read, read_next (B, 3) m; gap (B,)
            m, true distance to the goal; subject (B,) 1 object, 0 tip; remaining (B,) control
            steps to the goal.
        """
        rng = self._rng
        pick = rng.integers(0, len(self._now), 2 * count)
        now, end, start = self._now[pick], self._end[pick], self._start[pick]
        subject = (rng.random(2 * count) < 0.65).astype(np.int64)
        steps = np.minimum(rng.integers(1, max_steps + 1, 2 * count), end - now)
        goal = self._truth[subject, now + steps]
        moved = np.linalg.norm(goal - self._truth[subject, now], axis=1) > 0.01
        order = np.argsort(~moved & (rng.random(2 * count) < 0.7), kind='stable')[:count]
        now, start, subject = now[order], start[order], subject[order]
        steps, goal = steps[order], goal[order]
        other = rng.random(count) < random_goals
        elsewhere = self._now[rng.integers(0, len(self._now), count)]
        missed = rng.normal(0.0, MISSED_BY, (count, 3)).astype(np.float32)
        missed[subject == 1, 2] = 0.0
        near = self._truth[subject, now] + missed
        is_near = rng.random(count) < 0.5
        at_random = np.where(is_near[:, None], near, self._truth[subject, elsewhere])
        goal = np.where(other[:, None], at_random, goal)
        gap = np.linalg.norm(goal - self._truth[subject, now], axis=1)
        block = np.concatenate([self._actions[now + i] for i in range(self._skip)], axis=1)
        rows = {
            'z': self._latents[now],
            'z_prev': self._latents[np.maximum(now - self._skip, start)],
            'z_next': self._latents[now + self._skip],
            'action': block,
            'goal': goal,
            'gap': gap.astype(np.float32),
            'read': self._reads[subject, now],
            'read_next': self._reads[subject, now + self._skip],
            'subject': subject.astype(np.float32),
            'remaining': steps.astype(np.float32),
        }
        return {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in rows.items()}

    def features(self, rows: dict[str, Tensor], later: bool = False) -> Tensor:
        """See ``Samples.features``."""
        z, read = ('z_next', 'read_next') if later else ('z', 'read')
        return goal_features(rows[z], rows[read], rows['subject'], rows['goal'])

    def is_reached(self, rows: dict[str, Tensor], within: float) -> Tensor:
        """See ``Samples.is_reached``."""
        return rows['gap'] < within


def train_actor(heads: Heads, data: Samples, config: HeadsConfig, progress: bool) -> float:
    """Fits ``heads.actor``; returns the mean negative log-likelihood of the last 200 steps."""
    actor = heads.actor.train()
    losses: list[float] = []
    for _ in schedule(actor, config.actor_steps, config, 'actor', progress, losses):
        rows = data.sample(config.batch, heads.max_steps, random_goals=0.0)
        loss = -actor.log_prob(
            data.features(rows),
            rows['z'] - rows['z_prev'],
            rows['remaining'] / heads.max_steps,
            rows['action'],
        ).mean()
        loss.backward()
        losses.append(loss.item())
    actor.eval()
    return float(np.mean(losses[-200:]))


def train_value(
    heads: Heads | PoseHeads, data: Samples, config: HeadsConfig, progress: bool
) -> float:
    """Fits ``heads.value``; returns the mean loss of the last 200 steps."""
    value = heads.value.train()
    target = copy.deepcopy(value).requires_grad_(False)
    losses: list[float] = []
    for _ in schedule(value, config.value_steps, config, 'value', progress, losses):
        rows = data.sample(config.batch, heads.max_steps, random_goals=0.5)
        now, later = data.features(rows), data.features(rows, later=True)
        with torch.no_grad():
            is_reached = data.is_reached(rows, config.reached_within)
            follow = -1.0 + config.discount * target(later)
            wanted = torch.where(is_reached, torch.zeros_like(follow), follow)
        loss = sum(_expectile(wanted - v, config.expectile) for v in value.both(now))
        assert isinstance(loss, Tensor)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), value.parameters(), strict=True):
                slow.lerp_(fast, config.target_rate)
    value.eval()
    return float(np.mean(losses[-200:]))


def _expectile(error: Tensor, expectile: float) -> Tensor:
    weight = torch.where(error > 0, expectile, 1.0 - expectile)
    return (weight * error**2).mean()


def schedule(
    module: torch.nn.Module,
    steps: int,
    config: HeadsConfig,
    name: str,
    progress: bool,
    losses: list[float],
) -> Iterator[int]:
    """Yields before each backward pass and steps the optimiser after it (cosine rate)."""
    optimizer = adamw(module, config.learning_rate, 1e-4, steps)
    with tqdm(total=steps, desc=name, disable=not progress, mininterval=2.0) as bar:
        for step in range(steps):
            optimizer.zero_grad()
            yield step
            if not np.isfinite(losses[-1]):
                raise RuntimeError(f'{name}: the loss is not finite at step {step}')
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            bar.update()
            if step % 200 == 0:
                bar.set_postfix(loss=f'{np.mean(losses[-200:]):.3f}')
