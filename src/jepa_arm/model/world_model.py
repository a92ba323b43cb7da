"""World model: encode observations, predict one model step, roll out many.

As in LeWorldModel (arXiv:2603.19312), encoder and action-conditioned predictor are trained
together on the prediction error in latent space and SIGReg, without decoder, stop-gradient or
moving average of weights. Deviations: small convolutions instead of a ViT, proprioception fused
with the image, a residual MLP over (z, z - z_prev) instead of a transformer over a history, and
open-loop steps in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from jepa_arm.config import Contract, ModelConfig

from .networks import Encoder, InverseDynamics, Predictor

Images = Tensor | NDArray[np.uint8]
Rows = Tensor | NDArray[np.floating]


@dataclass(frozen=True)
class Normaliser:
    """Means and standard deviations of the training split.

    Attributes:
        image_mean, image_std: over all pixels and colour channels, scaled to [0, 1].
        proprio_mean, proprio_std: (P,) rad and m.
    """

    image_mean: float
    image_std: float
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]


class ProprioceptionScaler(nn.Module):
    """Standardisation of proprioception by the statistics of the training split.

    Its buffers are not saved with the weights: ``config.json`` holds them.

    Attributes:
        mean, std: (P,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__()
        mean, std = map(torch.tensor, (normaliser.proprio_mean, normaliser.proprio_std))
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)

    def forward(self, proprio: Tensor) -> Tensor:
        """Return standardised proprioception (B, P)."""
        return (proprio - self.mean) / self.std


class WorldModel(nn.Module):
    """Encoder and predictor for one contract (arm, camera, action space, timing).

    Attributes:
        contract: the contract that the model was trained for.
        config: sizes of the networks.
        latent_dim: D.
        past: number of latents in ``z_prev``, most recent first.
        block_width: K*A, number of values in an action block (K = frame skip).
    """

    def __init__(self, config: ModelConfig, contract: Contract, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.contract = contract
        self.normaliser = normaliser
        self.latent_dim, self.past = config.latent_dim, config.past
        self.block_width = contract.block_width
        height, width = config.image_size or contract.camera.image_size
        self.encoder = Encoder(config, (height, width), contract.proprio_width)
        self.predictor = Predictor(config, self.block_width)
        self.inverse_dynamics = (
            InverseDynamics(config, self.block_width) if config.inverse_dynamics_width else None
        )
        self.proprio_scaler = ProprioceptionScaler(normaliser)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, pixels: Images, proprio: Rows) -> Tensor:
        """Return latents (B, D) float32.

        Args:
            pixels: (B, h, w, 3) uint8 RGB.
            proprio: (B, P), see ``robot.action_space.proprioception``.

        Raises:
            ValueError: the shape or type of an input does not match the contract.
        """
        return self.encode_with_features(pixels, proprio)[0]

    def encode_with_features(self, pixels: Images, proprio: Rows) -> tuple[Tensor, Tensor]:
        """Return latents as ``encode`` does, and features (B, image_features) of images alone."""
        pixels, proprio = validate_inputs(self.contract, pixels, proprio)
        dtype = torch.bfloat16 if torch.is_autocast_enabled('cpu') else torch.float32
        image = pixels.permute(0, 3, 1, 2).to(dtype)  # channels-last in memory
        image = image.mul_(1.0 / (255.0 * self.normaliser.image_std))
        image = image.sub_(self.normaliser.image_mean / self.normaliser.image_std)
        if self.config.image_size:
            image = functional.interpolate(image, self.config.image_size, mode='area')
        return self.encoder(image, self.proprio_scaler(proprio))

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """Return the latents (B, D) one model step (K control steps) after ``z``.

        Args:
            z: (B, D), current latents.
            z_prev: (B, past*D), latents one model step before ``z``, two before, and so on.
            action_block: (B, K*A).
        """
        return self.predictor(z, z_prev, action_block)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """Return open-loop latents (B, H, D) under action blocks (B, H, K*A)."""
        modulations = self.predictor.modulations(actions)
        steps = [[m[:, step] for m in modulations] for step in range(actions.shape[1])]
        return torch.stack(self._rollout_steps(z, z_prev, steps), dim=1)

    def prediction_errors(self, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared errors of open-loop and of teacher-forced prediction.

        Args:
            z: (B, L, D), latents of the frames of a batch of windows.
            actions: (B, L-1, K*A), action blocks between the frames.
        """
        first, last = self.past, z.shape[1] - 1
        target = z[:, first + 1 :].transpose(0, 1)  # time first
        previous = stack_history(z, first, last, self.past)
        # both errors share the modulations
        modulations = self.predictor.modulations(actions[:, first:].transpose(0, 1))
        steps = [list(step) for step in zip(*(m.unbind() for m in modulations), strict=True)]
        open_loop = torch.stack(self._rollout_steps(z[:, first], previous[:, 0], steps))
        # the first open-loop step is teacher-forced already
        later = self.predictor.step(
            z[:, first + 1 : last].transpose(0, 1).flatten(0, 1),
            previous[:, 1:].transpose(0, 1).flatten(0, 1),
            [m[1:].flatten(0, 1) for m in modulations],
        )
        one_step = torch.cat([open_loop[:1], later.view_as(target[1:])])
        return (open_loop - target).square().mean(), (one_step - target).square().mean()

    def _rollout_steps(self, z: Tensor, z_prev: Tensor, steps: list[list[Tensor]]) -> list[Tensor]:
        """Return the latents (B, D) after each step, given each step's modulations."""
        latents = []
        for modulations in steps:
            z, z_prev = self.predictor.step(z, z_prev, modulations), shift_history(z, z_prev)
            latents.append(z)
        return latents


def stack_history(z: Tensor, first: int, last: int, past: int) -> Tensor:
    """Return ``z_prev`` (B, last-first, past*D) of frames first..last-1 of latents (B, L, D)."""
    steps = [z[:, first - ago : last - ago] for ago in range(1, past + 1)]
    return steps[0] if past == 1 else torch.cat(steps, dim=-1)


def shift_history(z: Tensor, z_prev: Tensor) -> Tensor:
    """Return ``z_prev`` (B, past*D) one model step later, with ``z`` (B, D) as its newest."""
    kept = z_prev.shape[-1] - z.shape[-1]
    return torch.cat([z, z_prev[:, :kept]], dim=-1) if kept else z


def validate_inputs(contract: Contract, pixels: Images, proprio: Rows) -> tuple[Tensor, Tensor]:
    """Return images (B, h, w, 3) uint8 and proprioception (B, P) float32 as tensors.

    Raises:
        ValueError: the shape or type of an input does not match the contract.
    """
    pixels, proprio = torch.as_tensor(pixels), torch.as_tensor(proprio, dtype=torch.float32)
    shape = contract.camera.image_shape
    if pixels.shape[1:] != shape or pixels.dtype != torch.uint8:
        raise ValueError(
            f'images: expected (B, {", ".join(map(str, shape))}) uint8 RGB, '
            f'got {tuple(pixels.shape)} {pixels.dtype}; resize or convert before encoding'
        )
    expected = (len(pixels), contract.proprio_width)
    if proprio.shape != expected:
        raise ValueError(
            f'proprioception: expected {expected}: joints in the order {contract.joints}, tip '
            f'position, tip target minus tip position; got {tuple(proprio.shape)}'
        )
    return pixels, proprio
