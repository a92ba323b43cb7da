"""The world model's three verbs: encode what is seen, predict one step, roll out many.

LeWorldModel's form (arXiv:2603.19312): an encoder and an action-conditioned predictor trained
together on the prediction error in latent space and SIGReg; no decoder, no stop-gradient, no
moving average. Deviations: small convolutions instead of a ViT, joints fused with the image, a
residual MLP over (z, z - z_prev) instead of a transformer over a history, open-loop steps in
the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..config import Contract, ModelConfig
from .networks import Encoder, InverseDynamics, Predictor
from .precision import mixed_precision


@dataclass(frozen=True)
class Normaliser:
    """Means and standard deviations of the training split.

    Attributes:
        image_mean, image_std: of all colours together, in [0, 1].
        proprio_mean, proprio_std: (P,) rad and m.
    """

    image_mean: float
    image_std: float
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]


class WorldModel(nn.Module):
    """Encoder and predictor for one contract (arm, camera, action space, time chain).

    Attributes:
        contract: what the model was trained for.
        config: its sizes.
        latent: D.
        past: latents before the present one in ``z_prev``, the newest first.
        block_width: K*A, values of one action block (K = frame skip).
        sees_velocity: whether ``proprio`` ends in joint velocities.
    """

    _proprio_mean: Tensor
    _proprio_std: Tensor

    def __init__(self, config: ModelConfig, contract: Contract, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.contract = contract
        self.normaliser = normaliser
        self.latent, self.past = config.latent, config.past
        self.block_width, self.sees_velocity = contract.block_width, config.sees_velocity
        height, breadth = config.image_size or contract.camera.seen
        self.encoder = Encoder(config, (height, breadth), self.proprio_width)
        self.predictor = Predictor(config, self.block_width)
        if config.inverse_width:
            self.inverse = InverseDynamics(config, self.block_width)
        # not saved with the weights: their home is config.json
        mean, std = map(torch.tensor, (normaliser.proprio_mean, normaliser.proprio_std))
        self.register_buffer('_proprio_mean', mean, persistent=False)
        self.register_buffer('_proprio_std', std, persistent=False)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def proprio_width(self) -> int:
        """P: that of the contract, and the velocities if they are seen."""
        return self.contract.proprio_width + len(self.contract.joints) * self.sees_velocity

    def encode(
        self,
        pixels: Tensor | NDArray[np.uint8],
        proprio: Tensor | NDArray[np.floating],
    ) -> Tensor:
        """Latents (B, D) float32 of images (B, h, w, 3) uint8 RGB and ``proprio`` (B, P).

        See ``motion.proprioception`` for the latter.

        Raises:
            ValueError: images or proprioception of another shape or type than the contract's.
        """
        return self.encode_parts(pixels, proprio)[0]

    def encode_parts(
        self,
        pixels: Tensor | NDArray[np.uint8],
        proprio: Tensor | NDArray[np.floating],
    ) -> tuple[Tensor, Tensor]:
        """``encode``, and the features (B, image_width) of the images alone."""
        pixels, proprio = checked(self.contract, pixels, proprio, self.proprio_width)
        dtype = torch.bfloat16 if torch.is_autocast_enabled('cpu') else torch.float32
        image = pixels.permute(0, 3, 1, 2).to(dtype)  # channels-last in memory
        image = image.mul_(1.0 / (255.0 * self.normaliser.image_std))
        image = image.sub_(self.normaliser.image_mean / self.normaliser.image_std)
        if self.config.image_size:
            image = functional.interpolate(image, self.config.image_size, mode='area')
        return self.encoder.parts(image, (proprio - self._proprio_mean) / self._proprio_std)

    def encode_blind(self, proprio: Tensor | NDArray[np.floating]) -> Tensor:
        """Latents (B, D) of ``proprio`` (B, P) without an image; needs image dropout."""
        proprio = torch.as_tensor(proprio, dtype=torch.float32)
        return self.encoder.blind((proprio - self._proprio_mean) / self._proprio_std)

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Latents (B, D) one model step after ``z``.

        Args:
            z: (B, D) now. z_prev: (B, past*D), one model step (K control steps) ago, and so on.
            action_block: (B, K*A) in [-1, 1], the next K actions in order.
        """
        return self.predictor(z, z_prev, action_block)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """Open-loop latents (B, H, D) under action blocks (B, H, K*A)."""
        modulations = self.predictor.modulations(actions)
        steps = [[m[:, step] for m in modulations] for step in range(actions.shape[1])]
        return torch.stack(self._roll(z, z_prev, steps), dim=1)

    def prediction_errors(self, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors in a batch of windows: open loop, and teacher-forced one step.

        Args:
            z: (B, L, D) latents of the windows' frames.
            actions: (B, L-1, K*A) blocks between them.
        """
        first, last = self.past, z.shape[1] - 1
        target = z[:, first + 1 :].transpose(0, 1)  # a step after the other
        given = before(z, first, last, self.past)
        # the same for both errors
        modulations = self.predictor.modulations(actions[:, first:].transpose(0, 1))
        steps = [list(step) for step in zip(*(m.unbind() for m in modulations), strict=True)]
        open_loop = torch.stack(self._roll(z[:, first], given[:, 0], steps))
        # the first open-loop step is teacher-forced already
        later = self.predictor.step(
            z[:, first + 1 : last].transpose(0, 1).flatten(0, 1),
            given[:, 1:].transpose(0, 1).flatten(0, 1),
            [m[1:].flatten(0, 1) for m in modulations],
        )
        one_step = torch.cat([open_loop[:1], later.view_as(target[1:])])
        return (open_loop - target).square().mean(), (one_step - target).square().mean()

    def _roll(self, z: Tensor, z_prev: Tensor, steps: list[list[Tensor]]) -> list[Tensor]:
        """Latents (B, D) after each of the ``steps``, whose modulations are given."""
        latents = []
        for modulations in steps:
            z, z_prev = self.predictor.step(z, z_prev, modulations), shift(z, z_prev)
            latents.append(z)
        return latents

    def inverse_error(self, z: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error of the ``actions`` told from successive latents (B, L, D)."""
        return (self.inverse(z[:, :-1], z[:, 1:]) - actions).square().mean()


def before(z: Tensor, first: int, last: int, past: int) -> Tensor:
    """``z_prev`` (B, last-first, past*D) of the frames first..last-1 of latents (B, L, D)."""
    steps = [z[:, first - ago : last - ago] for ago in range(1, past + 1)]
    return steps[0] if past == 1 else torch.cat(steps, dim=-1)


def shift(z: Tensor, z_prev: Tensor) -> Tensor:
    """``z_prev`` (B, past*D) a step later, when ``z`` (B, D) is the newest of the past."""
    kept = z_prev.shape[-1] - z.shape[-1]
    return torch.cat([z, z_prev[:, :kept]], dim=-1) if kept else z


def checked(
    contract: Contract,
    pixels: Tensor | NDArray[np.uint8],
    proprio: Tensor | NDArray[np.floating],
    proprio_width: int,
) -> tuple[Tensor, Tensor]:
    """Images (B, h, w, 3) uint8 as the contract says, and proprioception (B, P) float32.

    Raises:
        ValueError: another shape or type than the contract's.
    """
    pixels, proprio = torch.as_tensor(pixels), torch.as_tensor(proprio, dtype=torch.float32)
    expected = contract.camera.shape, (proprio_width,)
    if pixels.shape[1:] != expected[0] or pixels.dtype != torch.uint8:
        raise ValueError(
            f'images: expected (B, {", ".join(map(str, expected[0]))}) uint8 RGB, '
            f'got {tuple(pixels.shape)} {pixels.dtype}; resize or convert before encoding'
        )
    if proprio.shape != (len(pixels), *expected[1]):
        raise ValueError(
            f'proprioception: expected {(len(pixels), *expected[1])}: joints in the order '
            f'{contract.joints}, tip, lead; got {tuple(proprio.shape)}'
        )
    return pixels, proprio


class Encodes(Protocol):
    """What ``encode_all`` needs of a world model."""

    latent: int

    def encode(
        self, pixels: Tensor | NDArray[np.uint8], proprio: Tensor | NDArray[np.floating]
    ) -> Tensor:
        """See ``WorldModel.encode``."""
        ...


@torch.inference_mode()
def encode_all(
    model: Encodes,
    pixels: NDArray[np.uint8],
    proprio: NDArray[np.float32],
    batch: int = 512,
) -> NDArray[np.float32]:
    """Latents (N, D) of all frames, in batches of ``mixed_precision``, by a model in eval mode.

    ``pixels`` (N, h, w, 3) and ``proprio`` (N, P) may be memory maps.
    """
    latents = np.empty((len(pixels), model.latent), dtype=np.float32)
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        with mixed_precision():
            z = model.encode(np.array(pixels[rows]), np.array(proprio[rows]))
        latents[rows] = z.numpy()
    return latents
