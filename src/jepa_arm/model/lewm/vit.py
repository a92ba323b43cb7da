"""Vision transformer in plain torch, with the tensor names of LeWorldModel's released weights.

ViT, arXiv:2010.11929, in the form of Hugging Face's ``ViTModel`` without pooling: a class token,
learned position embeddings, pre-normalisation, exact GELU. Attribute names follow that model's
(``encoder.layer.0.attention.attention.query``), so that its weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_arm.config import LewmConfig

NORM_EPS = 1e-12
INIT_STD = 0.02


class VisionTransformer(nn.Module):
    """Vision transformer from an image to the features of its class token."""

    def __init__(self, config: LewmConfig) -> None:
        super().__init__()
        width, blocks = config.latent_dim, range(config.encoder_blocks)
        self.embeddings = PatchEmbeddings(config.image_size, config.patch_size, width)
        layers = nn.ModuleList(EncoderBlock(width, config.encoder_heads) for _ in blocks)
        self.encoder = nn.ModuleDict({'layer': layers})
        self.layernorm = nn.LayerNorm(width, eps=NORM_EPS)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, D) of normalised images (B, 3, image_size, image_size)."""
        tokens = self.embeddings(image)
        for layer in self.encoder['layer']:  # type: ignore[union-attr]
            tokens = layer(tokens)
        return self.layernorm(tokens[:, 0])


class PatchEmbeddings(nn.Module):
    """Embedding of image patches, preceded by a class token, with position embeddings."""

    def __init__(self, image_size: int, patch_size: int, width: int) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.empty(1, patches + 1, width))
        nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
        nn.init.trunc_normal_(self.position_embeddings, std=INIT_STD)
        projection = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.patch_embeddings = nn.ModuleDict({'projection': projection})

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens (B, patches + 1, width) of images (B, 3, h, w)."""
        patches = self.patch_embeddings['projection'](image).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(image), -1, -1)
        return torch.cat([first.to(patches.dtype), patches], dim=1) + self.position_embeddings


class EncoderBlock(nn.Module):
    """Residual self-attention over all tokens and residual MLP with four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        attend = nn.ModuleDict({n: nn.Linear(width, width) for n in ('query', 'key', 'value')})
        self.attention = nn.ModuleDict({'attention': attend, 'output': _dense(width, width)})
        self.intermediate = _dense(width, 4 * width)
        self.output = _dense(4 * width, width)
        self.layernorm_before = nn.LayerNorm(width, eps=NORM_EPS)
        self.layernorm_after = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the N ``tokens`` (B, N, width) after the block."""
        tokens = tokens + self._attend(self.layernorm_before(tokens))
        hidden = functional.gelu(self.intermediate['dense'](self.layernorm_after(tokens)))
        return tokens + self.output['dense'](hidden)

    def _attend(self, x: Tensor) -> Tensor:
        linear = self.attention['attention']
        q, k, v = (
            linear[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[index]
            for name in ('query', 'key', 'value')
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.attention['output']['dense'](attended.transpose(1, 2).flatten(2))  # type: ignore[index]


def _dense(inputs: int, outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict({'dense': nn.Linear(inputs, outputs)})


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
