"""Pinhole geometry of a configured camera, with the sensor facts a driver would report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config import CameraConfig, WristCameraConfig
from ..types import FloatArray


def intrinsics(camera: CameraConfig) -> FloatArray:
    """(3, 3) pinhole matrix in pixels; square pixels, principal point in the middle."""
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
    """(4, 4) pose of the optical frame (x right, y down, z forward).

    Args:
        camera: in the base frame, a wrist camera in the tip frame.
        up: (3,) in the same frame, what is up in the image.
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
    """(4,) xyzw orientation of the optical frame, see ``optical_pose``."""
    from transforms3d.quaternions import mat2quat  # late: the guard does without 9 MB of it

    w, x, y, z = mat2quat(optical_pose(camera, up)[:3, :3])
    return np.array([x, y, z, w])


def project(camera: CameraConfig, points: FloatArray) -> FloatArray:
    """Pixels (N, 2) of ``points`` (N, 3) m in the base frame."""
    pose = optical_pose(camera)
    local = (np.asarray(points) - pose[:3, 3]) @ pose[:3, :3]
    pixels = local @ intrinsics(camera).T
    return pixels[:, :2] / pixels[:, 2:3]
