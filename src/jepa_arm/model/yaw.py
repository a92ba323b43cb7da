"""The object's yaw, read off a small piece of the image around it.

A world model's latent does not hold it: what is the same after a quarter turn, and a few pixels
wide, predicts little. What reads it is taught after the world model, never with it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..types import FloatArray

PIXELS, SAMPLES = 20.0, 24
"""Side of the piece of an image that is looked at, in its pixels and in samples."""
LOG_VARIANCES = -7.0, 1.5
"""Bounds on the logarithm of the squared chord that is expected."""


class YawReader(nn.Module):
    """A convolutional network from a piece of an image to a yaw, and how sure it is of that.

    It gives four times the angle as a direction on the circle (so that quarter turns do not
    matter) and the squared chord by which that is expected to be off.
    """

    def __init__(self) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        self.image = nn.Sequential(
            layer(3, 16, 1), layer(16, 32, 2), layer(32, 48, 1), layer(48, 48, 2),
            nn.Conv2d(48, 12, 1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(12 * (SAMPLES // 4) ** 2 + 2, 64), nn.ReLU(), nn.Linear(64, 3)
        )

    def forward(self, pieces: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, 2), sine and cosine of four times the yaw, and log chords (B,).

        Args:
            pieces: (B, 3, SAMPLES, SAMPLES) of ``pieces_of``. pixels: (B, 2), where they are.
        """
        place = (pixels - 32.0) / 32.0
        out = self.head(torch.cat([self.image(pieces), place], dim=1))
        direction = nn.functional.normalize(out[:, :2], dim=1)
        return direction, out[:, 2].clamp(*LOG_VARIANCES)

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8], pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Yaws (B,) rad up to quarter turns, and the rms errors (B,) rad to be expected.

        Args:
            images: (B, h, w, 3) RGB. pixels: (B, 2), where the object's middle is in them.
        """
        where = torch.tensor(pixels, dtype=torch.float32)
        direction, log_chord = self(pieces_of(torch.from_numpy(images), where), where)
        yaw = torch.atan2(direction[:, 0], direction[:, 1]) / 4.0
        spread = torch.exp(log_chord / 2.0) / 4.0
        return yaw.numpy().astype(float), spread.numpy().astype(float)


def pieces_of(images: Tensor, pixels: Tensor) -> Tensor:
    """(B, 3, SAMPLES, SAMPLES) in [-0.5, 0.5]: what is around ``pixels`` (B, 2) in the images.

    Between pixels it is interpolated, so that the object is in the middle. Beyond the image its
    rim goes on.

    Args:
        images: (B, h, w, 3) uint8 RGB.
    """
    height, width = images.shape[1:3]
    line = (torch.arange(SAMPLES) - (SAMPLES - 1) / 2.0) * (PIXELS / SAMPLES)
    x = (pixels[:, :1] + line + 0.5) * (2.0 / width) - 1.0
    y = (pixels[:, 1:] + line + 0.5) * (2.0 / height) - 1.0
    grid = torch.stack(
        [x[:, None, :].expand(-1, SAMPLES, -1), y[:, :, None].expand(-1, -1, SAMPLES)], dim=-1
    )
    image = images.permute(0, 3, 1, 2).float() / 255.0 - 0.5
    return nn.functional.grid_sample(image, grid, align_corners=False, padding_mode='border')
