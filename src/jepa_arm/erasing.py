"""Images without the declared obstacles: a model that never saw any reads badly beside one.

Shape, place and camera are known, so it is known which pixels an obstacle may fill. Those of them
that have its colour are painted as the table; what stands before it, arm or object, stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .config import CameraConfig, ObstacleConfig
from .routes import upright
from .sim.camera import intrinsics, optical_pose
from .types import FloatArray, ImageArray

LIKE = 24
"""Of 255, by how much each channel of a pixel may differ from the colour of a face."""
SAMPLES = 200
"""Pixels of a face that its colour is looked for among."""
LEAST = 4
"""Pixels that a face must fill to be looked at."""


class Eraser:
    """Paints declared obstacles over, as if the table were seen through them.

    In the image of the camera that stands still; that of the wrist is left as it is.
    """

    def __init__(self, camera: CameraConfig, obstacles: Sequence[ObstacleConfig]) -> None:
        """Of ``obstacles`` (base frame) as ``camera`` sees them."""
        rays = _rays(camera)
        origin = optical_pose(camera)[:3, 3]
        self._regions: list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]] = []
        self._ground = np.ones((camera.height, camera.width), dtype=bool)
        for obstacle in obstacles:
            face = _faces(origin, rays, obstacle)
            faces = [face == i for i in np.unique(face[face >= 0])]
            faces = [pixels for pixels in faces if pixels.sum() >= LEAST]
            region = _grown(face >= 0)
            self._ground &= ~region
            self._regions.append((region, faces))

    def erase(self, image: ImageArray) -> ImageArray:
        """``image`` (h, w, 3) uint8 RGB without the obstacles, a copy."""
        whole = image.copy()
        image = whole[: len(self._ground)]
        if not self._ground.any():
            return whole
        table = np.median(image[self._ground], axis=0).astype(np.uint8)
        before = image.astype(np.int16)
        for region, faces in self._regions:
            is_like = np.zeros(region.shape, dtype=bool)
            for pixels in faces:
                colour = _commonest(before[pixels])
                is_like |= np.abs(before - colour).max(axis=-1) <= LIKE
            image[region & is_like] = table
        return whole


def _commonest(colours: NDArray[np.int16]) -> NDArray[np.int16]:
    """(3,) the one of ``colours`` (N, 3) that most of them are like."""
    few = colours[:: 1 + len(colours) // SAMPLES]
    apart = np.abs(few[:, None] - few[None]).max(axis=-1)
    return few[int((apart <= LIKE // 2).sum(axis=1).argmax())]


def _rays(camera: CameraConfig) -> FloatArray:
    """(h, w, 3) directions in the base frame, through the middle of each pixel."""
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    return pixels @ np.linalg.inv(intrinsics(camera)).T @ optical_pose(camera)[:3, :3].T


def _faces(origin: FloatArray, rays: FloatArray, obstacle: ObstacleConfig) -> NDArray[np.int_]:
    """(h, w) which face of the obstacle's upright box each ray meets first, -1 for none."""
    centre, half, yaw = upright(obstacle)
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    start, way = turn @ (origin - centre), rays @ turn.T
    way = np.where(np.abs(way) < 1e-12, 1e-12, way)
    near, far = (-half - start) / way, (half - start) / way
    enter, leave = np.minimum(near, far), np.maximum(near, far).min(axis=-1)
    axis = enter.argmax(axis=-1)
    side = np.take_along_axis(way, axis[..., None], -1)[..., 0] > 0.0
    is_met = (enter.max(axis=-1) < leave) & (leave > 0.0)
    return np.where(is_met, 2 * axis + side, -1)


def _grown(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``pixels`` (h, w) and their eight neighbours."""
    height, width = pixels.shape
    wide = np.pad(pixels, 1)
    near = [wide[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.any(near, axis=0)
