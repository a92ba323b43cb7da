"""Yaw probe: the object's yaw, estimated from an image patch around the object.

The world model's latent does not contain the yaw, which repeats every quarter turn, shows in few
pixels and helps little in prediction. The probe is trained after the world model, on its own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_arm.core.types import FloatArray

PATCH_PIXELS, PATCH_SAMPLES = 20.0, 24
"""Side length of the patch, in pixels of the image and in samples."""
LOG_VARIANCE_BOUNDS = -7.0, 1.5
"""Bounds on the log of the predicted squared error on the unit circle."""


class YawProbe(nn.Module):
    """Convolutional network from an image patch to a yaw and its expected error.

    The yaw is represented as the sine and cosine of four times the angle, which is the same after
    a quarter turn. The error is the squared distance between two such unit vectors.
    """

    def __init__(self) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        self.image_encoder = nn.Sequential(
            layer(3, 16, 1), layer(16, 32, 2), layer(32, 48, 1), layer(48, 48, 2),
            nn.Conv2d(48, 12, 1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(12 * (PATCH_SAMPLES // 4) ** 2 + 2, 64), nn.ReLU(), nn.Linear(64, 3)
        )

    def forward(self, patches: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (sin, cos) of four times the yaw (B, 2), and the log of its squared error (B,).

        Args:
            patches: (B, 3, PATCH_SAMPLES, PATCH_SAMPLES), see ``crop_patches``.
            pixels: (B, 2), centres of the patches in the image.
        """
        location = (pixels - 32.0) / 32.0
        out = self.head(torch.cat([self.image_encoder(patches), location], dim=1))
        direction = nn.functional.normalize(out[:, :2], dim=1)
        return direction, out[:, 2].clamp(*LOG_VARIANCE_BOUNDS)

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8], pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return yaws (B,) rad modulo quarter turns and their expected rms errors (B,) rad.

        Args:
            images: (B, h, w, 3) RGB.
            pixels: (B, 2), the object's centre in each image.
        """
        centres = torch.tensor(pixels, dtype=torch.float32)
        direction, log_error = self(crop_patches(torch.from_numpy(images), centres), centres)
        yaw = torch.atan2(direction[:, 0], direction[:, 1]) / 4.0
        std = torch.exp(log_error / 2.0) / 4.0
        return yaw.numpy().astype(float), std.numpy().astype(float)


def crop_patches(images: Tensor, pixels: Tensor) -> Tensor:
    """Return patches (B, 3, PATCH_SAMPLES, PATCH_SAMPLES) in [-0.5, 0.5] around ``pixels``.

    Patches are interpolated between pixels so that they are centred exactly. Beyond the image, its
    border pixels are repeated.

    Args:
        images: (B, h, w, 3) uint8 RGB.
        pixels: (B, 2), centres.
    """
    height, width = images.shape[1:3]
    line = torch.arange(PATCH_SAMPLES) - (PATCH_SAMPLES - 1) / 2.0
    line = line * (PATCH_PIXELS / PATCH_SAMPLES)
    x = (pixels[:, :1] + line + 0.5) * (2.0 / width) - 1.0
    y = (pixels[:, 1:] + line + 0.5) * (2.0 / height) - 1.0
    shape = (-1, PATCH_SAMPLES, PATCH_SAMPLES)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    image = images.permute(0, 3, 1, 2).float() / 255.0 - 0.5
    return nn.functional.grid_sample(image, grid, align_corners=False, padding_mode='border')
