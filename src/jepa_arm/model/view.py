"""Where the camera looks from, told by how the arm looks in its image.

A network learns by how much images were shifted, turned and enlarged, where the joints are known
(a pretext task of geometric transformations, as in Golan and El-Yaniv, arXiv:1805.10917; motions
of images by regression: DeTone et al., arXiv:1606.03798). What it reads off an image of the camera
as it stood in training is next to nothing; once the camera has moved it is not.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..types import ImageArray
from .felt import Felt
from .world_model import Normaliser

MOST = (0.02, 0.02, 0.02, 0.02)
"""By which images are shifted to the right and down (of their width), enlarged (log) and turned
(rad) at most in training."""
MARGIN = 0.0375
"""Of the width, at each side, that is not looked at: no motion brings in what is not there."""
SOFT, SOFTEST_RANGE = 0.9 / 80.0, (0.6 / 80.0, 1.2 / 80.0)
"""Of the width, by which an image is blurred, and images in training: how sharp one is must not
tell whether it was moved."""


def soft(image: ImageArray, share: float = SOFT) -> NDArray[np.float32]:
    """``image`` (h, w, 3) blurred by a Gaussian of ``share`` of its width."""
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), share * image.shape[1])
    return np.asarray(blurred, dtype=np.float32)


class View(Felt):
    """By how much an image is moved, from it and proprioception.

    Attributes:
        mean, root: (4,) and (4, 4), of what is read off usual images: less the mean, times the
            root, it is standard normal.
    """

    mean: Tensor
    root: Tensor

    def __init__(self, normaliser: Normaliser, height: int, width: int, features: int = 128):
        super().__init__(normaliser)
        self._margin = round(MARGIN * width)
        rows, columns = (-(-(side - 2 * self._margin) // 8) for side in (height, width))
        self.image = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(48 * rows * columns, features),
        )  # fmt: skip
        self.arm = nn.Sequential(
            nn.Linear(len(self._mean) - 3, features), nn.ReLU(), nn.Linear(features, features)
        )
        self.net = nn.Sequential(
            nn.ReLU(), nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 8)
        )
        self.register_buffer('mean', torch.zeros(len(MOST)))
        self.register_buffer('root', torch.eye(len(MOST)))

    def forward(self, images: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor]:
        """Motions (B, 4) as shares of ``MOST``, and their log variances (B, 4).

        Args:
            images: (B, h, w, 3) in [0, 255], ``soft``. proprio: (B, P).
        """
        m = self._margin
        inner = images[:, m : images.shape[1] - m, m : images.shape[2] - m]
        seen = self.image(inner.permute(0, 3, 1, 2) / 255.0 - 0.5)
        # without the target's lead over the tip, which no image shows
        mean, log_var = self.net(seen + self.arm(self.felt(proprio)[:, :-3])).chunk(2, dim=-1)
        return mean, log_var.clamp(-8.0, 4.0)

    def read(self, images: Tensor, proprio: Tensor) -> Tensor:
        """(B, 4) of images (B, h, w, 3) uint8 as they come from the camera."""
        softened = torch.from_numpy(np.stack([soft(image) for image in images.numpy()]))
        return self(softened, proprio)[0]

    def strangeness(self, images: Tensor, proprio: Tensor) -> Tensor:
        """(B,) mean square of ``read`` in units of what is usual."""
        return ((self.read(images, proprio) - self.mean) @ self.root).square().mean(-1)

    def fit(self, motions: Tensor) -> None:
        """Takes ``motions`` (N, 4), read off usual images, for usual."""
        self.mean.copy_(motions.mean(0))
        covariance = torch.cov(motions.T) + 1e-8 * torch.eye(len(MOST))
        self.root.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)).T)
