"""Object localiser: learns from few labels to locate the object in images, for pseudo-labels.

A latent may encode the object's position in many ways, so that a probe needs ten thousand labels.
In images an object looks alike wherever it lies, so that a convolutional network with a spatial
softmax (integral regression, arXiv:1711.08229) needs only hundreds. It then labels all other
images for the training of the probe.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_arm.config import CameraConfig
from jepa_arm.core.types import FloatArray
from jepa_arm.datasets.augmentation import jitter_hues
from jepa_arm.model.numerics import mixed_precision
from jepa_arm.robot.camera import intrinsics, optical_pose, project

from .fit import adamw_one_cycle, fit

STRIDE = 2
"""Pixels between neighbouring cells of the heat map."""
HEIGHT = 0.02
"""m above the table: approximate height of objects' centres."""
MAX_DISTANCE = 2.0
"""m from the base; pixels that show the table farther away are ignored."""
OFFSET_SCALE = 0.05
"""m, unit of the offset that the network adds to the table point that a pixel shows."""
HEAT_MAP_STD = 2.0
"""Pixels, standard deviation of the target heat map."""
LEARNING_RATE, WEIGHT_DECAY, BATCH = 4e-3, 1e-2, 32
MIN_SQUARED_M = 1e-6
"""m^2, added to squared distances so that the root has a finite gradient."""


class ObjectLocaliser(nn.Module):
    """Convolutional network from an image to the object's position, by a spatial softmax.

    The position is a mean over the N cells of a heat map, weighted by the map. Each cell
    contributes the table point that it shows plus a predicted offset.

    Attributes:
        points: (N, 3) m, base frame, table points that the cells show.
    """

    points: Tensor

    def __init__(self, camera: CameraConfig, width: int = 16) -> None:
        """Create the network for images of ``camera``, with ``width`` channels."""
        super().__init__()

        def layer(inputs: int, size: int, stride: int, dilation: int) -> nn.Sequential:
            padding = dilation * (size // 2)
            convolution = nn.Conv2d(inputs, width, size, stride, padding, dilation, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))

        self.net = nn.Sequential(
            layer(3, 5, STRIDE, 1),
            *(layer(width, 3, 1, dilation) for dilation in (1, 2, 4, 8, 1)),
            nn.Conv2d(width, 4, 1),
        )
        self._height = camera.height
        points = torch.tensor(table_points(camera, cell_centres(camera)), dtype=torch.float32)
        self.register_buffer('points', points)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions (B, 3) m and log heat maps (B, N) for images (B, 3, h, w)."""
        logits, *offsets = self.net(images).float().flatten(2).unbind(1)
        log_map = torch.log_softmax(logits, dim=-1)
        points = self.points + OFFSET_SCALE * torch.stack(offsets, dim=-1)
        return (log_map.exp()[..., None] * points).sum(1), log_map

    @torch.inference_mode()
    def locate(self, pixels: NDArray[np.uint8], batch: int = 256) -> NDArray[np.float32]:
        """Return positions (N, 3) m of objects in images (N, h, w, 3), which may be a memory map.

        The image of a wrist camera below the main image is not used.
        """
        positions = np.empty((len(pixels), 3), dtype=np.float32)
        for start in range(0, len(pixels), batch):
            images = _to_tensor(np.array(pixels[start : start + batch, : self._height]))
            with mixed_precision():
                positions[start : start + batch] = self(images)[0].numpy()
        return positions


def train_localiser(
    pixels: NDArray[np.uint8],
    positions: NDArray[np.float32],
    camera: CameraConfig,
    seed: int,
    steps: int,
) -> ObjectLocaliser:
    """Return a localiser trained on images (N, h, w, 3) of objects at ``positions`` (N, 3) m.

    The loss is the mean distance plus a cross-entropy with a target heat map; the weight of the
    latter falls during training. Hue, brightness and contrast of each image are augmented.

    Raises:
        TrainingError: a loss is not finite.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        localiser = ObjectLocaliser(camera)
    localiser.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor(positions, dtype=torch.float32)
    centres = torch.tensor(project(camera, positions.astype(np.float64)), dtype=torch.float32)
    cells = torch.tensor(cell_centres(camera), dtype=torch.float32)

    def loss(step: int) -> Tensor:
        rows = rng.integers(0, len(pixels), BATCH)
        jittered = jitter_hues(pixels[rows][:, : camera.height], rng)
        images = _augment(_to_tensor(jittered), generator)
        with mixed_precision():
            located, log_map = localiser(images)
        squared = (centres[rows, None] - cells).square().sum(-1) / (2.0 * HEAT_MAP_STD**2)
        target = torch.softmax(-squared, dim=-1)
        cross_entropy = -(target * log_map).sum(-1).mean() * max(0.05, 1.0 - step / steps)
        distance = ((located - truth[rows]).square().sum(-1) + MIN_SQUARED_M).sqrt().mean()
        return 0.02 * cross_entropy + 10.0 * distance

    optimizer = adamw_one_cycle(localiser, steps, LEARNING_RATE, WEIGHT_DECAY, float('inf'))
    fit(localiser, loss, optimizer, 'object localiser')
    return localiser


def cell_centres(camera: CameraConfig) -> FloatArray:
    """Return the pixels (N, 2), x and y, at the centres of the heat map's cells, row by row."""
    y, x = np.mgrid[0 : camera.height : STRIDE, 0 : camera.width : STRIDE]
    return np.column_stack([x.ravel(), y.ravel()]).astype(np.float64) + STRIDE / 2.0


def table_points(camera: CameraConfig, pixels: FloatArray) -> FloatArray:
    """Return the points (N, 3) m, base frame, at ``HEIGHT`` that ``pixels`` (N, 2) show.

    Pixels whose ray does not meet that plane within ``MAX_DISTANCE`` get the origin.
    """
    matrix, pose = intrinsics(camera), optical_pose(camera)
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(matrix).T
    rays = rays @ pose[:3, :3].T
    down = np.minimum(rays[:, 2], -1e-6)
    points = pose[:3, 3] + ((HEIGHT - pose[2, 3]) / down)[:, None] * rays
    is_near = (rays[:, 2] < -1e-6) & (np.linalg.norm(points, axis=1) < MAX_DISTANCE)
    points[~is_near] = 0.0
    return points


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return images (B, h, w, 3) as (B, 3, h, w) in [-0.5, 0.5], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0 - 0.5


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, 3, h, w) with random contrast and brightness, and with noise."""
    shape = len(images), 1, 1, 1
    contrast = 1.0 + 0.2 * torch.randn(shape, generator=generator)
    brightness = 0.1 * torch.randn(shape, generator=generator)
    return images * contrast + brightness + 0.02 * torch.randn(images.shape, generator=generator)
