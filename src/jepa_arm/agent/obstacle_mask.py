"""Obstacle mask: removes declared obstacles from images, since the model was trained without any.

The pixels that an obstacle can cover follow from its shape, its pose and the camera. Those that
have its colour are painted in the colour of the table; arm and object in front of it stay visible.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from jepa_arm.config import CameraConfig, ObstacleConfig
from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.robot.camera import intrinsics, optical_pose
from jepa_arm.robot.routes import upright_box

COLOUR_TOLERANCE = 24
"""Levels of 255 by which each channel of a pixel may differ from the colour of a face."""
MAX_SAMPLES = 200
"""Pixels of a face from which its colour is estimated."""
MIN_PIXELS = 4
"""Pixels of the smallest face whose colour is estimated."""


class ObstacleMask:
    """Paints declared obstacles in the colour of the table.

    Only the static camera's image is painted; a wrist camera's image below it stays unchanged.
    """

    def __init__(self, camera: CameraConfig, obstacles: Sequence[ObstacleConfig]) -> None:
        """Find the pixels of ``obstacles`` (base frame) in the image of ``camera``."""
        rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
        pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
        pose = optical_pose(camera)
        origin, rays = pose[:3, 3], pixels @ np.linalg.inv(intrinsics(camera)).T @ pose[:3, :3].T
        self._regions: list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]] = []
        self._table_pixels = np.ones((camera.height, camera.width), dtype=bool)
        for obstacle in obstacles:
            face = _faces(origin, rays, obstacle)
            faces = [face == i for i in np.unique(face[face >= 0])]
            faces = [pixels for pixels in faces if pixels.sum() >= MIN_PIXELS]
            region = cv2.dilate((face >= 0).astype(np.uint8), np.ones((3, 3))).astype(bool)
            self._table_pixels &= ~region
            self._regions.append((region, faces))

    def apply(self, image: ImageArray) -> ImageArray:
        """Return a copy of ``image`` (h, w, 3) uint8 RGB without the obstacles."""
        masked = image.copy()
        image = masked[: len(self._table_pixels)]
        if not self._table_pixels.any():
            return masked
        table = np.median(image[self._table_pixels], axis=0).astype(np.uint8)
        before = image.astype(np.int16)
        for region, faces in self._regions:
            has_colour = np.zeros(region.shape, dtype=bool)
            for pixels in faces:
                colour = _dominant_colour(before[pixels])
                has_colour |= np.abs(before - colour).max(axis=-1) <= COLOUR_TOLERANCE
            image[region & has_colour] = table
        return masked


def _dominant_colour(colours: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the colour (3,) of ``colours`` (N, 3) that the largest number of them resemble."""
    sample = colours[:: 1 + len(colours) // MAX_SAMPLES]
    difference = np.abs(sample[:, None] - sample[None]).max(axis=-1)
    return sample[int((difference <= COLOUR_TOLERANCE // 2).sum(axis=1).argmax())]


def _faces(origin: FloatArray, rays: FloatArray, obstacle: ObstacleConfig) -> NDArray[np.int_]:
    """Return the index (h, w) of the box face that each of ``rays`` hits first, -1 for none."""
    centre, half, yaw = upright_box(obstacle)
    cos, sin = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    start, direction = rotation @ (origin - centre), rays @ rotation.T
    direction = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
    near, far = (-half - start) / direction, (half - start) / direction
    enter, leave = np.minimum(near, far), np.maximum(near, far).min(axis=-1)
    axis = enter.argmax(axis=-1)
    side = np.take_along_axis(direction, axis[..., None], -1)[..., 0] > 0.0
    is_hit = (enter.max(axis=-1) < leave) & (leave > 0.0)
    return np.where(is_hit, 2 * axis + side, -1)
