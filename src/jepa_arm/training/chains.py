"""Chains of recorded latents, along which a belief goes blind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.episodes import DataError, EpisodeFile
from ..looks import Change, changes_of
from ..model.belief_heads import OUTLOOK, SUBJECTS, BeliefHeads, told_by
from ..model.checkpoint import Checkpoint
from ..model.world_model import WorldModel
from ..surprise import Frame, regimes, scores
from .encoding import Encoded


@dataclass(frozen=True)
class Chains:
    """Windows of latents, one model step apart, for beliefs that go blind after two of them.

    Attributes:
        z: (B, L+2, D) as seen. features: (B, L+2, F) of the images alone.
        proprio: (B, L+2, P).
        actions: (B, L+1, K*A). truth: (B, L+2, 2, 3) m, tip target and object.
        contact: (B, L+2) whether arm and object touched since the step before.
    """

    z: Tensor
    features: Tensor
    proprio: Tensor
    actions: Tensor
    truth: Tensor
    contact: Tensor

    def cut(self, steps: int) -> Chains:
        """The first ``steps`` blind steps."""
        return Chains(
            self.z[:, : steps + 2],
            self.features[:, : steps + 2],
            self.proprio[:, : steps + 2],
            self.actions[:, : steps + 1],
            self.truth[:, : steps + 2],
            self.contact[:, : steps + 2],
        )


class LatentEpisodes:
    """Episodes of frozen latents, from which chains are drawn."""

    def __init__(self, episodes: EpisodeFile, encoded: Encoded) -> None:
        """Of all frames of ``episodes``, as they are ``encoded``."""
        self._latents, self._features = encoded.z, encoded.features
        self._proprio = np.asarray(episodes.proprioception())
        self._actions = np.asarray(episodes.action)
        self._truth = np.stack([episodes.tip_target, episodes.object_position], axis=1)
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
        return Chains(z, features, proprio, torch.from_numpy(actions), truth, contact)

    def images(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(B, h, w, 3) of ``frames`` (B,), and proprioception (B, P)."""
        pixels = self._episodes.pixels
        return np.stack([pixels[frame] for frame in frames]), self._proprio[frames]

    def recent(self, frames: NDArray[np.int64]) -> Tensor:
        """(B, 2, P) what was felt one and two control steps before ``frames`` (B,)."""
        return torch.from_numpy(self._proprio[np.stack([frames - 1, frames - 2], axis=1)])

    def changes(self, frames: NDArray[np.int64]) -> Change:
        """Of the images ``frames`` (B,), each compared with those before in its episode."""
        owner = self._episodes.episode_of_frames()[frames]
        order = np.argsort(owner, kind='stable')
        found = []
        for episode in np.unique(owner):
            own, first = frames[owner == episode], self._episodes.ep_offset[episode]
            rows = slice(first, own.max() + 1)
            pixels, felt = np.array(self._episodes.pixels[rows]), np.array(self._proprio[rows])
            found.append(changes_of(pixels, felt, self._episodes.contract.time).rows(own - first))
        return Change.join(found).rows(np.argsort(order))


class Draw:
    """Draws chains of ``steps`` blind steps at random from the episodes ``indices``.

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
        self._latents, self._steps, self.rng = latents, steps, rng
        self._starts = latents.starts(indices, steps)

    def __call__(self, count: int) -> Chains:
        """That many chains."""
        picked = self.rng.integers(0, len(self._starts), count)
        return self._latents.chains(self._starts[picked], self._steps)


def blind(model: WorldModel, heads: BeliefHeads | None, chains: Chains) -> Tensor:
    """Beliefs (B, L, D) that see nothing after the first two latents.

    Without ``heads`` the joints are not asked either.
    """
    z_prev, z = chains.z[:, 0], chains.z[:, 1]
    modulations = model.predictor.modulations(chains.actions[:, 1:])
    beliefs = []
    for step in range(chains.actions.shape[1] - 1):
        predicted = model.predictor.step(z, z_prev, [m[:, step] for m in modulations])
        z_prev, z = z, predicted
        if heads is not None:
            seconds = torch.full((len(z),), (step + 1) * model.contract.time.model_dt)
            z = heads.correction(predicted, z_prev, chains.proprio[:, step + 2], seconds)
        beliefs.append(z)
    return torch.stack(beliefs, 1)


def misread(
    checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains
) -> tuple[Tensor, Tensor, Tensor]:
    """Beliefs (N, D), blind for (N,) s, and errors (N, 2, 3) m of their readings."""
    assert isinstance(checkpoint.model, WorldModel)
    with torch.inference_mode():
        beliefs = blind(checkpoint.model, heads, chains)
        beliefs = torch.cat([chains.z[:, 1:2], beliefs], dim=1)
        read = torch.stack([checkpoint.probes.read(s, beliefs) for s in SUBJECTS], 2)
    seconds = torch.arange(beliefs.shape[1]) * checkpoint.contract.time.model_dt
    off = read - chains.truth[:, 1:]
    size = beliefs.shape[:2]
    return (
        beliefs.flatten(0, 1).clone(),
        seconds.float().expand(size).flatten(),
        off.flatten(0, 1).clone(),
    )


@torch.no_grad()
def frame_of(model: WorldModel, chains: Chains, recent: Tensor, change: Change) -> Frame:
    """The last frames of ``chains`` of ``OUTLOOK`` blind steps, with what was expected of them.

    ``recent`` (B, 2, P), what was felt one and two control steps before them; ``change`` of their
    images.
    """
    proprio = chains.proprio[:, -1]
    z, actions = chains.z, chains.actions
    return Frame(
        z=z[:, -1],
        proprio=proprio,
        features=chains.features[:, -1],
        before=z[:, -2],
        block=actions[:, -1],
        predicted=model.predict(z[:, -2], z[:, -3], actions[:, -1]),
        recent=recent,
        told=torch.stack([told_by(proprio), told_by(recent[:, 0])], dim=1),
        long_before=z[:, 1],
        long_block=actions[:, 1:].flatten(1),
        long_predicted=model.rollout(z[:, 1], z[:, 0], actions[:, 1:])[:, -1],
        change=change,
    )


def frames_of(model: WorldModel, latents: LatentEpisodes, indices: NDArray[np.int64]) -> Frame:
    """All frames of the episodes ``indices`` of which enough is known."""
    starts = latents.starts(indices, OUTLOOK)
    chains = latents.chains(starts, OUTLOOK)
    last = starts + latents.span(OUTLOOK)
    return frame_of(model, chains, latents.recent(last), latents.changes(last))


@torch.inference_mode()
def scored(
    model: WorldModel, heads: BeliefHeads, latents: LatentEpisodes, indices: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Scores (N, C) and regimes (N,) of all frames of the episodes ``indices``.

    And whether each (N,) comes a control step after the one before it.
    """
    frame = frames_of(model, latents, indices)
    last = latents.starts(indices, OUTLOOK) + latents.span(OUTLOOK)
    frame = replace(frame, image=torch.from_numpy(latents.images(last)[0]))
    follows = np.diff(latents.starts(indices, OUTLOOK), prepend=-1) == 1
    follows[0] = False
    return scores(heads, frame).numpy(), regimes(heads, frame).numpy(), follows
