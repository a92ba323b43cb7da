"""Decoder: turns latents into images for people to look at.

It is trained after the world model and never enters its loss. It shows what a latent retains of an
image; what the latent does not contain, such as hues, is missing from the decoded image.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Decoder(nn.Module):
    """Decoder whose transposed convolutions output the difference from the mean training image.

    Args:
        latent_dim: latent dimension D.
        image_size: (h, w) px.
        channels: numbers of feature channels, from coarse to fine.
    """

    mean: Tensor

    def __init__(
        self, latent_dim: int, image_size: tuple[int, int], channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._size, factor = image_size, 2 ** len(channels)
        height, width = (-(-side // factor) for side in image_size)
        self.input_projection = nn.Sequential(
            nn.Linear(latent_dim, channels[0] * height * width),
            nn.Unflatten(1, (channels[0], height, width)),
            nn.GELU(),
        )
        self.layers = nn.Sequential()
        for coarse, fine in pairwise(channels):
            self.layers.append(nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1))
            self.layers.append(nn.GELU())
        self.layers.append(nn.ConvTranspose2d(channels[-1], 3, 4, stride=2, padding=1))
        self.register_buffer('mean', torch.full((3, *image_size), 0.5))

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, 3, h, w) of latents (B, D).

        0 is black and 1 white; values outside [0, 1] occur.
        """
        height, width = self._size
        return self.mean + self.layers(self.input_projection(z))[..., :height, :width]

    @torch.inference_mode()
    def decode(self, z: Tensor) -> NDArray[np.uint8]:
        """Return images (B, h, w, 3) uint8 RGB of latents (B, D)."""
        images = self(z).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
        return images.permute(0, 2, 3, 1).contiguous().numpy()
