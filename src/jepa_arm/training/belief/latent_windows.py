"""Latent windows: recorded latents along which a belief is propagated without images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.belief.image_change import ImageChange, image_changes
from jepa_arm.belief.surprise import (
    LatentPrediction,
    PredictedFrame,
    ScoredFrames,
    channel_scores,
    regime_of,
    tip_setpoints_of,
)
from jepa_arm.datasets.episodes import DataError
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.model.heads.belief_heads import LONG_HORIZON_STEPS, TIP_COLUMNS, BeliefHeads
from jepa_arm.model.heads.push_dynamics import ObjectPose, PushDynamics, yaw_hypotheses
from jepa_arm.model.world_model import WorldModel
from jepa_arm.training.encoding import EncodedEpisodes

PUSH_STEPS = 8
"""Model steps for which an object is followed in training."""
MIN_MOTION_M = 0.005
"""Distance from its start at which an object counts as moving."""
MAX_BATCH = 8192
"""Largest number of windows per call of a predictor, whose hidden layers need much memory."""
YAW_STD = 0.05
"""rad, standard deviation of a yaw read from an image."""


@dataclass(frozen=True)
class LatentWindows:
    """B windows of latents one model step apart: two frames with images, then L without.

    Attributes:
        z: (B, L+2, D) recorded latents. features: (B, L+2, F) of images alone.
        proprio: (B, L+2, P).
        actions: (B, L+1, K*A). positions: (B, L+2, 2, 3) m, true tip target and object position.
        contact: (B, L+2), True if arm and object touched in the last control step or this one.
        tips: (B, L*K+2, 3) m, tip positions one control step before the last image, at the last
            image, and at each control step after it.
        start: the object's pose in the last image, its position as read by the probe.
        object_path: (B, L*K, 4) m and rad, the object's true position and yaw at each control
            step after the last image.
    """

    z: Tensor
    features: Tensor
    proprio: Tensor
    actions: Tensor
    positions: Tensor
    contact: Tensor
    tips: Tensor
    start: ObjectPose
    object_path: Tensor

    @property
    def frame_skip(self) -> int:
        """Return K, control steps per model step."""
        return (self.tips.shape[1] - 2) // (self.actions.shape[1] - 1)

    def with_unknown_yaw(self) -> LatentWindows:
        """Return the same windows with the object's initial yaw set to NaN (unknown)."""
        return replace(self, start=replace(self.start, yaw=self.start.yaw * torch.nan))

    def first(self, steps: int) -> LatentWindows:
        """Return the windows shortened to their first ``steps`` model steps without images."""
        controls = steps * self.frame_skip
        lengths = dict.fromkeys(('z', 'features', 'proprio', 'positions', 'contact'), steps + 2)
        lengths |= {'actions': steps + 1, 'tips': controls + 2, 'object_path': controls}
        return replace(self, **{key: getattr(self, key)[:, :n] for key, n in lengths.items()})


class LatentEpisodes:
    """Encoded episodes from which latent windows are cut."""

    def __init__(self, checkpoint: Checkpoint, encoded: EncodedEpisodes) -> None:
        """Read the object's position from all latents with the probe of ``checkpoint``."""
        episodes = encoded.episodes
        self._episodes, self._frame_skip = episodes, episodes.contract.time.frame_skip
        self._latents, self._features = encoded.z, encoded.features
        self._proprio = np.asarray(episodes.proprioception())
        self._actions = np.asarray(episodes.action)
        self._positions = np.stack([episodes.tip_target, episodes.object_position], axis=1)
        with torch.inference_mode():
            read = checkpoint.probes.read('object', torch.from_numpy(encoded.z))
        self._read, self._yaw = read.numpy().copy(), np.asarray(episodes.object_yaw)
        contact = np.asarray(episodes.contact, dtype=bool)
        self._contact = contact | np.roll(contact, 1)

    def span(self, steps: int) -> int:
        """Return the number of frames from the first to the last frame of a window.

        Args:
            steps: L, number of model steps without images.
        """
        return (steps + 1) * self._frame_skip

    def starts(self, indices: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        """Return the first frames of all windows in the episodes ``indices``.

        Args:
            indices: indices of the episodes.
            steps: L, model steps without images.

        Raises:
            DataError: there are no such windows.
        """
        span = self.span(steps)
        starts = np.concatenate(
            [*self._episodes.starts(indices, span), np.zeros(0, dtype=np.int64)]
        )
        if not len(starts):
            raise DataError(
                f'{self._episodes.path}: expected episodes of more than {span} frames in the '
                'training split and two of them held out; collect more or reduce blind_steps'
            )
        return starts

    def windows(self, starts: NDArray[np.int64], steps: int) -> LatentWindows:
        """Return the B windows that begin at frames ``starts`` (B,).

        Args:
            starts: indices of frames, see the method ``starts``.
            steps: L, model steps without images in each window.
        """
        skip = self._frame_skip
        frames = np.add.outer(starts, np.arange(steps + 2) * skip)
        controls = np.add.outer(starts, np.arange((steps + 1) * skip))
        actions = self._actions[controls].reshape(len(starts), steps + 1, -1)
        rows = (self._latents, self._proprio, self._positions, self._contact)
        z, proprio, positions, contact = (torch.from_numpy(a[frames]) for a in rows)
        features = torch.from_numpy(self._features[frames]).float()
        last = starts + skip
        controls = np.add.outer(last, np.arange(-1, steps * skip + 1))
        tips = torch.from_numpy(self._proprio[controls][..., TIP_COLUMNS])
        position, before = (torch.from_numpy(self._read[i]) for i in (last, last - 1))
        yaw = torch.from_numpy(self._yaw[last])
        start = ObjectPose(position, yaw, position - before, torch.zeros_like(yaw))
        since = controls[:, 2:]
        path = np.concatenate([self._positions[since, 1], self._yaw[since][..., None]], axis=-1)
        tensors = torch.from_numpy(actions), positions, contact, tips, start
        return LatentWindows(z, features, proprio, *tensors, torch.from_numpy(path))

    def has_motion(self, starts: NDArray[np.int64], steps: int) -> NDArray[np.bool_]:
        """Return the mask (B,) of windows whose object moves in the ``steps`` model steps."""
        last, farthest = starts + self._frame_skip, np.zeros(len(starts))
        for later in range(1, steps * self._frame_skip + 1):
            moved = self._positions[last + later, 1] - self._positions[last, 1]
            farthest = np.maximum(farthest, np.linalg.norm(moved, axis=1))
        return farthest > MIN_MOTION_M

    def states(self, indices: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Return latents and true states of all N frames of the episodes ``indices``.

        Returns:
            z (N, D); proprioception (N, P); the object's position (N, 3) m and yaw (N,) rad.
        """
        rows = np.flatnonzero(np.isin(self._episodes.episode_of_frames(), indices))
        position, yaw = self._positions[rows, 1], self._yaw[rows]
        values = self._latents[rows], self._proprio[rows], position, yaw
        return tuple(map(torch.from_numpy, values))

    def images(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return images (B, h, w, 3) and proprioception (B, P) of ``frames`` (B,)."""
        pixels = self._episodes.pixels
        return np.stack([pixels[frame] for frame in frames]), self._proprio[frames]

    def recent_proprioception(self, frames: NDArray[np.int64]) -> Tensor:
        """Return proprioception (B, 2, P) one and two control steps before ``frames`` (B,)."""
        return torch.from_numpy(self._proprio[np.stack([frames - 1, frames - 2], axis=1)])

    def image_changes(self, frames: NDArray[np.int64], colours: bool = True) -> ImageChange:
        """Return how the images ``frames`` (B,) differ from earlier ones of their episodes.

        Without ``colours``, the novelty of colours is NaN.
        """
        owner = self._episodes.episode_of_frames()[frames]
        order = np.argsort(owner, kind='stable')
        changes = []
        for episode in np.unique(owner):
            own, first = frames[owner == episode], self._episodes.ep_offset[episode]
            rows = slice(first, own.max() + 1)
            pixels, proprio = np.array(self._episodes.pixels[rows]), np.array(self._proprio[rows])
            time = self._episodes.contract.time
            changes.append(image_changes(pixels, proprio, time, colours).rows(own - first))
        return ImageChange.join(changes).rows(np.argsort(order))


class LatentWindowSampler:
    """Sampler of random latent windows from some episodes, with noise on the initial yaws.

    Attributes:
        episodes: indices of these episodes. rng: source of randomness for windows and noise.
    """

    def __init__(
        self,
        latents: LatentEpisodes,
        episodes: NDArray[np.int64],
        steps: int,
        rng: np.random.Generator,
    ) -> None:
        """Create the sampler of windows with ``steps`` model steps without images.

        Raises:
            DataError: the ``episodes`` are too short.
        """
        self._latents, self._steps, self.episodes, self.rng = latents, steps, episodes, rng
        self._starts = latents.starts(episodes, steps)
        moving = self._starts[latents.has_motion(self._starts, min(steps, PUSH_STEPS))]
        self._moving = moving if len(moving) else self._starts

    def sample(self, count: int, min_moving_share: float = 0.0) -> LatentWindows:
        """Return ``count`` windows; in at least ``min_moving_share`` of them the object moves."""
        starts = self._starts[self.rng.integers(0, len(self._starts), count)]
        moving = round(min_moving_share * count)
        starts[:moving] = self._moving[self.rng.integers(0, len(self._moving), moving)]
        windows = self._latents.windows(starts, self._steps)
        start = replace(windows.start, yaw=self.noisy(windows.start.yaw))
        return replace(windows, start=start)

    def noisy(self, yaw: Tensor) -> Tensor:
        """Return true yaws (B,) rad with noise as large as the error of yaws read from images."""
        return yaw + torch.from_numpy(self.rng.normal(0.0, YAW_STD, len(yaw))).float()


def follow_object(dynamics: PushDynamics, windows: LatentWindows) -> list[ObjectPose]:
    """Return the object's poses after each control step, predicted from the tip's path.

    Each item holds B poses, or B * YAW_HYPOTHESES if no yaw is known.
    """
    pose, tips, poses = windows.start, windows.tips, []
    if pose.yaw.isnan().all():
        pose = yaw_hypotheses(pose.position, pose.position_step)
        tips = tips.repeat_interleave(len(pose.yaw) // len(tips), 0)
    for step in range(tips.shape[1] - 2):
        pose = dynamics(pose, tips[:, step : step + 3])
        poses.append(pose)
    return poses


def predict_open_loop(model: WorldModel, windows: LatentWindows) -> Tensor:
    """Return the latents (B, L, D) that ``model`` predicts after the first two."""
    return model.rollout(windows.z[:, 1], windows.z[:, 0], windows.actions[:, 1:])


def blind_beliefs(heads: BeliefHeads, windows: LatentWindows) -> Tensor:
    """Return the beliefs (B, L, D) propagated without images after the first two latents.

    The propagation is that of ``Belief.update_blind``.
    """
    skip, count = windows.frame_skip, len(windows.z)
    poses, beliefs = follow_object(heads.push_dynamics, windows)[skip - 1 :: skip], []
    for step, pose in enumerate(poses):
        position = pose.position.view(count, -1, 3).mean(1)
        yaw = pose.yaw if len(pose.yaw) == count else windows.start.yaw  # NaN
        beliefs.append(heads.state_encoder(windows.proprio[:, step + 2], position, yaw))
    return torch.stack(beliefs, 1)


class BeliefErrors(NamedTuple):
    """Beliefs without images and the errors of the positions that probes read from them.

    Attributes:
        z: (N, D). blind_s: (N,) s since the last image.
        yaw: (N,) rad, of the object in that image, NaN if unknown.
        error: (N, 2, 3) m, of tip target and object position.
    """

    z: Tensor
    blind_s: Tensor
    yaw: Tensor
    error: Tensor


def belief_errors(
    checkpoint: Checkpoint, heads: BeliefHeads, windows: LatentWindows
) -> BeliefErrors:
    """Return the position errors of the N = B * (L + 1) beliefs along B ``windows``.

    Each window gives L + 1 beliefs, 0 to L model steps after its last image. The results are in
    the order of the windows.
    """
    with torch.inference_mode():
        beliefs = torch.cat([windows.z[:, 1:2], blind_beliefs(heads, windows)], dim=1)
        read = torch.stack(checkpoint.probes.read_both(beliefs), 2)
    seconds = torch.arange(beliefs.shape[1]) * checkpoint.contract.time.model_dt
    error, shape = read - windows.positions[:, 1:], beliefs.shape[:2]
    return BeliefErrors(
        beliefs.flatten(0, 1).clone(),
        seconds.float().expand(shape).flatten(),
        windows.start.yaw[:, None].expand(shape).flatten(0, 1),
        error.flatten(0, 1).clone(),
    )


@torch.no_grad()
def predicted_frames(
    model: WorldModel, latents: LatentEpisodes, indices: NDArray[np.int64], colours: bool = True
) -> PredictedFrame:
    """Return all frames of the episodes ``indices`` that have enough history, with predictions.

    Without ``colours`` the novelty of the images' colours is NaN.
    """
    starts = latents.starts(indices, LONG_HORIZON_STEPS)
    windows = latents.windows(starts, LONG_HORIZON_STEPS)
    frames = starts + latents.span(LONG_HORIZON_STEPS)
    # clones, since views would keep whole windows in memory
    proprio, recent = windows.proprio[:, -1].clone(), latents.recent_proprioception(frames)
    z, actions = windows.z, windows.actions
    parts = list(zip(z.split(MAX_BATCH), actions.split(MAX_BATCH), strict=True))
    near = [model.predict(z[:, -2], z[:, -3], a[:, -1]) for z, a in parts]
    far = [model.rollout(z[:, 1], z[:, 0], a[:, 1:])[:, -1].clone() for z, a in parts]
    return PredictedFrame(
        z=z[:, -1].clone(),
        proprio=proprio,
        features=windows.features[:, -1].clone(),
        near=LatentPrediction(z[:, -2].clone(), torch.cat(near), actions[:, -1].clone()),
        recent=recent,
        tip_setpoints=tip_setpoints_of(proprio, recent[:, 0]),
        far=LatentPrediction(z[:, 1].clone(), torch.cat(far), actions[:, 1:].flatten(1)),
        change=latents.image_changes(frames, colours),
    )


@torch.inference_mode()
def score_frames(
    model: WorldModel, heads: BeliefHeads, latents: LatentEpisodes, indices: NDArray[np.int64]
) -> ScoredFrames:
    """Return the scores of all frames of the episodes ``indices`` that have enough history."""
    frame = predicted_frames(model, latents, indices)
    starts = latents.starts(indices, LONG_HORIZON_STEPS)
    images, _ = latents.images(starts + latents.span(LONG_HORIZON_STEPS))
    frame = replace(frame, image=torch.from_numpy(images))
    follows = np.diff(starts, prepend=-1) == 1
    follows[0] = False
    scores, regimes = channel_scores(heads, frame), regime_of(heads, frame)
    return ScoredFrames(scores.numpy(), regimes.numpy(), follows)
