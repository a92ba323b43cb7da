"""How images change to the eye, beside what the world model makes of them.

The latent leaves out colour, and moves little when the camera does; three plain measures see both.
What of it is usual is learned with the other heads of the belief, see ``surprise``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import TimeConfig
from .model.belief_heads import CELLS, OUTLOOK
from .types import ImageArray

BINS = 16
"""Of each of two axes of colour, red-green and yellow-blue in [-1, 1]."""
LEAST_CHROMA = 0.1
"""Grey has none; shades of the arm have less."""
LEAST_LIGHT = 0.15
"""Of the brightest channel; what is darker has no sure colour."""
LEAST_SHARE = 1e-4
"""Of the image in full colour, that makes a colour a part of the scene."""
LEAST_MOTION = 0.01
"""Levels of 255, mean of all pixels."""


@dataclass(frozen=True)
class Change:
    """What changed in one image or in many; NaN where there is none to compare with.

    Attributes:
        cells: (B, C) brightness in [0, 1] of ``CELLS``, less that of ``OUTLOOK`` model steps ago.
        novelty: (B,) log of how much more there is of some colour than at any time until then.
        motion: (B,) log of the levels by which pixels changed in a control step, their mean.
        felt: (B, P) proprioception a control step ago.
    """

    cells: Tensor
    novelty: Tensor
    motion: Tensor
    felt: Tensor

    @staticmethod
    def join(parts: Sequence[Change]) -> Change:
        """All of them, one after the other."""
        return Change(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Change)))

    def rows(self, picked: Tensor | NDArray[np.int64]) -> Change:
        """Those of ``picked``."""
        return Change(*(getattr(self, field.name)[picked] for field in fields(self)))


class Looks:
    """Remembers how recent images looked, and which colours there ever were."""

    def __init__(self, time: TimeConfig, colours: bool = True) -> None:
        """Has seen nothing yet; without ``colours``, which take the longest, none is ever new."""
        self._colours = colours
        self._dt, self._ago = time.control_dt, OUTLOOK * time.model_dt
        self._recent: deque[tuple[float, NDArray[np.float32], NDArray[np.float32] | None]] = (
            deque()
        )
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._recent.clear()
        self._known: NDArray[np.float32] | None = None
        self._last: tuple[float, ImageArray, Tensor] | None = None

    def see(self, stamp: float, image: ImageArray, proprio: Tensor) -> Change:
        """What changed in ``image`` (h, w, 3) RGB of ``stamp`` (s), with ``proprio`` (1, P)."""
        near = self._dt / 2.0
        cells, palette = cells_of(image), palette_of(image) if self._colours else None
        before = None
        while self._recent and self._recent[0][0] < stamp - self._ago + near:
            then, before, colours = self._recent.popleft()
            if then < stamp - self._ago - near:
                before = None
            if colours is not None:
                known = colours if self._known is None else self._known
                self._known = np.maximum(known, colours)
        change = Change(
            cells=torch.from_numpy(cells - before if before is not None else cells * np.nan)[None],
            novelty=torch.tensor([math.nan if palette is None else novelty(palette, self._known)]),
            motion=torch.full((1,), float('nan')),
            felt=torch.full_like(proprio, float('nan')),
        )
        if self._last is not None and abs(stamp - self._last[0] - self._dt) < near:
            levels = cv2.norm(image, self._last[1], cv2.NORM_L1) / image.size
            change.motion[0], change.felt[:] = np.log(levels + LEAST_MOTION), self._last[2]
        self._recent.append((stamp, cells, palette))
        self._last = stamp, image, proprio
        return change


def changes_of(
    pixels: NDArray[np.uint8],
    proprio: NDArray[np.float32],
    time: TimeConfig,
    colours: bool = True,
) -> Change:
    """Of the images (T, h, w, 3) of an episode, a control step apart; ``proprio`` (T, P)."""
    looks, felt = Looks(time, colours), torch.from_numpy(proprio[:, None])
    stamps = np.arange(len(pixels)) * time.control_dt
    return Change.join([looks.see(*seen) for seen in zip(stamps, pixels, felt, strict=True)])


def cells_of(image: ImageArray) -> NDArray[np.float32]:
    """(C,) mean brightness in [0, 1] of the cells of an image (h, w, 3) RGB, row by row."""
    grey = image.mean(axis=2, dtype=np.float32) / 255.0
    rows, columns = CELLS
    cells = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
    return cells.ravel().astype(np.float32)


def palette_of(image: ImageArray) -> NDArray[np.float32]:
    """(BINS * BINS,) how much of each colour is in an image (h, w, 3) RGB: share times chroma.

    A colour is the same in light and in shade: it is taken relative to its brightest channel. It
    counts for the four bins around it, so that a little more of it makes no other one of it.
    """
    red, green, blue = np.moveaxis(image.reshape(-1, 3).astype(np.float32) / 255.0, 1, 0)
    plane = np.stack([red - green, (red + green) / 2.0 - blue])
    amount = np.hypot(*plane) - LEAST_CHROMA
    plane = plane / np.maximum(np.maximum(np.maximum(red, green), blue), LEAST_LIGHT)
    plane, amount = plane[:, amount > 0.0], amount[amount > 0.0]
    at = (plane + 1.0) / 2.0 * (BINS - 1.001)
    low = at.astype(np.int64)
    high_share = at - low
    palette = np.zeros(BINS * BINS)
    for row in (0, 1):
        for column in (0, 1):
            shares = [
                s if up else 1.0 - s for s, up in zip(high_share, (row, column), strict=True)
            ]
            bins = (low[0] + row) * BINS + low[1] + column
            palette += np.bincount(bins, amount * shares[0] * shares[1], BINS * BINS)
    return (palette / (image.size / 3)).astype(np.float32)


def novelty(palette: NDArray[np.float32], known: NDArray[np.float32] | None) -> float:
    """Log of how much more there is of some colour of ``palette`` than was ``known``."""
    if known is None:
        return float('nan')
    return float(np.log((palette + LEAST_SHARE) / (known + LEAST_SHARE)).max())
