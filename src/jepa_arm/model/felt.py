"""Proprioception as networks are told of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .world_model import Normaliser


class Felt(nn.Module):
    """Knows what proprioception is usual."""

    _mean: Tensor
    _std: Tensor

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__()
        mean, std = map(torch.tensor, (normaliser.proprio_mean, normaliser.proprio_std))
        # not saved with the weights: their home is the world model's config.json
        self.register_buffer('_mean', mean, persistent=False)
        self.register_buffer('_std', std, persistent=False)

    def felt(self, proprio: Tensor) -> Tensor:
        """(B, P) normalised."""
        return (proprio - self._mean) / self._std
