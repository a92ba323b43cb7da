"""Where an object is, learned from few labelled images: it labels those that nobody labelled.

A probe reads 64 numbers in which an object may be written in many ways, and needs ten thousand
labels to learn them all. In an image an object looks alike wherever it lies: a convolutional
network that gives a map of where it is, and the mean over it (integral regression,
arXiv:1711.08229), needs some hundreds.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..config import CameraConfig
from ..data.augment import shift_colours
from ..model.precision import mixed_precision
from ..sim.camera import intrinsics, optical_pose, project
from ..types import FloatArray

STRIDE = 2
"""Pixels between two places of the map."""
HEIGHT = 0.02
"""m above the table: about where objects' middles are."""
FARTHEST = 2.0
"""m from the base; what a pixel shows beyond is no place."""
OFFSET = 0.05
"""m, unit of what the network adds to the place that a pixel shows."""
BLUR = 2.0
"""Pixels, standard deviation of the map that is taught at first."""
RATE, BATCH = 4e-3, 32
LEAST_SQUARED = 1e-6
"""m^2, added to squared distances before their root."""


class Pointer(nn.Module):
    """The mean of the places that pixels show, weighted by a map, and of an offset to each.

    Attributes:
        places: (N, 3) m in the base frame, of the map's N pixels.
    """

    places: Tensor

    def __init__(self, camera: CameraConfig, width: int = 16) -> None:
        super().__init__()

        def layer(inputs: int, size: int, stride: int, spread: int) -> nn.Sequential:
            pad = spread * (size // 2)
            convolution = nn.Conv2d(inputs, width, size, stride, pad, spread, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))

        self.net = nn.Sequential(
            layer(3, 5, STRIDE, 1),
            *(layer(width, 3, 1, spread) for spread in (1, 2, 4, 8, 1)),
            nn.Conv2d(width, 4, 1),
        )
        self._height = camera.height
        places = torch.tensor(shown_places(camera, map_pixels(camera)), dtype=torch.float32)
        self.register_buffer('places', places)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Places (B, 3) m and the logarithm (B, N) of the map, of images (B, 3, h, w)."""
        logits, *offsets = self.net(images).float().flatten(2).unbind(1)
        log_map = torch.log_softmax(logits, dim=-1)
        shown = self.places + OFFSET * torch.stack(offsets, dim=-1)
        return (log_map.exp()[..., None] * shown).sum(1), log_map

    @torch.inference_mode()
    def point(self, pixels: NDArray[np.uint8], batch: int = 256) -> NDArray[np.float32]:
        """Places (N, 3) m of objects in images (N, h, w, 3), which may be a memory map.

        Of what a wrist camera sees below nothing is used.
        """
        found = np.empty((len(pixels), 3), dtype=np.float32)
        for start in range(0, len(pixels), batch):
            images = _prepared(np.array(pixels[start : start + batch, : self._height]))
            with mixed_precision():
                found[start : start + batch] = self(images)[0].numpy()
        return found


def teach_pointer(
    pixels: NDArray[np.uint8],
    places: NDArray[np.float32],
    camera: CameraConfig,
    seed: int,
    steps: int,
) -> Pointer:
    """A pointer taught by images (N, h, w, 3) in which an object is at ``places`` (N, 3) m.

    By the mean distance, with hues, brightness and contrast of each image changed at random. At
    first the map is told where to be, too.

    Raises:
        RuntimeError: a loss that is not finite.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pointer = Pointer(camera)
    pointer.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor(places, dtype=torch.float32)
    shown = torch.tensor(project(camera, places.astype(np.float64)), dtype=torch.float32)
    grid = torch.tensor(map_pixels(camera), dtype=torch.float32)
    optimizer = torch.optim.AdamW(pointer.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    for step in tqdm(range(steps), desc='pointer', disable=None, mininterval=2.0):
        rows = rng.integers(0, len(pixels), BATCH)
        images = _changed(
            _prepared(shift_colours(pixels[rows][:, : camera.height], rng)), generator
        )
        with mixed_precision():
            found, log_map = pointer(images)
        away = (shown[rows, None] - grid).square().sum(-1) / (2.0 * BLUR**2)
        wanted = torch.softmax(-away, dim=-1)
        told = -(wanted * log_map).sum(-1).mean() * max(0.05, 1.0 - step / steps)
        distance = ((found - truth[rows]).square().sum(-1) + LEAST_SQUARED).sqrt().mean()
        loss = 0.02 * told + 10.0 * distance
        if not torch.isfinite(loss):
            raise RuntimeError(f'pointer: the loss is not finite at step {step}')
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return pointer.eval().requires_grad_(False)


def map_pixels(camera: CameraConfig) -> FloatArray:
    """(N, 2) the pixels (x, y) in the middle of each place of a map, row by row."""
    y, x = np.mgrid[0 : camera.height : STRIDE, 0 : camera.width : STRIDE]
    return np.column_stack([x.ravel(), y.ravel()]).astype(np.float64) + STRIDE / 2.0


def shown_places(camera: CameraConfig, pixels: FloatArray) -> FloatArray:
    """(N, 3) m, base frame: where the rays of ``pixels`` (N, 2) meet the plane at ``HEIGHT``.

    The origin for those that do not, or only farther than ``FARTHEST``.
    """
    matrix, pose = intrinsics(camera), optical_pose(camera)
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(matrix).T
    rays = rays @ pose[:3, :3].T
    down = np.minimum(rays[:, 2], -1e-6)
    places = pose[:3, 3] + ((HEIGHT - pose[2, 3]) / down)[:, None] * rays
    is_near = (rays[:, 2] < -1e-6) & (np.linalg.norm(places, axis=1) < FARTHEST)
    places[~is_near] = 0.0
    return places


def _prepared(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, 3, h, w) in [-0.5, 0.5], channels last, of images (B, h, w, 3)."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0 - 0.5


def _changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, h, w) of other contrast and brightness, and with noise."""
    each = len(images), 1, 1, 1
    contrast = 1.0 + 0.2 * torch.randn(each, generator=generator)
    brightness = 0.1 * torch.randn(each, generator=generator)
    return images * contrast + brightness + 0.02 * torch.randn(images.shape, generator=generator)
