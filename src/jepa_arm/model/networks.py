"""The networks of the compact world model: encoder, action-conditioned predictor, and inverse."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..config import ConfigError, ModelConfig
from .vit import VisionTransformer


class Encoder(nn.Module):
    """Image and proprioception to a latent of zero mean and unit variance in each dimension."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int], proprio: int) -> None:
        super().__init__()
        self.dropout = config.image_dropout
        trunk, features = _trunk(config, image_size)
        self.image = nn.Sequential(
            *trunk,
            nn.Linear(features, config.image_width, bias=False),
            nn.BatchNorm1d(config.image_width),
            nn.ReLU(inplace=True),
        )
        width = config.image_width
        self.proprio = None
        if config.sees_joints:
            self.proprio = nn.Sequential(
                nn.Linear(proprio, config.proprio_width),
                nn.ReLU(inplace=True),
                nn.Linear(config.proprio_width, config.proprio_width, bias=False),
                nn.BatchNorm1d(config.proprio_width),
                nn.ReLU(inplace=True),
            )
            width += config.proprio_width
        self.fuse = nn.Sequential(
            nn.Linear(width, config.encoder_width, bias=False),
            nn.BatchNorm1d(config.encoder_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.encoder_width, config.latent),
        )
        self.norm = nn.BatchNorm1d(config.latent, affine=False)
        if self.dropout:
            self.unseen = nn.Parameter(torch.zeros(config.image_width))

    def forward(self, image: Tensor, proprio: Tensor) -> Tensor:
        """Latents (B, D) of images (B, 3, h, w) and proprioception (B, P), both normalised."""
        return self.parts(image, proprio)[0]

    def parts(self, image: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor]:
        """``forward``, and the features (B, image_width) of the image alone."""
        seen = self.image(image)
        if self.training and self.dropout:
            is_dropped = torch.rand(len(seen), 1) < self.dropout
            seen = torch.where(is_dropped, self.unseen.to(seen.dtype), seen)
        return self._latents(seen, proprio), seen

    def blind(self, proprio: Tensor) -> Tensor:
        """Latents (B, D) of normalised proprioception (B, P) alone; needs image dropout."""
        return self._latents(self.unseen.expand(len(proprio), -1), proprio)

    def _latents(self, seen: Tensor, proprio: Tensor) -> Tensor:
        if self.proprio is not None:
            seen = torch.cat([seen, self.proprio(proprio)], dim=-1)
        return self.norm(self.fuse(seen).float())


def _trunk(config: ModelConfig, image_size: tuple[int, int]) -> tuple[list[nn.Module], int]:
    """Layers from an image (B, 3, h, w) to flat features, and how many of these there are."""
    if config.vit:
        patch, width, blocks, heads = config.vit
        return [VisionTransformer(image_size, patch, width, blocks, heads)], width
    layers: list[nn.Module] = []
    width, (height, breadth) = 3, image_size
    kernels = config.kernels or (3,) * len(config.channels)
    for channels, kernel in zip(config.channels, kernels, strict=True):
        rim = kernel - 2
        layers += [
            nn.Conv2d(width, channels, kernel, stride=2, padding=rim, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        width, height, breadth = channels, (height + rim) // 2, (breadth + rim) // 2
    if min(height, breadth) < 1:
        raise ConfigError(
            f'model {config.name}: expected an image that can be halved {len(config.channels)} '
            f'times, got {image_size}; use fewer channels, or kernels of 3'
        )
    return [*layers, nn.Flatten()], width * height * breadth


class AdaptiveBlock(nn.Module):
    """Residual MLP whose normalisation and gate depend on the action (AdaLN-zero).

    Scale, shift and gate as in DiT, arXiv:2212.09748, section 3.2; it starts as the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(approximate='tanh'), nn.Linear(width, width)
        )
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """(B, width) from features (B, width) and ``condition`` of the action (B, 3*width)."""
        shift, scale, gate = modulation.chunk(3, dim=-1)
        return h + gate * self.mlp(self.norm(h) * (1 + scale) + shift)


class Predictor(nn.Module):
    """The latent one model step ahead, as a residual to the present one."""

    def __init__(self, config: ModelConfig, block_width: int) -> None:
        super().__init__()
        width = config.predictor_width
        self.history, self.is_residual = config.history, config.is_residual
        self.latent = nn.Linear(config.history * config.latent, width)
        self.action = nn.Sequential(
            nn.Linear(block_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(config.predictor_blocks))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.latent))

    def forward(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Predicted latents (B, D).

        Args:
            z: (B, D) now. z_prev: (B, past*D), one model step ago first.
            action_block: (B, K*A) in [-1, 1], the actions until the predicted latent.
        """
        return self.step(z, z_prev, self.modulations(action_block))

    def modulations(self, action_blocks: Tensor) -> list[Tensor]:
        """What each residual block is told of actions (..., K*A): (..., 3*width) each.

        Two thirds of the arithmetic. It does not depend on latents, so that a rollout does it
        once for all its steps.
        """
        action = self.action(action_blocks)
        return [block.condition(action) for block in cast('list[AdaptiveBlock]', self.blocks)]

    def step(self, z: Tensor, z_prev: Tensor, modulations: list[Tensor]) -> Tensor:
        """``forward`` with the ``modulations`` of the action blocks."""
        h = self.latent(self._seen(z, z_prev))
        for block, modulation in zip(self.blocks, modulations, strict=True):
            h = block(h, modulation)
        out = self.out(h).float()
        return z + out if self.is_residual else out

    def _seen(self, z: Tensor, z_prev: Tensor) -> Tensor:
        """(B, history*D): the latent and its changes, the newest first."""
        if self.history == 1:
            return z
        before = z_prev.split(z.shape[-1], dim=-1)
        changes = [new - old for new, old in zip((z, *before), before, strict=False)]
        return torch.cat([z, *changes], dim=-1)


class InverseDynamics(nn.Module):
    """The actions between two latents: a term of the loss that keeps what actions change."""

    def __init__(self, config: ModelConfig, block_width: int) -> None:
        super().__init__()
        width = config.inverse_width
        self.mlp = nn.Sequential(
            nn.Linear(2 * config.latent, width), nn.GELU(), nn.Linear(width, block_width)
        )

    def forward(self, z: Tensor, z_next: Tensor) -> Tensor:
        """Action blocks (..., K*A) that lead from ``z`` (..., D) to ``z_next``."""
        return self.mlp(torch.cat([z, z_next], dim=-1)).float()
