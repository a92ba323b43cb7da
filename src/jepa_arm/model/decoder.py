"""Pictures of latents: a read-out for people, trained afterwards, never in a loss of the model.

It shows what the latent holds of an image. What the world model is not taught to keep does not
come back: hues first of all, which are turned at random in its training.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import ConfigError, DecoderConfig, from_dict
from .checkpoint import Checkpoint, CheckpointError, fingerprint, load_module, read_metadata

WEIGHTS = 'weights'
"""Entry of the file's metadata: ``fingerprint`` of the world model it belongs to."""
HOW_TO_GET_ONE = 'jepa-arm decoder --data DATA --checkpoint CHECKPOINT makes one'


class Decoder(nn.Module):
    """Transposed convolutions from a latent to what is added to the mean image."""

    mean: Tensor

    def __init__(
        self, latent: int, image_size: tuple[int, int], channels: tuple[int, ...]
    ) -> None:
        """``image_size`` (h, w) px; ``channels`` from the coarsest features to the finest."""
        super().__init__()
        self._size, factor = image_size, 2 ** len(channels)
        height, width = (-(-side // factor) for side in image_size)
        self.spread = nn.Sequential(
            nn.Linear(latent, channels[0] * height * width),
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
        """(B, 3, h, w) of latents (B, D); 0 is black, 1 white, values beyond are possible."""
        height, width = self._size
        return self.mean + self.layers(self.spread(z))[..., :height, :width]

    @torch.inference_mode()
    def pictures(self, z: Tensor) -> NDArray[np.uint8]:
        """Images (B, h, w, 3) uint8 RGB of latents (B, D)."""
        images = self(z).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
        return images.permute(0, 2, 3, 1).contiguous().numpy()


def new_decoder(checkpoint: Checkpoint, config: DecoderConfig) -> Decoder:
    """An untrained one for a checkpoint."""
    size = checkpoint.contract.camera.seen
    return Decoder(checkpoint.model.latent, size, config.channels)


def load_decoder(checkpoint: Checkpoint) -> Decoder | None:
    """The decoder of a checkpoint, in eval mode; None if it has none.

    Raises:
        CheckpointError: its file is broken, or was made for other weights.
    """
    if 'decoder' not in checkpoint.info:
        return None
    folder = checkpoint.folder
    try:
        about = checkpoint.info['decoder']['config']
        decoder = new_decoder(checkpoint, from_dict(DecoderConfig, about))
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f'{folder}/config.json, decoder: expected what it was made with: {error}; '
            f'{HOW_TO_GET_ONE}'
        ) from error
    own, metadata = fingerprint(checkpoint.model), read_metadata(folder, 'decoder')
    if metadata is not None and metadata.get(WEIGHTS) != own:
        raise CheckpointError(
            f'{folder}/decoder.safetensors: expected a decoder of the world model beside it '
            f'({own}), got one of another ({metadata.get(WEIGHTS, "unknown")[:64]}); '
            f'{HOW_TO_GET_ONE}'
        )
    load_module(folder, 'decoder', decoder)
    return decoder
