"""Teaches where the camera looks from, see ``model.view``."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..config import BeliefConfig
from ..model.view import MOST, SOFTEST_RANGE, View, soft
from ..types import ImageArray

BATCH, NOISE = 128, 1.5
"""Images in a step; levels of 255."""
SMALL = 0.25
"""Half of the images are moved by so much of the most that is possible."""
RATE = 2e-3


def moved(image: ImageArray, motion: NDArray[np.floating]) -> ImageArray:
    """``image`` (h, w, 3) moved by ``motion`` (4,): right and down (px), log scale, rad."""
    height, width = image.shape[:2]
    scale = np.exp(motion[2])
    cos, sin = scale * np.cos(motion[3]), scale * np.sin(motion[3])
    turn, middle = np.array([[cos, -sin], [sin, cos]]), np.array([width - 1, height - 1]) / 2.0
    shift = middle - turn @ middle + motion[:2]
    matrix = np.hstack([turn, shift[:, None]])
    border = cv2.BORDER_REPLICATE
    return cv2.warpAffine(image, matrix, (width, height), borderMode=border).astype(np.uint8)


def train_view(
    view: View,
    images: NDArray[np.uint8],
    proprio: NDArray[np.float32],
    config: BeliefConfig,
    rng: np.random.Generator,
) -> None:
    """Trains ``view`` in place on ``images`` (N, h, w, 3) with ``proprio`` (N, P)."""
    steps, felt = config.view_steps, torch.from_numpy(proprio)
    most = np.array(MOST) * [images.shape[2], images.shape[2], 1.0, 1.0]
    optimizer = torch.optim.AdamW(view.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    for _ in range(steps):
        rows = rng.integers(0, len(images), BATCH)
        shares = rng.uniform(-1.0, 1.0, (BATCH, len(MOST)))
        shares *= rng.choice([SMALL, 1.0], (BATCH, 1))
        shown = [
            soft(moved(images[row], share * most), rng.uniform(*SOFTEST_RANGE))
            for row, share in zip(rows, shares, strict=True)
        ]
        noisy = np.stack(shown)
        noisy += NOISE * rng.standard_normal(noisy.shape, dtype=np.float32)
        mean, log_var = view(torch.from_numpy(noisy), felt[rows])
        off = torch.from_numpy(shares).float() - mean
        loss = (off.square() * torch.exp(-log_var) + log_var).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(view.parameters(), 1.0)
        optimizer.step()
        schedule.step()
