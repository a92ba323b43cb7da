"""Camera geometry: intrinsics, pose and projection of a pinhole camera."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa_arm.config import CameraConfig, WristCameraConfig
from jepa_arm.core.types import FloatArray


def intrinsics(camera: CameraConfig) -> FloatArray:
    """Return the camera matrix (3, 3) in pixels: square pixels, principal point in the centre."""
    focal = camera.height / (2.0 * np.tan(np.radians(camera.fov_deg) / 2.0))
    return np.array(
        [
            [focal, 0.0, camera.width / 2.0],
            [0.0, focal, camera.height / 2.0],
            [0.0, 0.0, 1.0],
        ]
    )


def optical_pose(
    camera: CameraConfig | WristCameraConfig, up: Sequence[float] = (0.0, 0.0, 1.0)
) -> FloatArray:
    """Return the pose (4, 4) of the optical frame (x right, y down, z forward).

    Args:
        camera: a ``CameraConfig`` is in the base frame, a ``WristCameraConfig`` in the tip frame.
        up: (3,) direction in the same frame that points up in the image.
    """
    position = np.array(camera.position)
    forward = np.array(camera.look_at) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def optical_quaternion(
    camera: CameraConfig | WristCameraConfig, up: Sequence[float] = (0.0, 0.0, 1.0)
) -> FloatArray:
    """Return the orientation (4,) xyzw of the optical frame, see ``optical_pose``."""
    from transforms3d.quaternions import mat2quat  # lazy: the guard never needs these 9 MB

    w, x, y, z = mat2quat(optical_pose(camera, up)[:3, :3])
    return np.array([x, y, z, w])


def project(camera: CameraConfig, points: FloatArray) -> FloatArray:
    """Project ``points`` (N, 3) m, given in the base frame, to pixels (N, 2)."""
    pose = optical_pose(camera)
    local = (np.asarray(points) - pose[:3, 3]) @ pose[:3, :3]
    pixels = local @ intrinsics(camera).T
    return pixels[:, :2] / pixels[:, 2:3]
