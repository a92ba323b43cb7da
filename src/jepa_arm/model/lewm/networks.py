"""LeWorldModel as published (arXiv:2603.19312): ViT-Tiny, projector, causal predictor.

``LeWM`` is the network alone, with the tensor names of the released weights. ``LeWorldModel`` adds
a contract and the interface of ``WorldModel``. It encodes images only, no proprioception. Network
and loss do not deviate from the paper; actions lie in [-1, 1] instead of being standardised, and
images that are not square are stretched.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_arm.config import Contract, LewmConfig
from jepa_arm.model.world_model import Images, Normaliser, Rows, validate_inputs

from .vit import VisionTransformer

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet statistics of colours in [0, 1]; the released weights expect this normalisation."""
ACTION_MLP_SCALE = 4
NORM_EPS = 1e-6


class LeWM(nn.Module):
    """The published network.

    Attributes:
        config: sizes of the network.
        latent_dim: D.
        block_width: K*A, number of values in an action block.
    """

    def __init__(self, config: LewmConfig, block_width: int) -> None:
        super().__init__()
        self.config, self.latent_dim, self.block_width = config, config.latent_dim, block_width
        self.encoder = VisionTransformer(config)
        self.projector = Projector(config.latent_dim, config.projector_width)
        self.predictor = LatentPredictor(config)
        self.action_encoder = ActionEncoder(block_width, config.action_channels, config.latent_dim)
        self.pred_proj = Projector(config.latent_dim, config.projector_width)

    def embed(self, image: Tensor) -> Tensor:
        """Return latents (B, D) float32 of images (B, 3, h, w), see ``normalise_images``."""
        return self.projector(self.encoder(image)).float()

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Return the successor (B, T, D) of each of ``latents`` (B, T, D), given its predecessors.

        ``actions`` (B, T, K*A) are applied after each latent; T is at most ``config.history``.
        """
        modulations = self.predictor.modulations(self.action_encoder(actions))
        return self.pred_proj(self.predictor(latents, modulations)).float()

    def rollout_history(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Return the open-loop latents (B, H, D) that follow ``latents`` (B, T, D).

        The predictor receives the last ``config.history`` of the given and predicted latents.

        Args:
            latents: (B, T, D).
            actions: (B, T - 1 + H, K*A); block t is applied after latent t, so the first T - 1
                blocks lie in the past.
        """
        past = latents.shape[1]
        modulations = self.predictor.modulations(self.action_encoder(actions))
        sequence = list(latents.unbind(1))
        for now in range(past, actions.shape[1] + 1):
            window = slice(max(0, now - self.config.history), now)
            recent = torch.stack(sequence[window], dim=1)
            features = self.predictor(recent, [m[:, window] for m in modulations])
            sequence.append(self.pred_proj(features[:, -1]).float())
        return torch.stack(sequence[past:], dim=1)


class LeWorldModel(LeWM):
    """``LeWM`` for one contract, with the interface of ``WorldModel``.

    The published planner starts from one image. ``z_prev`` is therefore ignored: the history of a
    rollout begins with ``z`` and grows by the predicted latents.
    """

    past = 1

    def __init__(self, config: LewmConfig, contract: Contract, normaliser: Normaliser) -> None:
        """Build the network; ``normaliser`` is only stored for the checkpoint.

        Colours are normalised as published.
        """
        super().__init__(config, contract.block_width)
        self.contract = contract
        self.normaliser = normaliser

    def encode(self, pixels: Images, proprio: Rows) -> Tensor:
        """Return latents (B, D) float32 of images (B, h, w, 3) uint8 RGB; ``proprio`` is ignored.

        Raises:
            ValueError: the shape or type of an input does not match the contract.
        """
        pixels, _ = validate_inputs(self.contract, pixels, proprio)
        return self.embed(normalise_images(pixels, self.config.image_size))

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Return latents (B, D) one model step after ``z`` (B, D); ``action_block`` (B, K*A)."""
        return self.rollout_history(z[:, None], action_block[:, None])[:, 0]

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """Return open-loop latents (B, H, D) under action blocks (B, H, K*A)."""
        return self.rollout_history(z[:, None], actions)

    def prediction_errors(self, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return 0 for the open-loop error, absent in the published loss, and the one-step error.

        See ``WorldModel.prediction_errors``.
        """
        one_step = self.predict_next(z[:, :-1], actions)
        return torch.zeros(()), (one_step - z[:, 1:]).square().mean()


class Projector(nn.Module):
    """Wide MLP with batch normalisation, applied to the last axis."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.BatchNorm1d(width),
            nn.GELU(),
            nn.Linear(width, latent_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) for ``x`` (..., D); batch statistics are over all axes but the last."""
        return self.net(x.reshape(-1, x.shape[-1])).view(x.shape)


class ActionEncoder(nn.Module):
    """Embedding of action blocks that conditions the predictor."""

    def __init__(self, block_width: int, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(block_width, channels, kernel_size=1)
        hidden = ACTION_MLP_SCALE * latent_dim
        self.embed = nn.Sequential(
            nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, latent_dim)
        )

    def forward(self, actions: Tensor) -> Tensor:
        """Return embeddings (B, T, D) of action blocks (B, T, K*A)."""
        return self.embed(self.patch_embed(actions.transpose(1, 2)).transpose(1, 2))


class LatentPredictor(nn.Module):
    """Causal transformer over recent latents, conditioned on the action block after each."""

    def __init__(self, config: LewmConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.history, config.latent_dim))
        layers = nn.ModuleList(PredictorBlock(config) for _ in range(config.predictor_blocks))
        self.transformer = nn.ModuleDict(
            {'layers': layers, 'norm': nn.LayerNorm(config.latent_dim)}
        )

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """Return the modulation (B, T, 6*D) of each block for embedded actions (B, T, D).

        It does not depend on latents, so a rollout computes it once for all its steps.
        """
        return [block.adaLN_modulation(conditions) for block in self._blocks()]

    def forward(self, latents: Tensor, modulations: list[Tensor]) -> Tensor:
        """Return features (B, T, D) of ``latents`` (B, T, D), given ``modulations`` of actions."""
        x = latents + self.pos_embedding[:, : latents.shape[1]]
        for block, modulation in zip(self._blocks(), modulations, strict=True):
            x = block(x, modulation)
        return self.transformer['norm'](x)

    def _blocks(self) -> list[PredictorBlock]:
        return cast('list[PredictorBlock]', self.transformer['layers'])


class PredictorBlock(nn.Module):
    """Causal attention and MLP, scaled, shifted and gated by the action (AdaLN-zero).

    Follows DiT, arXiv:2212.09748, section 3.2. The block is the identity at initialisation.
    """

    def __init__(self, config: LewmConfig) -> None:
        super().__init__()
        width, dropout = config.latent_dim, config.dropout
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
        """Return features (B, T, D) of ``x`` (B, T, D); ``modulation`` (B, T, 6*D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + mlp_gate * self.mlp['net'](self.norm2(x) * (1 + mlp_scale) + mlp_shift)


class CausalAttention(nn.Module):
    """Multi-head self-attention of each step to itself and its predecessors."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, T, D) of ``x`` (B, T, D)."""
        parts = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True
        )
        return self.to_out(attended.transpose(1, 2).flatten(2))


def normalise_images(pixels: Tensor, size: int) -> Tensor:
    """Return images (B, 3, size, size) normalised by ImageNet statistics.

    Resizing is bilinear with antialiasing, as in torchvision.

    Args:
        pixels: (B, h, w, 3) uint8 RGB.
        size: side length of the result, px.
    """
    image = pixels.permute(0, 3, 1, 2).float() / 255.0
    if image.shape[2:] != (size, size):
        image = functional.interpolate(image, (size, size), mode='bilinear', antialias=True)
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return (image - mean[:, None, None]) / std[:, None, None]
