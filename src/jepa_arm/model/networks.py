"""Networks of the compact world model: encoder, action-conditioned predictor, inverse dynamics."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from jepa_arm.config import ModelConfig


class Encoder(nn.Module):
    """Encoder from an image and proprioception to a latent normalised in each dimension.

    The final batch normalisation gives every latent dimension zero mean and unit variance.
    """

    def __init__(self, config: ModelConfig, image_size: tuple[int, int], proprio: int) -> None:
        super().__init__()
        layers, features = _convolutions(config, image_size)
        self.image_encoder = nn.Sequential(
            *layers,
            nn.Linear(features, config.image_features, bias=False),
            nn.BatchNorm1d(config.image_features),
            nn.ReLU(inplace=True),
        )
        width = config.image_features
        self.proprio_encoder = None
        if config.uses_proprioception:
            self.proprio_encoder = nn.Sequential(
                nn.Linear(proprio, config.proprio_features),
                nn.ReLU(inplace=True),
                nn.Linear(config.proprio_features, config.proprio_features, bias=False),
                nn.BatchNorm1d(config.proprio_features),
                nn.ReLU(inplace=True),
            )
            width += config.proprio_features
        self.fusion = nn.Sequential(
            nn.Linear(width, config.encoder_width, bias=False),
            nn.BatchNorm1d(config.encoder_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.encoder_width, config.latent_dim),
        )
        self.norm = nn.BatchNorm1d(config.latent_dim, affine=False)

    def forward(self, image: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents (B, D) float32 and the features (B, image_features) of the image alone.

        Args:
            image: (B, 3, h, w), normalised.
            proprio: (B, P), normalised; ignored by a model without proprioception.
        """
        image_features = self.image_encoder(image)
        features = image_features
        if self.proprio_encoder is not None:
            features = torch.cat([features, self.proprio_encoder(proprio)], dim=-1)
        return self.norm(self.fusion(features).float()), image_features


def _convolutions(config: ModelConfig, image_size: tuple[int, int]) -> tuple[list[nn.Module], int]:
    """Return the layers from an image (B, 3, h, w) to flat features, and the feature count."""
    layers: list[nn.Module] = []
    inputs, (height, width) = 3, image_size
    for channels in config.conv_channels:
        layers += [
            nn.Conv2d(inputs, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        inputs, height, width = channels, (height + 1) // 2, (width + 1) // 2
    return [*layers, nn.Flatten()], inputs * height * width


class AdaLnBlock(nn.Module):
    """Residual MLP whose normalisation and gate depend on the action (AdaLN-zero).

    Scale, shift and gate follow DiT, arXiv:2212.09748, section 3.2. The block is the identity at
    initialisation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(approximate='tanh'), nn.Linear(width, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Return features (B, width).

        Args:
            h: (B, width).
            modulation: (B, 3*width), output of ``self.modulation`` for the embedded action.
        """
        shift, scale, gate = modulation.chunk(3, dim=-1)
        return h + gate * self.mlp(self.norm(h) * (1 + scale) + shift)


class Predictor(nn.Module):
    """Predictor of the latent one model step ahead, as a residual on the current latent."""

    def __init__(self, config: ModelConfig, block_width: int) -> None:
        super().__init__()
        width = config.predictor_width
        self.history = config.history
        self.input_projection = nn.Linear(config.history * config.latent_dim, width)
        self.action_encoder = nn.Sequential(
            nn.Linear(block_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(AdaLnBlock(width) for _ in range(config.predictor_blocks))
        self.output_projection = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, config.latent_dim)
        )

    def forward(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Return predicted latents (B, D).

        Args:
            z: (B, D), current latents.
            z_prev: (B, past*D), previous latents, most recent first.
            action_block: (B, K*A) in [-1, 1], actions from the current to the predicted latent.
        """
        return self.step(z, z_prev, self.modulations(action_block))

    def modulations(self, action_blocks: Tensor) -> list[Tensor]:
        """Return the modulation (..., 3*width) of each residual block for actions (..., K*A).

        It takes two thirds of the predictor's arithmetic, but does not depend on latents, so a
        rollout computes it once for all its steps.
        """
        action = self.action_encoder(action_blocks)
        return [block.modulation(action) for block in cast('list[AdaLnBlock]', self.blocks)]

    def step(self, z: Tensor, z_prev: Tensor, modulations: list[Tensor]) -> Tensor:
        """Return ``forward`` for actions whose ``modulations`` are already computed."""
        h = self.input_projection(self._history_features(z, z_prev))
        for block, modulation in zip(self.blocks, modulations, strict=True):
            h = block(h, modulation)
        return z + self.output_projection(h).float()

    def _history_features(self, z: Tensor, z_prev: Tensor) -> Tensor:
        """Return (B, history*D): the latent and its recent differences, newest first."""
        if self.history == 1:
            return z
        previous = z_prev.split(z.shape[-1], dim=-1)
        changes = [new - old for new, old in zip((z, *previous), previous, strict=False)]
        return torch.cat([z, *changes], dim=-1)


class InverseDynamics(nn.Module):
    """Network from two successive latents to the actions between them.

    It is used in the training loss only, where it makes the encoder retain what actions change.
    """

    def __init__(self, config: ModelConfig, block_width: int) -> None:
        super().__init__()
        width = config.inverse_dynamics_width
        self.mlp = nn.Sequential(
            nn.Linear(2 * config.latent_dim, width), nn.GELU(), nn.Linear(width, block_width)
        )

    def forward(self, z: Tensor, z_next: Tensor) -> Tensor:
        """Return the action blocks (..., K*A) that lead from ``z`` (..., D) to ``z_next``."""
        return self.mlp(torch.cat([z, z_next], dim=-1)).float()


def mlp(inputs: int, width: int, outputs: int, hidden: int = 2) -> nn.Sequential:
    """Return a multilayer perceptron with ``hidden`` hidden layers and SiLU activations."""
    layers: list[nn.Module] = []
    for size in (inputs, *[width] * (hidden - 1)):
        layers += [nn.Linear(size, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))
