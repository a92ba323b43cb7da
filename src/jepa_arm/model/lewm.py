"""LeWorldModel as published (arXiv:2603.19312): ViT-Tiny, projector, causal predictor.

``LeWM`` is the network alone, with the tensor names of the released weights; ``LeWorldModel``
gives it a contract and the verbs of ``WorldModel``. Joints are not part of it: it sees images.
Deviations: none in the network and its loss; actions come in [-1, 1], not standardised, and
images that are not square are stretched.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..config import Contract, LewmConfig
from .vit import VisionTransformer
from .world_model import Normaliser, checked

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours in [0, 1]; the released weights expect images normalised by them."""
ACTION_MLP_SCALE = 4
NORM_EPS = 1e-6


class LeWM(nn.Module):
    """The published network.

    Attributes:
        config: its sizes; latent: D; block_width: K*A, values of one action block.
    """

    def __init__(self, config: LewmConfig, block_width: int) -> None:
        super().__init__()
        self.config, self.latent, self.block_width = config, config.latent, block_width
        self.encoder = VisionTransformer(
            (config.image_size, config.image_size),
            config.patch_size,
            config.latent,
            config.encoder_blocks,
            config.encoder_heads,
        )
        self.projector = Projector(config.latent, config.projector_width)
        self.predictor = LatentPredictor(config)
        self.action_encoder = ActionEncoder(block_width, config.action_channels, config.latent)
        self.pred_proj = Projector(config.latent, config.projector_width)

    def embed(self, image: Tensor) -> Tensor:
        """Latents (B, D) float32 of images (B, 3, image_size, image_size), see ``IMAGE_MEAN``."""
        return self.projector(self.encoder(image)).float()

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """For each of ``latents`` (B, T, D) the next one (B, T, D), told those before it.

        ``actions`` (B, T, K*A) leave the latents; T is at most ``config.history``.
        """
        modulations = self.predictor.modulations(self.action_encoder(actions))
        return self.pred_proj(self.predictor(latents, modulations)).float()

    def unroll(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Open-loop latents (B, H, D) that follow ``latents`` (B, T, D).

        ``actions`` (B, T - 1 + H, K*A): block t leaves latent t, so that T - 1 of them are
        past. Of the latents known or predicted the predictor sees the last ``config.history``.
        """
        past = latents.shape[1]
        modulations = self.predictor.modulations(self.action_encoder(actions))
        known = list(latents.unbind(1))
        for now in range(past, actions.shape[1] + 1):
            window = slice(max(0, now - self.config.history), now)
            seen = torch.stack(known[window], dim=1)
            features = self.predictor(seen, [m[:, window] for m in modulations])
            known.append(self.pred_proj(features[:, -1]).float())
        return torch.stack(known[past:], dim=1)


class LeWorldModel(LeWM):
    """``LeWM`` for one contract: the verbs of ``WorldModel``, see there.

    The published planner starts from one image, so ``z_prev`` is not used: a rollout's history
    begins with ``z`` and grows by what is predicted.
    """

    past = 1
    sees_velocity = False

    def __init__(self, config: LewmConfig, contract: Contract, normaliser: Normaliser) -> None:
        """``normaliser`` is only kept for the checkpoint: colours are normalised as published."""
        super().__init__(config, contract.block_width)
        self.contract = contract
        self.normaliser = normaliser

    def encode(
        self, pixels: Tensor | NDArray[np.uint8], proprio: Tensor | NDArray[np.floating]
    ) -> Tensor:
        """Latents (B, D) float32 of images (B, h, w, 3) uint8 RGB; ``proprio`` is not seen.

        Raises:
            ValueError: images or proprioception of another shape or type than the contract's.
        """
        pixels, _ = checked(self.contract, pixels, proprio, self.contract.proprio_width)
        return self.embed(normalised(pixels, self.config.image_size))

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Latents (B, D) one model step after ``z`` (B, D); ``action_block`` (B, K*A)."""
        return self.unroll(z[:, None], action_block[:, None])[:, 0]

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """Open-loop latents (B, H, D) under action blocks (B, H, K*A)."""
        return self.unroll(z[:, None], actions)

    def prediction_errors(self, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """See ``WorldModel.prediction_errors``; open-loop errors are not in the loss: zero."""
        one_step = self.predict_next(z[:, :-1], actions)
        return torch.zeros(()), (one_step - z[:, 1:]).square().mean()


class Projector(nn.Module):
    """Wide MLP with batch normalisation, on the last axis."""

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, latent)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D); batch statistics are over all axes but the last."""
        return self.net(x.reshape(-1, x.shape[-1])).view(x.shape)


class ActionEncoder(nn.Module):
    """Action blocks to the conditions of the predictor."""

    def __init__(self, block_width: int, channels: int, latent: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(block_width, channels, kernel_size=1)
        hidden = ACTION_MLP_SCALE * latent
        self.embed = nn.Sequential(
            nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, latent)
        )

    def forward(self, actions: Tensor) -> Tensor:
        """(B, T, D) of action blocks (B, T, K*A)."""
        return self.embed(self.patch_embed(actions.transpose(1, 2)).transpose(1, 2))


class LatentPredictor(nn.Module):
    """Causal transformer over the last latents, conditioned on the action that leaves each."""

    def __init__(self, config: LewmConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.history, config.latent))
        layers = nn.ModuleList(PredictorBlock(config) for _ in range(config.predictor_blocks))
        self.transformer = nn.ModuleDict({'layers': layers, 'norm': nn.LayerNorm(config.latent)})

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """What each block is told of conditions (B, T, D): (B, T, 6*D) each.

        It does not depend on latents, so that a rollout does it once for all its steps.
        """
        return [block.adaLN_modulation(conditions) for block in self._blocks()]

    def forward(self, latents: Tensor, modulations: list[Tensor]) -> Tensor:
        """Features (B, T, D) of ``latents`` (B, T, D) under the ``modulations`` of T actions."""
        x = latents + self.pos_embedding[:, : latents.shape[1]]
        for block, modulation in zip(self._blocks(), modulations, strict=True):
            x = block(x, modulation)
        return self.transformer['norm'](x)

    def _blocks(self) -> list[PredictorBlock]:
        return cast('list[PredictorBlock]', self.transformer['layers'])


class PredictorBlock(nn.Module):
    """Causal attention and MLP, scaled, shifted and gated by the action (AdaLN-zero).

    DiT, arXiv:2212.09748, section 3.2; it starts as the identity.
    """

    def __init__(self, config: LewmConfig) -> None:
        super().__init__()
        width, dropout = config.latent, config.dropout
        self.attn = CausalAttention(width, config.predictor_heads, config.head_width, dropout)
        hidden = nn.Linear(width, config.predictor_width)
        out = nn.Linear(config.predictor_width, width)
        drops = nn.Dropout(dropout), nn.Dropout(dropout)
        net = nn.Sequential(nn.LayerNorm(width), hidden, nn.GELU(), drops[0], out, drops[1])
        self.mlp = nn.ModuleDict({'net': net})
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        condition = nn.Linear(width, 6 * width)
        nn.init.zeros_(condition.weight)
        nn.init.zeros_(condition.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), condition)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """(B, T, D) to the same; ``modulation`` (B, T, 6*D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + mlp_gate * self.mlp['net'](self.norm2(x) * (1 + mlp_scale) + mlp_shift)


class CausalAttention(nn.Module):
    """Multi-head self-attention in which each step sees itself and those before it."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        parts = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.to_out(seen.transpose(1, 2).flatten(2))


def normalised(pixels: Tensor, size: int) -> Tensor:
    """Images (B, 3, size, size) float32 in ImageNet's units, of (B, h, w, 3) uint8 RGB.

    Resized bilinearly, with a low-pass before they are made smaller, as torchvision does.
    """
    image = pixels.permute(0, 3, 1, 2).float() / 255.0
    if image.shape[2:] != (size, size):
        image = functional.interpolate(image, (size, size), mode='bilinear', antialias=True)
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return (image - mean[:, None, None]) / std[:, None, None]
