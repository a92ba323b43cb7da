"""Training windows: L frames, ``frame_skip`` control steps apart, inside one episode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augment import shift_colours
from .episodes import DataError, EpisodeFile


@dataclass(frozen=True)
class Windows:
    """A batch of windows.

    Attributes:
        pixels: (B, L, h, w, 3) uint8 RGB.
        proprio: (B, L, P), see ``motion.proprioception``.
        actions: (B, L-1, frame_skip*A) in [-1, 1]; block k holds the control steps that lead
            from frame k to frame k+1, in order.
    """

    pixels: Tensor
    proprio: Tensor
    actions: Tensor


class WindowSampler:
    """Draws windows uniformly over all starts, so that each phase of the frame skip is used.

    The batch of a step depends on the seed and the step alone: a resumed run sees the same
    windows as one that was never interrupted, and batches can be made ahead in any order.
    """

    def __init__(
        self,
        episodes: EpisodeFile,
        indices: NDArray[np.int64],
        length: int,
        frame_skip: int,
        seed: int,
        shifts_colours: bool = False,
        per_episode: int = 1,
        with_velocity: bool = False,
    ) -> None:
        """Collects the starts in the episodes ``indices``.

        ``shifts_colours`` turns the hues of each frame by another random angle;
        ``per_episode`` windows of a batch come from the same episode: what is constant in an
        episode then takes few values in a batch, and SIGReg cannot fill the latent with it.
        ``with_velocity`` adds joint velocities to proprioception.

        Raises:
            DataError: no episode is long enough.
        """
        self._episodes, self._proprio = episodes, episodes.proprioception(with_velocity)
        self._seed, self._shifts_colours = seed, shifts_colours
        self._per_episode = per_episode
        self._frames = np.arange(length) * frame_skip
        self._controls = np.arange((length - 1) * frame_skip)
        span = int(self._frames[-1])
        lengths, offsets = episodes.ep_len[indices], episodes.ep_offset[indices]
        starts = [np.arange(o, o + n - span) for o, n in zip(offsets, lengths, strict=True)]
        counts = np.array([len(s) for s in starts])
        self._count = np.repeat(counts, counts)
        self._first = np.repeat(np.cumsum(counts) - counts, counts)
        self.starts = np.concatenate([*starts, np.zeros(0, dtype=np.int64)])
        if self.starts.size == 0:
            raise DataError(
                f'{episodes.path}: expected episodes of more than {span} frames, got at most '
                f'{lengths.max(initial=0)}; collect longer ones or train on shorter windows'
            )

    def batch(self, step: int, size: int) -> Windows:
        """The ``size`` windows of training step ``step``."""
        rng = np.random.default_rng((self._seed, step))
        picked = rng.integers(0, len(self.starts), -(-size // self._per_episode))
        first, count = self._first[picked], self._count[picked]
        shape = (self._per_episode, len(picked))
        picked = (first + rng.integers(0, count, shape)).ravel()[:size]
        windows = self.at(self.starts[picked])
        if not self._shifts_colours:
            return windows
        shape = windows.pixels.shape
        frames = shift_colours(windows.pixels.flatten(0, 1).numpy(), rng)
        return replace(windows, pixels=torch.from_numpy(frames).view(shape))

    def at(self, starts: NDArray[np.int64]) -> Windows:
        """The windows that begin at frames ``starts`` (B,)."""
        frames = np.add.outer(starts, self._frames)
        return Windows(
            pixels=torch.from_numpy(self._episodes.pixels[frames]),
            proprio=torch.from_numpy(self._proprio[frames]),
            actions=self._blocks(starts),
        )

    def latents_at(
        self, starts: NDArray[np.int64], latents: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """(B, L, D) in place of images, of the ``latents`` (N, D) of all frames; and actions."""
        frames = np.add.outer(starts, self._frames)
        return torch.from_numpy(latents[frames]), self._blocks(starts)

    def _blocks(self, starts: NDArray[np.int64]) -> Tensor:
        """(B, L-1, frame_skip*A) actions of the windows that begin at frames ``starts`` (B,)."""
        controls = np.add.outer(starts, self._controls)
        blocks = self._episodes.action[controls].reshape(len(starts), len(self._frames) - 1, -1)
        return torch.from_numpy(blocks)
