"""Teaches what pushes objects to a place and a yaw, on a frozen world model.

The reader: from pieces of images, by the likelihood of an error on the circle. The turn: by the
distance to what the object turned in a model step. Actor and value: as ``hindsight`` does, with
places and yaws that the same episode came to.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..angles import QUARTER, yaw_error
from ..config import PoseConfig, to_dict
from ..data.augment import shift_colours
from ..data.episodes import EpisodeFile
from ..model.checkpoint import (
    Checkpoint,
    CheckpointError,
    add_module,
    check_contract,
    git_hash,
    load_checkpoint,
    round_weights,
)
from ..model.precision import mixed_precision
from ..model.yaw import YawReader, pieces_of
from ..planning.pose_heads import (
    PoseActor,
    PoseHeads,
    Turn,
    motion_features,
    pose_features,
)
from ..sim.camera import project
from .cpu import worker_pool
from .encoding import Encoded, encode_frames, split_of
from .hindsight import FIRST_FRAMES, frames_with_next, schedule, train_value

SPACE = 3
"""Directions in which actions move the tip."""
RIM = 2.0
"""Pixels beyond the image within which an object's middle may be."""
MISREAD = 0.3
"""Pixels, standard deviation on each axis of where an object is looked for in training."""
YAW_NOISE = 0.03, 0.08
"""rad, standard deviation of yaws that are told in training: of four in five, and of the rest."""
MOVED, TURNED = 0.01, 0.09
"""m and rad: futures in which the object did are preferred as goals."""
MISSED_BY, TURNED_BY = (0.015, 0.05), 0.15
"""m and rad, standard deviations of random goals near the object."""


def train_pose(
    folder: Path,
    data: Path,
    config: PoseConfig,
    seed: int,
    progress: bool,
    encoded: Encoded | None = None,
) -> dict[str, Any]:
    """Adds ``pose.safetensors`` to the checkpoint in ``folder``.

    Args:
        folder: checkpoint with a world model and probes.
        data: the episode file it was trained on; held-out episodes tell how well it reads.
        encoded: all of its frames; None: they are encoded first.

    Returns:
        What ``config.json`` keeps of it under ``pose``.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
        RuntimeError: a loss that is not finite.
    """
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    if checkpoint.contract.action_width != SPACE:
        raise CheckpointError(
            f'{folder}: expected actions that move the tip in {SPACE} directions, got '
            f'{checkpoint.contract.action_width}; yaws are not planned for in others'
        )
    teach_heads = partial(_teach_heads, encoded)
    jobs = [(job, folder, data, config, seed, progress) for job in (_teach_reader, teach_heads)]
    with worker_pool(2) as pool:
        results = list(pool.map(_run, jobs))
    time = checkpoint.contract.time
    heads = PoseHeads(time.frame_skip, checkpoint.contract.action_width, config.max_steps)
    about = {**to_dict(config), 'seed': seed, 'git': git_hash()}
    for states, told in results:
        about |= told
        for name, state in states.items():
            module = getattr(heads, name)
            module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    round_weights(heads)
    add_module(checkpoint.folder, 'pose', heads, about)
    return about


Taught = tuple[dict[str, dict[str, NDArray]], dict[str, Any]]
"""Weights of each part, and what is told of it."""


def _run(job: tuple) -> Taught:
    teach, folder, data, config, seed, progress = job
    torch.manual_seed(seed)
    taught: Taught = teach(load_checkpoint(folder), EpisodeFile(data), config, seed, progress)
    return taught


def _state(module: nn.Module) -> dict[str, NDArray]:
    return {k: v.numpy() for k, v in module.state_dict().items()}


def _teach_reader(
    checkpoint: Checkpoint, episodes: EpisodeFile, config: PoseConfig, seed: int, progress: bool
) -> Taught:
    camera, rng = checkpoint.contract.camera, np.random.default_rng(seed)
    yaw = np.asarray(episodes.object_yaw, dtype=np.float64)
    pixels = project(camera, np.asarray(episodes.object_position, dtype=np.float64))
    size = np.array([camera.width, camera.height])
    in_view = ((pixels > -RIM) & (pixels < size + RIM)).all(axis=1)
    training, held_out = split_of(checkpoint, episodes)
    of_frame = episodes.episode_of_frames()
    rows = np.flatnonzero(in_view & np.isin(of_frame, training))
    reader = YawReader()
    reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(reader.parameters(), config.reader_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.reader_rate, config.reader_steps, pct_start=0.1
    )
    bar = tqdm(range(config.reader_steps), desc='yaw', disable=not progress, mininterval=2.0)
    for step in bar:
        batch = np.sort(rng.choice(rows, config.reader_batch))
        images = torch.from_numpy(shift_colours(episodes.pixels[batch], rng))
        where = pixels[batch] + rng.normal(0.0, MISREAD, (len(batch), 2))
        where = torch.tensor(where, dtype=torch.float32)
        truth = torch.tensor(4.0 * yaw[batch], dtype=torch.float32)
        with mixed_precision():
            direction, log_chord = reader(pieces_of(images, where), where)
        true = torch.stack([torch.sin(truth), torch.cos(truth)], dim=1)
        chord = (direction.float() - true).square().sum(1)
        loss = (chord * torch.exp(-log_chord.float()) + log_chord.float()).mean()
        if not torch.isfinite(loss):
            raise RuntimeError(f'yaw: the loss is not finite at step {step}')
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reader.eval()
    round_weights(reader)
    unseen = np.flatnonzero(in_view & np.isin(of_frame, held_out))
    errors, spreads = [], []
    for batch in np.array_split(unseen, max(1, len(unseen) // 512)):
        where = pixels[batch] + rng.normal(0.0, MISREAD, (len(batch), 2))
        read, spread = reader.read(np.array(episodes.pixels[batch]), where)
        errors.append(np.degrees(np.abs(yaw_error(read, yaw[batch]))))
        spreads.append(np.degrees(spread))
    error, spread = np.concatenate(errors), np.concatenate(spreads)
    told = {
        'yaw_median_deg': round(float(np.median(error)), 3),
        'yaw_p90_deg': round(float(np.percentile(error, 90)), 3),
        'yaw_rms_deg': round(float(np.sqrt(np.mean(error**2))), 3),
        'yaw_expected_rms_deg': round(float(np.sqrt(np.mean(spread**2))), 3),
    }
    return {'reader': _state(reader)}, told


def _teach_heads(
    encoded: Encoded | None,
    checkpoint: Checkpoint,
    episodes: EpisodeFile,
    config: PoseConfig,
    seed: int,
    progress: bool,
) -> Taught:
    encoded = encoded or encode_frames(checkpoint.model, episodes)
    rng = np.random.default_rng(seed)
    samples = PoseHindsight(checkpoint, episodes, encoded.z, config.turned_within_deg, rng)
    heads = PoseHeads(samples.skip, checkpoint.contract.action_width, config.max_steps)
    told = {
        'turn_error_deg': _teach_turn(heads.turn, samples, config, progress),
        'actor_loss': _teach_actor(heads.actor, samples, config, progress),
        'value_loss': round(train_value(heads, samples, config, progress), 4),
    }
    return {name: _state(getattr(heads, name)) for name in ('turn', 'actor', 'value')}, told


class PoseHindsight:
    """Samples what happened in a model step, with a pose as goal.

    Half of what is drawn is mirrored: the arm's workspace is, too. These are ``Samples``.

    Attributes:
        skip: K, control steps in a model step.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        episodes: EpisodeFile,
        latents: NDArray[np.float32],
        turned_within_deg: float,
        rng: np.random.Generator,
    ) -> None:
        """Of the training split of ``episodes``, read in their ``latents`` (N, D).

        ``turned_within_deg``: degrees, when the yaw of a goal counts as reached.
        """
        self._rng, self.skip = rng, checkpoint.contract.time.frame_skip
        self._turned_within = float(np.radians(turned_within_deg))
        z = torch.from_numpy(latents)
        with torch.inference_mode():
            reads = [checkpoint.probes.read(s, z).numpy().copy() for s in ('tip', 'object')]
        self._tip, self._thing = reads
        self._truth = np.asarray(episodes.object_position)
        self._yaw = np.asarray(episodes.object_yaw)
        self._actions = np.asarray(episodes.action)
        training, _ = split_of(checkpoint, episodes)
        starts, lengths = episodes.ep_offset[training], episodes.ep_len[training]
        now, start, end = frames_with_next(starts, lengths, self.skip)
        first = np.repeat(starts, FIRST_FRAMES)
        self._now = np.concatenate([now, first])
        self._start = np.concatenate([start, first])
        self._end = np.concatenate([end, first + np.repeat(lengths - 1, FIRST_FRAMES)])

    def sample(self, count: int, max_steps: int, random_goals: float) -> dict[str, Tensor]:
        """``count`` rows; goals from the future of the episode, or at random.

        Returns:
            now, later (B, FEATURES) of ``pose_features``, and motion of ``motion_features``;
            turned (B,) rad in the model step; action (B, K*A) as the object sees it; remaining
            (B,) control steps to the goal; is_near (B, 2) m and rad to it.
        """
        rng = self._rng
        pick = rng.integers(0, len(self._now), 2 * count)
        now, start, end = self._now[pick], self._start[pick], self._end[pick]
        steps = np.minimum(rng.integers(1, max_steps + 1, 2 * count), end - now)
        place, yaw = self._truth[now + steps], self._yaw[now + steps]
        moved = np.linalg.norm(place - self._truth[now], axis=1) > MOVED
        moved |= np.abs(yaw_error(self._yaw[now], yaw)) > TURNED
        order = np.argsort(~moved & (rng.random(2 * count) < 0.8), kind='stable')[:count]
        now, start, steps = now[order], start[order], steps[order]
        place, yaw = place[order], yaw[order]
        if random_goals > 0.0:
            place, yaw = self._at_random(now, place, yaw, random_goals)
        gap = np.linalg.norm((place - self._truth[now])[:, :2], axis=1)
        left = np.abs(yaw_error(self._yaw[now], yaw))
        rows = self._rows(now, start, np.column_stack([place, yaw]))
        rows['remaining'] = torch.from_numpy(steps.astype(np.float32))
        rows['is_near'] = torch.tensor(np.column_stack([gap, left]), dtype=torch.float32)
        return rows

    def features(self, rows: dict[str, Tensor], later: bool = False) -> Tensor:
        """See ``Samples.features``."""
        return rows['later' if later else 'now']

    def is_reached(self, rows: dict[str, Tensor], within: float) -> Tensor:
        """See ``Samples.is_reached``."""
        return (rows['is_near'] < torch.tensor([within, self._turned_within])).all(dim=1)

    def _at_random(
        self, now: NDArray, place: NDArray, yaw: NDArray, share: float
    ) -> tuple[NDArray, NDArray]:
        rng, count = self._rng, len(now)
        other, is_near = rng.random(count) < share, rng.random(count) < 0.6
        elsewhere = self._now[rng.integers(0, len(self._now), count)]
        wide = np.where(rng.random(count) < 0.5, *MISSED_BY)[:, None]
        missed = rng.normal(0.0, 1.0, (count, 3)) * wide * [1.0, 1.0, 0.0]
        near = self._truth[now] + missed
        turn = rng.normal(0.0, TURNED_BY, count)
        any_turn = (rng.random(count) - 0.5) * QUARTER
        turned = self._yaw[now] + np.where(rng.random(count) < 0.5, turn, any_turn)
        at = np.where(is_near[:, None], near, self._truth[elsewhere])
        of = np.where(is_near, turned, self._yaw[elsewhere])
        return np.where(other[:, None], at, place), np.where(other, of, yaw)

    def _rows(self, now: NDArray, start: NDArray, goal: NDArray) -> dict[str, Tensor]:
        rng, count, skip = self._rng, len(now), self.skip
        side = np.where(rng.random(count) < 0.5, -1.0, 1.0)

        def seen(values: NDArray) -> Tensor:
            values = values * np.stack([np.ones(count), side, np.ones(count)], axis=1)
            return torch.tensor(values, dtype=torch.float32)

        def turned(values: NDArray) -> Tensor:
            return torch.tensor(values * side, dtype=torch.float32)

        last, after = np.maximum(now - skip, start), now + skip
        noise = rng.normal(0.0, 1.0, count) * np.where(rng.random(count) < 0.8, *YAW_NOISE)
        told = torch.cat([seen(goal[:, :3]), turned(goal[:, 3])[:, None]], dim=1)
        yaw, yaw_after = self._yaw[now], self._yaw[after]
        tip = [seen(self._tip[i]) for i in (last, now, after)]
        thing = [seen(self._thing[i]) for i in (last, now, after)]
        pose = pose_features(turned(yaw + noise), (tip[1], tip[0]), (thing[1], thing[0]), told)
        later = turned(yaw_after + noise)
        actions = torch.stack([seen(self._actions[now + i]) for i in range(skip)], dim=1)
        turn = (yaw_after - yaw + np.pi) % (2.0 * np.pi) - np.pi
        return {
            'now': pose[0],
            'later': pose_features(later, (tip[2], tip[1]), (thing[2], thing[1]), told)[0],
            'motion': motion_features(
                turned(yaw + noise), (tip[1], tip[0]), (thing[1], thing[2]), actions
            ),
            'turned': turned(turn),
            'action': pose[1].to(actions).flatten(1),
        }


def _teach_turn(turn: Turn, samples: PoseHindsight, config: PoseConfig, progress: bool) -> float:
    """Fits ``turn``; returns the mean error (degrees) of the last 200 steps."""
    errors: list[float] = []
    for _ in schedule(turn, config.turn_steps, config, 'turn', progress, errors):
        rows = samples.sample(config.batch, config.max_steps, random_goals=0.0)
        error = (turn(rows['motion']) - rows['turned']).abs().mean()
        error.backward()
        errors.append(error.item())
    return round(float(np.degrees(np.mean(errors[-200:]))), 3)


def _teach_actor(
    actor: PoseActor, samples: PoseHindsight, config: PoseConfig, progress: bool
) -> float:
    """Fits ``actor``; returns the mean negative log-likelihood of the last 200 steps."""
    losses: list[float] = []
    for _ in schedule(actor, config.actor_steps, config, 'pose actor', progress, losses):
        rows = samples.sample(config.batch, config.max_steps, random_goals=0.0)
        remaining = rows['remaining'] / config.max_steps
        loss = -actor.log_prob(samples.features(rows), remaining, rows['action']).mean()
        loss.backward()
        losses.append(loss.item())
    return round(float(np.mean(losses[-200:])), 4)
