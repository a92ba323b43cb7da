"""Camera checks: images that are black, overexposed, without contrast, or frozen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jepa_arm.config import CameraConfig
from jepa_arm.core.messages import Message
from jepa_arm.core.types import FloatArray, ImageArray, JointSample

from .camera import intrinsics, project

DARK, BRIGHT = 8, 247
"""Of 255; a pixel is black if all channels are <= ``DARK``, overexposed if >= ``BRIGHT``."""
MIN_CONTRAST = 1.0
"""Smallest standard deviation of a usable image's brightness, of 255; an empty table has 3."""
INTRINSICS_TOLERANCE = 0.02
"""Tolerance of the focal lengths (relative) and the principal point (share of the image size)."""
JUMP_FACTOR = 2.0
"""Multiple of a joint's velocity limit beyond which a change of its position is a jump."""
FORGIVEN_S = 2.0
"""Time (s) at rest after which an unchanged image is trusted again."""
REST_PIXELS = 0.5
"""Motion of the tip in the image, in pixels, up to which the tip counts as at rest."""


def image_fault(image: ImageArray, max_clipped: float) -> str:
    """Return why an image is unusable; empty if it is usable.

    Args:
        image: (h, w, 3) uint8 RGB, as received.
        max_clipped: largest allowed share of black pixels, and likewise of overexposed pixels.
    """
    is_black, is_overexposed = image.max(axis=2) <= DARK, image.min(axis=2) >= BRIGHT
    for name, is_clipped in (('black', is_black), ('overexposed', is_overexposed)):
        share = float(is_clipped.mean())
        if share > max_clipped:
            return (
                f'the image is {name} in {share:.0%} of its pixels, expected <= '
                f'{max_clipped:.0%}; is the camera covered, is its exposure right?'
            )
    contrast = float(image.mean(axis=2).std())
    if contrast < MIN_CONTRAST:
        return (
            f'the image is without contrast ({contrast:.1f} of 255, expected >= {MIN_CONTRAST}); '
            'is the camera covered?'
        )
    return ''


class JumpFilter:
    """Filter that removes physically impossible jumps from measured joint positions.

    They come from an encoder that slips or recovers; the arm itself has not moved, so neither has
    its image.
    """

    def __init__(self, velocity_limit: FloatArray) -> None:
        """Start without a sample; ``velocity_limit`` is (J,) rad/s."""
        self._limit = JUMP_FACTOR * velocity_limit
        self._last: JointSample | None = None
        self._jumped = np.zeros(len(velocity_limit))

    def filter(self, sample: JointSample) -> JointSample:
        """Return ``sample`` minus the sum of all jumps since the start.

        A joint jumps when it moves between two samples faster than ``JUMP_FACTOR`` times its
        velocity limit.
        """
        if self._last is not None:
            step = sample.position - self._last.position
            is_possible = np.abs(step) <= self._limit * max(0.0, sample.stamp - self._last.stamp)
            self._jumped = self._jumped + np.where(is_possible, 0.0, step)
        self._last = sample
        return JointSample(sample.position - self._jumped, sample.velocity, sample.stamp)


class FrozenImageDetector:
    """Detector of a camera that repeats one image with new stamps while the arm moves.

    An arm that is out of view or at rest changes no pixel, so its unchanged image is no fault.
    After ``FORGIVEN_S`` at rest an image is trusted again until the arm moves; otherwise a single
    wrong joint state would deprive the planner of a resting arm of images forever.
    """

    def __init__(
        self, camera: CameraConfig, tip_of: Callable[[FloatArray], FloatArray], max_motion: float
    ) -> None:
        """Start without an image.

        Args:
            camera: camera that sees the arm.
            tip_of: returns the tip position (3,) m in the base frame at joints (J,) rad.
            max_motion: pixels that the tip may move in view while the image is unchanged.
        """
        self._camera, self._tip_of, self._max_motion = camera, tip_of, max_motion
        self._image: ImageArray | None = None
        self._joints = self._moved = self._resting_pixel = np.empty(0)
        self._rests_since = -np.inf

    def fault(self, image: ImageArray, joints: FloatArray, moved: FloatArray, stamp: float) -> str:
        """Return why an image is considered frozen; empty if it may be current.

        Args:
            image: (h, w, 3), the newest image.
            joints: (J,) rad, measured at ``stamp``.
            moved: (J,) rad, ``joints`` after the ``JumpFilter``; only its changes count.
            stamp: s, time of the image.
        """
        if self._image is None or not np.array_equal(image, self._image):
            self._begin(image, joints, moved, stamp)
            return ''
        before, now = (self._pixel(q) for q in (self._joints, self._joints + moved - self._moved))
        if np.linalg.norm(now - self._resting_pixel) > REST_PIXELS or stamp < self._rests_since:
            self._resting_pixel, self._rests_since = now, stamp
        distance = float(np.linalg.norm(now - before))
        is_visible = self._is_in_view(before) or self._is_in_view(now)
        if not is_visible or distance <= self._max_motion:
            return ''
        if stamp - self._rests_since >= FORGIVEN_S:
            self._begin(image, joints, moved, stamp)
            return ''
        return (
            f'the image has not changed while the tip moved by {distance:.1f} pixels, expected <= '
            f'{self._max_motion}; does the camera repeat itself?'
        )

    def _begin(
        self, image: ImageArray, joints: FloatArray, moved: FloatArray, stamp: float
    ) -> None:
        """Restart the measurement of motion from this image and these joints."""
        self._image, self._joints, self._moved = image, joints, moved
        self._resting_pixel, self._rests_since = self._pixel(joints), stamp

    def _pixel(self, joints: FloatArray) -> FloatArray:
        """Return the tip's pixel (2,) at ``joints``."""
        return project(self._camera, self._tip_of(joints)[None])[0]

    def _is_in_view(self, pixel: FloatArray) -> bool:
        size = (self._camera.width, self._camera.height)
        return bool(np.all((pixel >= 0.0) & (pixel < size)))


def camera_difference(msg: Message, camera: CameraConfig) -> str:
    """Return how a ``CameraInfo`` message differs from ``camera``; empty if it does not.

    Compares the size and the intrinsics, unless these are zero (uncalibrated camera).
    """
    if (msg.width, msg.height) != (camera.width, camera.height):
        return (
            f'camera_info: expected {camera.width}x{camera.height} pixels, got '
            f'{msg.width}x{msg.height}'
        )
    expected, got = intrinsics(camera), np.array(msg.k).reshape(3, 3)
    if got[0, 0] <= 0.0:
        return ''
    focal = abs(got[[0, 1], [0, 1]] / expected[[0, 1], [0, 1]] - 1.0).max()
    centre = abs((got[:2, 2] - expected[:2, 2]) / [camera.width, camera.height]).max()
    if max(focal, centre) <= INTRINSICS_TOLERANCE:
        return ''
    fov = np.degrees(2.0 * np.arctan(camera.height / 2.0 / got[1, 1]))
    return (
        f'camera_info: expected the camera of the model, vertical field of view '
        f'{camera.fov_deg:.1f} degrees and principal point {expected[:2, 2].tolist()}, got '
        f'{fov:.1f} and {np.round(got[:2, 2], 1).tolist()}'
    )
