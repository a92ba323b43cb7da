"""Training windows: L frames, ``frame_skip`` control steps apart, within one episode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augmentation import jitter_hues
from .episodes import DataError, EpisodeFile


@dataclass(frozen=True)
class Windows:
    """A batch of windows.

    Attributes:
        pixels: (B, L, h, w, 3) uint8 RGB.
        proprio: (B, L, P), see ``robot.action_space.proprioception``.
        actions: (B, L-1, K*A) in [-1, 1]; block k holds the actions of the K control steps from
            frame k to frame k+1, in order.
    """

    pixels: Tensor
    proprio: Tensor
    actions: Tensor


class WindowSampler:
    """Sampler of windows with uniformly random start frames, so that all skip phases occur.

    A batch depends on the seed and the training step alone: a resumed run sees the same windows as
    an uninterrupted one, and batches can be prepared in any order.

    Attributes:
        starts: first frame of every possible window.
    """

    def __init__(
        self,
        episodes: EpisodeFile,
        indices: NDArray[np.int64],
        length: int,
        seed: int,
        windows_per_episode: int = 1,
        colour_augmentation: bool = False,
    ) -> None:
        """Find all windows.

        Args:
            episodes: file to read from; its contract gives the frame skip.
            indices: indices of the episodes to use.
            length: number of frames L in a window.
            seed: random seed of the batches.
            windows_per_episode: number of windows in a batch that come from the same episode. If
                there are several, properties that are constant in an episode take few values in
                a batch, and SIGReg cannot fill the latent with them.
            colour_augmentation: whether to rotate the hues of each frame at random.

        Raises:
            DataError: no episode is long enough.
        """
        self._episodes, self._proprio = episodes, episodes.proprioception()
        self._seed, self._per_episode = seed, windows_per_episode
        self._colour_augmentation = colour_augmentation
        frame_skip = episodes.contract.time.frame_skip
        self._frames = np.arange(length) * frame_skip
        self._controls = np.arange((length - 1) * frame_skip)
        span = int(self._frames[-1])
        starts = episodes.starts(indices, span)
        counts = np.array([len(s) for s in starts])
        self._count = np.repeat(counts, counts)
        self._first = np.repeat(np.cumsum(counts) - counts, counts)
        self.starts = np.concatenate([*starts, np.zeros(0, dtype=np.int64)])
        if self.starts.size == 0:
            raise DataError(
                f'{episodes.path}: expected episodes of more than {span} frames, got at most '
                f'{episodes.ep_len[indices].max(initial=0)}; collect longer ones or train on '
                'shorter windows'
            )

    def batch(self, step: int, size: int) -> Windows:
        """Return the ``size`` windows of training step ``step``."""
        rng = np.random.default_rng((self._seed, step))
        picked = rng.integers(0, len(self.starts), -(-size // self._per_episode))
        first, count = self._first[picked], self._count[picked]
        shape = (self._per_episode, len(picked))
        picked = (first + rng.integers(0, count, shape)).ravel()[:size]
        windows = self.at(self.starts[picked])
        if not self._colour_augmentation:
            return windows
        shape = windows.pixels.shape
        frames = jitter_hues(windows.pixels.flatten(0, 1).numpy(), rng)
        return replace(windows, pixels=torch.from_numpy(frames).view(shape))

    def at(self, starts: NDArray[np.int64]) -> Windows:
        """Return the windows that begin at frames ``starts`` (B,)."""
        frames = np.add.outer(starts, self._frames)
        return Windows(
            pixels=torch.from_numpy(self._episodes.pixels[frames]),
            proprio=torch.from_numpy(self._proprio[frames]),
            actions=self._action_blocks(starts),
        )

    def latents_at(
        self, starts: NDArray[np.int64], latents: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """Return latents (B, L, D) and action blocks of windows that begin at ``starts`` (B,).

        ``latents`` (N, D) are the latents of all N frames of the file.
        """
        frames = np.add.outer(starts, self._frames)
        return torch.from_numpy(latents[frames]), self._action_blocks(starts)

    def _action_blocks(self, starts: NDArray[np.int64]) -> Tensor:
        """Return action blocks (B, L-1, K*A) of the windows that begin at ``starts`` (B,)."""
        controls = np.add.outer(starts, self._controls)
        blocks = self._episodes.action[controls].reshape(len(starts), len(self._frames) - 1, -1)
        return torch.from_numpy(blocks)
