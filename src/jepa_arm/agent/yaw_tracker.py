"""Yaw tracker: the object's yaw, read off images and filtered over time."""

from __future__ import annotations

import numpy as np

from jepa_arm.config import CameraConfig
from jepa_arm.core.geometry import QUARTER, yaw_error
from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.model.heads.yaw_probe import YawProbe
from jepa_arm.robot.camera import project

TURN_STD = 15.0
"""rad per m, standard deviation of the object's rotation per metre that a push moves it."""
DRIFT_STD = 0.01
"""rad, standard deviation of the yaw drift of a resting object between two images."""


class YawEstimate:
    """Scalar Kalman filter of yaw readings; its process noise grows with the object's motion.

    Attributes:
        yaw: rad, in [-pi/4, pi/4]; None before the first reading.
        std: rad, expected rms error.
    """

    def __init__(self) -> None:
        self.yaw: float | None = None
        self.std = QUARTER / 2.0
        self._position: FloatArray | None = None

    def update(self, yaw: float, std: float, position: FloatArray) -> None:
        """Add a reading.

        Args:
            yaw, std: rad, the reading and its standard deviation.
            position: (3,) m, position of the object in the same image.
        """
        if self.yaw is None or self._position is None:
            self.yaw, self.std = yaw, std
        else:
            moved = float(np.linalg.norm(position - self._position))
            before = self.std**2 + (TURN_STD * moved) ** 2 + DRIFT_STD**2
            weight = before / (before + std**2)
            turned = self.yaw + weight * float(yaw_error(self.yaw, yaw))
            self.yaw = float(yaw_error(0.0, turned))
            self.std = ((1.0 - weight) * before) ** 0.5
        self._position = position


class YawTracker:
    """Reads the object's yaw from images and filters the readings in ``estimate``."""

    def __init__(self, probe: YawProbe, camera: CameraConfig) -> None:
        self._probe, self._camera = probe, camera
        self.estimate = YawEstimate()

    def reset(self) -> None:
        """Forget the yaw."""
        self.estimate = YawEstimate()

    def read(self, image: ImageArray, position: FloatArray) -> tuple[float, float]:
        """Return the object's yaw (rad) and its expected rms error (rad), read from one image.

        Args:
            image: (h, w, 3) uint8 RGB. position: (3,) m, position of the object.
        """
        pixels = project(self._camera, position[None])
        yaw, std = self._probe.read(image[None], pixels)
        return float(yaw[0]), float(std[0])

    def update(self, image: ImageArray, position: FloatArray) -> None:
        """Update the estimate with the reading of an image, see ``read``."""
        self.estimate.update(*self.read(image, position), position)
