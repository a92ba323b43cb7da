"""Training of the camera pose head on images that are warped by random motions."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.core.types import ImageArray
from jepa_arm.model.heads.camera_pose import BLUR_RANGE, MAX_IMAGE_MOTION, CameraPoseHead, blur
from jepa_arm.training.fit import adamw_one_cycle, fit

BATCH, NOISE_STD = 128, 1.5
"""Images per step; standard deviation of pixel noise, in levels of 255."""
SMALL_MOTION = 0.25
"""Half of the images are warped by at most this share of the largest motion."""
LEARNING_RATE = 2e-3


def warp_image(image: ImageArray, motion: NDArray[np.floating]) -> ImageArray:
    """Return ``image`` (h, w, 3) warped by ``motion`` (4,): right, down (px), log scale, angle."""
    height, width = image.shape[:2]
    scale = np.exp(motion[2])
    cos, sin = scale * np.cos(motion[3]), scale * np.sin(motion[3])
    rotation, centre = np.array([[cos, -sin], [sin, cos]]), np.array([width - 1, height - 1]) / 2.0
    shift = centre - rotation @ centre + motion[:2]
    matrix = np.hstack([rotation, shift[:, None]])
    border = cv2.BORDER_REPLICATE
    return cv2.warpAffine(image, matrix, (width, height), borderMode=border).astype(np.uint8)


def train_camera_pose(
    head: CameraPoseHead,
    images: NDArray[np.uint8],
    proprio: NDArray[np.float32],
    steps: int,
    rng: np.random.Generator,
) -> None:
    """Train ``head`` in place on ``images`` (N, h, w, 3) with ``proprio`` (N, P).

    Raises:
        TrainingError: a loss is not finite.
    """
    proprioception = torch.from_numpy(proprio)
    max_motion = np.array(MAX_IMAGE_MOTION) * [images.shape[2], images.shape[2], 1.0, 1.0]

    def loss(step: int) -> Tensor:
        rows = rng.integers(0, len(images), BATCH)
        shares = rng.uniform(-1.0, 1.0, (BATCH, len(MAX_IMAGE_MOTION)))
        shares *= rng.choice([SMALL_MOTION, 1.0], (BATCH, 1))
        warped = [
            blur(warp_image(images[row], share * max_motion), rng.uniform(*BLUR_RANGE))
            for row, share in zip(rows, shares, strict=True)
        ]
        noisy = np.stack(warped)
        noisy += NOISE_STD * rng.standard_normal(noisy.shape, dtype=np.float32)
        mean, log_var = head(torch.from_numpy(noisy), proprioception[rows])
        error = torch.from_numpy(shares).float() - mean
        return (error.square() * torch.exp(-log_var) + log_var).mean()

    fit(head, loss, adamw_one_cycle(head, steps, LEARNING_RATE), 'camera pose')
