"""Chains of recorded latents, along which a belief goes blind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.episodes import DataError, EpisodeFile
from ..looks import Change, changes_of
from ..model.belief_heads import OUTLOOK, SUBJECTS, TIP, BeliefHeads, told_by
from ..model.checkpoint import Checkpoint
from ..model.pushing import YAWS, ObjectPose, Pushing, every_yaw
from ..model.world_model import WorldModel
from ..surprise import Frame, regimes, scores
from .encoding import Encoded

PUSHED_FOR = 8
"""Model steps for which an object is followed in training."""
MOVES_M = 0.005
"""By which an object that moves comes away from its place."""
AT_ONCE = 8192
"""Chains that a predictor is given together: what is between its layers is large."""
YAW_MISREAD = 0.05
"""rad, root mean square error of a yaw that is read."""


@dataclass(frozen=True)
class Chains:
    """Windows of latents, one model step apart, for beliefs that go blind after two of them.

    Attributes:
        z: (B, L+2, D) as seen. features: (B, L+2, F) of the images alone.
        proprio: (B, L+2, P).
        actions: (B, L+1, K*A). truth: (B, L+2, 2, 3) m, tip target and object.
        contact: (B, L+2) whether arm and object touched since the step before.
        tips: (B, L*K+2, 3) m, where the tip was a control step before the last frame that is
            seen, in it, and in each control step since.
        start: the object's pose in the last frame that is seen, its place as read.
        way: (B, L*K, 4) m and rad, the object's true place and yaw in each control step since.
    """

    z: Tensor
    features: Tensor
    proprio: Tensor
    actions: Tensor
    truth: Tensor
    contact: Tensor
    tips: Tensor
    start: ObjectPose
    way: Tensor

    @property
    def skip(self) -> int:
        """K, control steps in a model step."""
        return (self.tips.shape[1] - 2) // (self.actions.shape[1] - 1)

    def unread(self) -> Chains:
        """The same, of objects whose yaw nobody read."""
        return replace(self, start=replace(self.start, yaw=self.start.yaw * torch.nan))

    def cut(self, steps: int) -> Chains:
        """The first ``steps`` blind steps."""
        return Chains(
            self.z[:, : steps + 2],
            self.features[:, : steps + 2],
            self.proprio[:, : steps + 2],
            self.actions[:, : steps + 1],
            self.truth[:, : steps + 2],
            self.contact[:, : steps + 2],
            self.tips[:, : steps * self.skip + 2],
            self.start,
            self.way[:, : steps * self.skip],
        )


class LatentEpisodes:
    """Episodes of frozen latents, from which chains are drawn."""

    def __init__(self, checkpoint: Checkpoint, episodes: EpisodeFile, encoded: Encoded) -> None:
        """Of all frames of ``episodes``, as they are ``encoded``."""
        self._latents, self._features = encoded.z, encoded.features
        self._proprio = np.asarray(episodes.proprioception())
        self._actions = np.asarray(episodes.action)
        self._truth = np.stack([episodes.tip_target, episodes.object_position], axis=1)
        with torch.inference_mode():
            read = checkpoint.probes.read('object', torch.from_numpy(encoded.z))
        self._read, self._yaw = read.numpy().copy(), np.asarray(episodes.object_yaw)
        contact = np.asarray(episodes.contact, dtype=bool)
        self._contact = contact | np.roll(contact, 1)
        self._episodes, self._skip = episodes, episodes.contract.time.frame_skip

    def span(self, steps: int) -> int:
        """Frames from the first to the last of a chain of ``steps`` blind model steps."""
        return (steps + 1) * self._skip

    def starts(self, indices: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        """First frames of chains of ``steps`` blind model steps in the episodes ``indices``.

        Raises:
            DataError: there are none.
        """
        span = self.span(steps)
        offsets, lengths = self._episodes.ep_offset[indices], self._episodes.ep_len[indices]
        firsts = [np.arange(o, o + n - span) for o, n in zip(offsets, lengths, strict=True)]
        starts = np.concatenate([*firsts, np.zeros(0, dtype=np.int64)])
        if not len(starts):
            raise DataError(
                f'{self._episodes.path}: expected episodes of more than {span} frames in the '
                'training split and two of them held out; collect more, or take fewer chain_steps'
            )
        return starts

    def chains(self, starts: NDArray[np.int64], steps: int) -> Chains:
        """The chains that begin at frames ``starts`` (B,)."""
        frames = np.add.outer(starts, np.arange(steps + 2) * self._skip)
        controls = np.add.outer(starts, np.arange((steps + 1) * self._skip))
        actions = self._actions[controls].reshape(len(starts), steps + 1, -1)
        rows = (self._latents, self._proprio, self._truth, self._contact)
        z, proprio, truth, contact = (torch.from_numpy(a[frames]) for a in rows)
        features = torch.from_numpy(self._features[frames]).float()
        seen = starts + self._skip
        ways = np.add.outer(seen, np.arange(-1, steps * self._skip + 1))
        tips = torch.from_numpy(self._proprio[ways][..., TIP])
        place, before = (torch.from_numpy(self._read[i]) for i in (seen, seen - 1))
        yaw = torch.from_numpy(self._yaw[seen])
        start = ObjectPose(place, yaw, place - before, torch.zeros_like(yaw))
        since = ways[:, 2:]
        way = np.concatenate([self._truth[since, 1], self._yaw[since][..., None]], axis=-1)
        given = torch.from_numpy(actions), truth, contact, tips, start, torch.from_numpy(way)
        return Chains(z, features, proprio, *given)

    def moves(self, starts: NDArray[np.int64], steps: int) -> NDArray[np.bool_]:
        """(B,) whether the object comes away from its place in the blind steps of a chain."""
        seen, far = starts + self._skip, np.zeros(len(starts))
        for later in range(1, steps * self._skip + 1):
            way = self._truth[seen + later, 1] - self._truth[seen, 1]
            far = np.maximum(far, np.linalg.norm(way, axis=1))
        return far > MOVES_M

    def states(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of all N frames of the episodes ``indices``: latents, and what they are latents of.

        (N, D); (N, P) proprioception, (N, 3) m and (N,) rad where the object is, and its yaw.
        """
        rows = np.flatnonzero(np.isin(self._episodes.episode_of_frames(), indices))
        place = self._truth[rows, 1]
        values = self._latents[rows], self._proprio[rows], place, self._yaw[rows]
        z, proprio, place, yaw = map(torch.from_numpy, values)
        return z, proprio, place, yaw

    def images(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(B, h, w, 3) of ``frames`` (B,), and proprioception (B, P)."""
        pixels = self._episodes.pixels
        return np.stack([pixels[frame] for frame in frames]), self._proprio[frames]

    def recent(self, frames: NDArray[np.int64]) -> Tensor:
        """(B, 2, P) what was felt one and two control steps before ``frames`` (B,)."""
        return torch.from_numpy(self._proprio[np.stack([frames - 1, frames - 2], axis=1)])

    def changes(self, frames: NDArray[np.int64], colours: bool = True) -> Change:
        """Of the images ``frames`` (B,), each compared with those before in its episode.

        Without ``colours`` its novelty is NaN.
        """
        owner = self._episodes.episode_of_frames()[frames]
        order = np.argsort(owner, kind='stable')
        found = []
        for episode in np.unique(owner):
            own, first = frames[owner == episode], self._episodes.ep_offset[episode]
            rows = slice(first, own.max() + 1)
            pixels, felt = np.array(self._episodes.pixels[rows]), np.array(self._proprio[rows])
            time = self._episodes.contract.time
            found.append(changes_of(pixels, felt, time, colours).rows(own - first))
        return Change.join(found).rows(np.argsort(order))


class Draw:
    """Draws chains of ``steps`` blind steps at random from the episodes ``indices``.

    Yaws at their start are as wrong as if they were read.

    Attributes:
        episodes: those. rng: what it draws by.

    Raises:
        DataError: they have none.
    """

    def __init__(
        self,
        latents: LatentEpisodes,
        indices: NDArray[np.int64],
        steps: int,
        rng: np.random.Generator,
    ) -> None:
        self._latents, self._steps, self.episodes, self.rng = latents, steps, indices, rng
        self._starts = latents.starts(indices, steps)
        moving = self._starts[latents.moves(self._starts, min(steps, PUSHED_FOR))]
        self._moving = moving if len(moving) else self._starts

    def __call__(self, count: int, moves: float = 0.0) -> Chains:
        """That many chains; a share ``moves`` of them, at least, of objects that move soon."""
        picked = self._starts[self.rng.integers(0, len(self._starts), count)]
        chosen = round(moves * count)
        picked[:chosen] = self._moving[self.rng.integers(0, len(self._moving), chosen)]
        chains = self._latents.chains(picked, self._steps)
        start = replace(chains.start, yaw=self.as_read(chains.start.yaw))
        return replace(chains, start=start)

    def as_read(self, yaw: Tensor) -> Tensor:
        """True yaws (B,) rad as they would be read."""
        return yaw + torch.from_numpy(self.rng.normal(0.0, YAW_MISREAD, len(yaw))).float()


def follow(pushing: Pushing, chains: Chains) -> list[ObjectPose]:
    """The object's poses after each blind control step, told from the way of the tip.

    B objects of known yaws, or (B*YAWS,) where none is.
    """
    pose, tips, poses = chains.start, chains.tips, []
    if pose.yaw.isnan().all():
        pose, tips = every_yaw(pose.place, pose.moved), tips.repeat_interleave(YAWS, 0)
    for step in range(tips.shape[1] - 2):
        pose = pushing(pose, tips[:, step : step + 3])
        poses.append(pose)
    return poses


def predict(model: WorldModel, chains: Chains) -> Tensor:
    """(B, L, D) what the model predicts after the first two latents."""
    return model.rollout(chains.z[:, 1], chains.z[:, 0], chains.actions[:, 1:])


def blind(heads: BeliefHeads, chains: Chains) -> Tensor:
    """Beliefs (B, L, D) that see nothing after the first two latents; see ``Belief.feel``."""
    poses, beliefs = follow(heads.pushing, chains)[chains.skip - 1 :: chains.skip], []
    for step, pose in enumerate(poses):
        place = pose.place.view(len(chains.z), -1, 3).mean(1)
        yaw = pose.yaw if len(pose.yaw) == len(chains.z) else chains.start.yaw  # NaN
        beliefs.append(heads.state(chains.proprio[:, step + 2], place, yaw))
    return torch.stack(beliefs, 1)


def misread(
    checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Beliefs (N, D), what doubt is told beside them, and errors (N, 2, 3) m of their readings.

    Doubt is told how long (N,) s they have been blind, and the object's yaw (N,) rad or NaN.
    """
    with torch.inference_mode():
        beliefs = blind(heads, chains)
        beliefs = torch.cat([chains.z[:, 1:2], beliefs], dim=1)
        read = torch.stack([checkpoint.probes.read(s, beliefs) for s in SUBJECTS], 2)
    seconds = torch.arange(beliefs.shape[1]) * checkpoint.contract.time.model_dt
    off = read - chains.truth[:, 1:]
    size = beliefs.shape[:2]
    yaw = chains.start.yaw[:, None].expand(size)
    return (
        beliefs.flatten(0, 1).clone(),
        seconds.float().expand(size).flatten(),
        yaw.flatten(0, 1),
        off.flatten(0, 1).clone(),
    )


@torch.no_grad()
def frame_of(model: WorldModel, chains: Chains, recent: Tensor, change: Change) -> Frame:
    """The last frames of ``chains`` of ``OUTLOOK`` blind steps, with what was expected of them.

    ``recent`` (B, 2, P), what was felt one and two control steps before them; ``change`` of their
    images.
    """
    proprio = chains.proprio[:, -1].clone()  # a view would keep all of the chains, here and below
    z, actions = chains.z, chains.actions
    parts = list(zip(z.split(AT_ONCE), actions.split(AT_ONCE), strict=True))
    near = [model.predict(z[:, -2], z[:, -3], a[:, -1]) for z, a in parts]
    far = [model.rollout(z[:, 1], z[:, 0], a[:, 1:])[:, -1].clone() for z, a in parts]
    return Frame(
        z=z[:, -1].clone(),
        proprio=proprio,
        features=chains.features[:, -1].clone(),
        before=z[:, -2].clone(),
        block=actions[:, -1].clone(),
        predicted=torch.cat(near),
        recent=recent,
        told=torch.stack([told_by(proprio), told_by(recent[:, 0])], dim=1),
        long_before=z[:, 1].clone(),
        long_block=actions[:, 1:].flatten(1),
        long_predicted=torch.cat(far),
        change=change,
    )


def frames_of(
    model: WorldModel, latents: LatentEpisodes, indices: NDArray[np.int64], colours: bool = True
) -> Frame:
    """All frames of the episodes ``indices`` of which enough is known; see ``changes``."""
    starts = latents.starts(indices, OUTLOOK)
    chains = latents.chains(starts, OUTLOOK)
    last = starts + latents.span(OUTLOOK)
    return frame_of(model, chains, latents.recent(last), latents.changes(last, colours))


Scored = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
"""Of N frames, see ``scored``."""


@torch.inference_mode()
def scored(
    model: WorldModel, heads: BeliefHeads, latents: LatentEpisodes, indices: NDArray[np.int64]
) -> Scored:
    """Scores (N, C) and regimes (N,) of all frames of the episodes ``indices``.

    And whether each (N,) comes a control step after the one before it.
    """
    frame = frames_of(model, latents, indices)
    last = latents.starts(indices, OUTLOOK) + latents.span(OUTLOOK)
    frame = replace(frame, image=torch.from_numpy(latents.images(last)[0]))
    follows = np.diff(latents.starts(indices, OUTLOOK), prepend=-1) == 1
    follows[0] = False
    return scores(heads, frame).numpy(), regimes(heads, frame).numpy(), follows
