"""Image change: changes in brightness, colour and motion that the latent does not show.

The latent ignores colour and changes little when the camera moves; three simple image measures
detect both. Their usual values are learned with the other belief heads, see ``surprise``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.config import TimeConfig
from jepa_arm.core.types import ImageArray
from jepa_arm.model.heads.belief_heads import CELL_GRID, LONG_HORIZON_STEPS

BINS = 16
"""Number of bins per colour axis; the axes are red-green and yellow-blue, in [-1, 1]."""
MIN_CHROMA = 0.1
"""Chroma below which a pixel counts as grey; the arm's colours lie below it."""
MIN_BRIGHTNESS = 0.15
"""Brightness (brightest channel) below which a pixel's colour is unreliable."""
MIN_SHARE = 1e-4
"""Share of the image added to each bin before taking ratios, so that tiny spots hardly count."""
MIN_MOTION = 0.01
"""Levels (of 255) added to the mean absolute change before taking its logarithm."""


class ImageChange(NamedTuple):
    """Changes of B images; NaN if there is nothing to compare with.

    Attributes:
        cells: (B, C) brightness in [0, 1] of the ``CELL_GRID`` cells, minus their brightness
            ``LONG_HORIZON_STEPS`` model steps before.
        novelty: (B,) largest log ratio of a colour's share of the image to its previous maximum.
        motion: (B,) log of the mean absolute pixel change (levels of 255) in one control step.
        proprio: (B, P) proprioception one control step before.
    """

    cells: Tensor
    novelty: Tensor
    motion: Tensor
    proprio: Tensor

    @staticmethod
    def join(parts: Sequence[ImageChange]) -> ImageChange:
        """Return all rows of ``parts``, one after the other."""
        return ImageChange(*map(torch.cat, zip(*parts, strict=True)))

    def rows(self, indices: Tensor | NDArray[np.int64]) -> ImageChange:
        """Return the rows at ``indices``."""
        return ImageChange(*(values[indices] for values in self))


class ImageChangeDetector:
    """Compares each image with recent ones, and its colours with those of all older images."""

    def __init__(self, time: TimeConfig, colours: bool = True) -> None:
        """Start without any image.

        Args:
            time: the contract's periods.
            colours: whether to compare colours, the slowest part; otherwise novelty is NaN.
        """
        self._colours = colours
        self._dt, self._ago = time.control_dt, LONG_HORIZON_STEPS * time.model_dt
        self._recent: deque[tuple[float, NDArray[np.float32], NDArray[np.float32] | None]] = (
            deque()
        )
        self._known_colours: NDArray[np.float32] | None = None
        self._last: tuple[float, ImageArray, Tensor] | None = None

    def reset(self) -> None:
        """Forget all images."""
        self._recent.clear()
        self._known_colours, self._last = None, None

    def update(self, stamp: float, image: ImageArray, proprio: Tensor) -> ImageChange:
        """Return the change in an image, and remember the image.

        Args:
            stamp: s. image: (h, w, 3) uint8 RGB. proprio: (1, P).
        """
        near = self._dt / 2.0
        cells, before = cell_brightness(image), None
        histogram = colour_histogram(image) if self._colours else None
        while self._recent and self._recent[0][0] < stamp - self._ago + near:
            then, before, colours = self._recent.popleft()
            if then < stamp - self._ago - near:
                before = None
            if colours is not None:
                known = colours if self._known_colours is None else self._known_colours
                self._known_colours = np.maximum(known, colours)
        change = cells - before if before is not None else cells * np.nan
        motion, last_proprio = np.nan, torch.full_like(proprio, float('nan'))
        if self._last is not None and abs(stamp - self._last[0] - self._dt) < near:
            levels = cv2.norm(image, self._last[1], cv2.NORM_L1) / image.size
            motion, last_proprio = np.log(levels + MIN_MOTION), self._last[2]
        self._recent.append((stamp, cells, histogram))
        self._last = stamp, image, proprio
        new = math.nan if histogram is None else colour_novelty(histogram, self._known_colours)
        return ImageChange(
            cells=torch.from_numpy(change)[None],
            novelty=torch.tensor([new]),
            motion=torch.tensor([motion], dtype=torch.float32),
            proprio=last_proprio,
        )


def image_changes(
    pixels: NDArray[np.uint8],
    proprio: NDArray[np.float32],
    time: TimeConfig,
    colours: bool = True,
) -> ImageChange:
    """Return the changes in the images of an episode, T rows.

    Args:
        pixels: (T, h, w, 3), a control step apart. proprio: (T, P).
        time: the contract's periods.
        colours: see ``ImageChangeDetector``.
    """
    detector, rows = ImageChangeDetector(time, colours), torch.from_numpy(proprio[:, None])
    stamps = np.arange(len(pixels)) * time.control_dt
    return ImageChange.join(
        [detector.update(*frame) for frame in zip(stamps, pixels, rows, strict=True)]
    )


def cell_brightness(image: ImageArray) -> NDArray[np.float32]:
    """Return the mean brightness (C,) in [0, 1] of the cells of an image (h, w, 3), row by row."""
    grey = image.mean(axis=2, dtype=np.float32) / 255.0
    rows, columns = CELL_GRID
    cells = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
    return cells.ravel().astype(np.float32)


def colour_histogram(image: ImageArray) -> NDArray[np.float32]:
    """Return the chroma-weighted colour histogram (BINS * BINS,) of an image (h, w, 3) RGB.

    Colours are taken relative to the brightest channel, so that light and shade do not matter.
    Each pixel is spread over the four nearest bins, so that a small shift adds no new colour.
    """
    red, green, blue = np.moveaxis(image.reshape(-1, 3).astype(np.float32) / 255.0, 1, 0)
    plane = np.stack([red - green, (red + green) / 2.0 - blue])
    amount = np.hypot(*plane) - MIN_CHROMA
    plane = plane / np.maximum(np.maximum(np.maximum(red, green), blue), MIN_BRIGHTNESS)
    plane, amount = plane[:, amount > 0.0], amount[amount > 0.0]
    at = (plane + 1.0) / 2.0 * (BINS - 1.001)
    low = at.astype(np.int64)
    shares = np.stack([1.0 - (at - low), at - low])
    histogram = np.zeros(BINS * BINS)
    for row in (0, 1):
        for column in (0, 1):
            bins = (low[0] + row) * BINS + low[1] + column
            weights = amount * shares[row, 0] * shares[column, 1]
            histogram += np.bincount(bins, weights, BINS * BINS)
    return (histogram / (image.size / 3)).astype(np.float32)


def colour_novelty(histogram: NDArray[np.float32], known: NDArray[np.float32] | None) -> float:
    """Return the largest log ratio of a bin to the same bin of ``known``, or NaN without it."""
    if known is None:
        return float('nan')
    return float(np.log((histogram + MIN_SHARE) / (known + MIN_SHARE)).max())
