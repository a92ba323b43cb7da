"""Camera pose head: detects a moved camera from how the arm appears in its image.

The network estimates by how much training images were shifted, rotated and scaled, given the
measured joints (a geometric pretext task as in Golan and El-Yaniv, arXiv:1805.10917; regression of
image motion as in DeTone et al., arXiv:1606.03798). On images of the camera in its training pose
the estimate is close to zero; after the camera has moved it is not.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_arm.core.types import ImageArray
from jepa_arm.model.world_model import Normaliser, ProprioceptionScaler

MAX_IMAGE_MOTION = (0.02, 0.02, 0.02, 0.02)
"""Largest motion in training: shift right and down (share of width), log scale, rotation (rad)."""
MARGIN = 0.0375
"""Share of the width cropped at each side, so that no warp brings in unknown pixels."""
BLUR, BLUR_RANGE = 0.9 / 80.0, (0.6 / 80.0, 1.2 / 80.0)
"""Standard deviation of the blur as a share of the image width: value at run time, range in
training. Blur keeps an image's sharpness from revealing whether it was warped."""


def blur(image: ImageArray, std: float = BLUR) -> NDArray[np.float32]:
    """Return ``image`` (h, w, 3) blurred by a Gaussian of ``std`` as a share of its width."""
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), std * image.shape[1])
    return np.asarray(blurred, dtype=np.float32)


class CameraPoseHead(nn.Module):
    """Estimator of image motion from an image and proprioception.

    Attributes:
        mean, whitening: (4,) and (4, 4), calibration: for an unmoved camera,
            ``(motion - mean) @ whitening`` has zero mean and unit covariance.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, normaliser: Normaliser, height: int, width: int, features: int = 128):
        super().__init__()
        self.proprio_scaler = ProprioceptionScaler(normaliser)
        self._margin = round(MARGIN * width)
        rows, columns = (-(-(side - 2 * self._margin) // 8) for side in (height, width))
        self.image_encoder = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(48 * rows * columns, features),
        )  # fmt: skip
        inputs = len(self.proprio_scaler.mean) - 3
        self.proprio_encoder = nn.Sequential(
            nn.Linear(inputs, features), nn.ReLU(), nn.Linear(features, features)
        )
        self.net = nn.Sequential(
            nn.ReLU(), nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 8)
        )
        self.register_buffer('mean', torch.zeros(len(MAX_IMAGE_MOTION)))
        self.register_buffer('whitening', torch.eye(len(MAX_IMAGE_MOTION)))

    def forward(self, images: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor]:
        """Return motions (B, 4) as shares of ``MAX_IMAGE_MOTION``, and log variances (B, 4).

        Args:
            images: (B, h, w, 3) in [0, 255], blurred by ``blur``.
            proprio: (B, P).
        """
        m = self._margin
        inner = images[:, m : images.shape[1] - m, m : images.shape[2] - m]
        features = self.image_encoder(inner.permute(0, 3, 1, 2) / 255.0 - 0.5)
        # the tip target's offset, the last three values, does not show in an image
        features = features + self.proprio_encoder(self.proprio_scaler(proprio)[:, :-3])
        mean, log_var = self.net(features).chunk(2, dim=-1)
        return mean, log_var.clamp(-8.0, 4.0)

    def estimate(self, images: Tensor, proprio: Tensor) -> Tensor:
        """Return motions (B, 4) for camera images (B, h, w, 3) uint8 and ``proprio`` (B, P)."""
        blurred = torch.from_numpy(np.stack([blur(image) for image in images.numpy()]))
        return self(blurred, proprio)[0]

    def deviation(self, images: Tensor, proprio: Tensor) -> Tensor:
        """Return the mean squared whitened motion (B,); about 1 for an unmoved camera."""
        motion = self.estimate(images, proprio)
        return ((motion - self.mean) @ self.whitening).square().mean(-1)

    def calibrate(self, motions: Tensor) -> None:
        """Set the calibration from ``motions`` (N, 4) estimated with an unmoved camera."""
        self.mean.copy_(motions.mean(0))
        covariance = torch.cov(motions.T) + 1e-8 * torch.eye(len(MAX_IMAGE_MOTION))
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)).T)
