"""Whether the camera shows what is there: not black, not covered, not the same image for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .config import CameraConfig
from .sim.camera import intrinsics, project
from .types import FloatArray, ImageArray, JointSample

DARK, BRIGHT = 8, 247
"""Of 255; a pixel is black or overexposed when all its channels are beyond."""
MIN_CONTRAST = 1.0
"""Of 255, standard deviation of the brightness; an empty table has 3."""
INTRINSICS_TOLERANCE = 0.02
"""Share by which a focal length may differ from the contract's, and the principal point in
shares of the image size."""


class CameraInfo(Protocol):
    """What is read of a ``CameraInfo`` message, live or recorded."""

    width: int
    height: int
    k: Sequence[float]


def image_fault(image: ImageArray, max_clipped: float) -> str:
    """Why nothing can be seen in ``image`` (h, w, 3) uint8 RGB; empty if all is well.

    Args:
        image: as it came.
        max_clipped: share of black pixels, or of overexposed ones, that a good image may have.
    """
    shares = {
        'black': float((image.max(axis=2) <= DARK).mean()),
        'overexposed': float((image.min(axis=2) >= BRIGHT).mean()),
    }
    for name, share in shares.items():
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


JUMP_SPEED = 2.0
"""Of a joint's speed limit; what is faster is no motion."""


class Motion:
    """How far the joints have truly moved: jumps that no arm can make are taken out.

    An encoder that slips moves no pixel, and neither does one that comes back.
    """

    def __init__(self, velocity_limit: FloatArray) -> None:
        """Knows no joints yet.

        Args:
            velocity_limit: (J,) rad/s, of the joints.
        """
        self._limit = JUMP_SPEED * velocity_limit
        self._last: JointSample | None = None
        self._jumped = np.zeros(len(velocity_limit))

    def see(self, sample: JointSample) -> JointSample:
        """``sample``, the newest, with all jumps so far taken out."""
        if self._last is not None:
            step = sample.position - self._last.position
            can_be = np.abs(step) <= self._limit * max(0.0, sample.stamp - self._last.stamp)
            self._jumped = self._jumped + np.where(can_be, 0.0, step)
        self._last = sample
        return JointSample(sample.position - self._jumped, sample.velocity, sample.stamp)


FORGIVEN_S = 2.0
"""Of rest, after which an unchanged image is what a camera shows, whatever was before."""
RESTS_PIXELS = 0.5
"""By which a tip at rest may seem to move."""


class Stillness:
    """Finds a camera that repeats one image, whatever its stamps say, while the arm moves.

    An arm that moves out of sight changes no pixel: nothing can be told then. One that rests
    changes none either: after ``FORGIVEN_S`` the image is believed again, until the arm moves.
    Otherwise one wrong joint state beside an image would blind a planner whose arm rests for ever.
    """

    def __init__(
        self, camera: CameraConfig, tip_of: Callable[[FloatArray], FloatArray], max_motion: float
    ) -> None:
        """See ``fault``.

        Args:
            camera: that shows the arm.
            tip_of: (3,) m, the arm's tip in its base frame at joints (J,) rad.
            max_motion: pixels that the tip may move in sight without any changing.
        """
        self._camera, self._tip_of, self._max_motion = camera, tip_of, max_motion
        self._image: ImageArray | None = None

    def fault(self, image: ImageArray, joints: FloatArray, moved: FloatArray, stamp: float) -> str:
        """Why ``image`` (h, w, 3) is not of now; empty if it may be.

        Args:
            image: the newest.
            joints: (J,) rad, when it was taken as its stamp says.
            moved: (J,) rad, the same with jumps taken out: only its changes count.
            stamp: s, of the image.
        """
        if self._image is None or not np.array_equal(image, self._image):
            self._begin(image, joints, moved, stamp)
            return ''
        before, now = (self._pixel(q) for q in (self._joints, self._joints + moved - self._moved))
        if np.linalg.norm(now - self._resting) > RESTS_PIXELS or stamp < self._rests_since:
            self._resting, self._rests_since = now, stamp
        way = float(np.linalg.norm(now - before))
        is_seen = self._is_in_view(before) or self._is_in_view(now)
        if not is_seen or way <= self._max_motion:
            return ''
        if stamp - self._rests_since >= FORGIVEN_S:
            self._begin(image, joints, moved, stamp)
            return ''
        return (
            f'the image has not changed while the tip moved by {way:.1f} pixels, expected <= '
            f'{self._max_motion}; does the camera repeat itself?'
        )

    def _begin(
        self, image: ImageArray, joints: FloatArray, moved: FloatArray, stamp: float
    ) -> None:
        """From here on motion counts."""
        self._image, self._joints, self._moved = image, joints, moved
        self._resting, self._rests_since = self._pixel(joints), stamp

    def _pixel(self, joints: FloatArray) -> FloatArray:
        """(2,) pixels, where the tip is at ``joints``."""
        return project(self._camera, self._tip_of(joints)[None])[0]

    def _is_in_view(self, pixel: FloatArray) -> bool:
        size = (self._camera.width, self._camera.height)
        return bool(np.all((pixel >= 0.0) & (pixel < size)))


def camera_difference(msg: CameraInfo, camera: CameraConfig) -> str:
    """How the camera differs from ``camera`` in size or intrinsics; empty if it does not.

    Intrinsics of an uncalibrated camera (zeros) are not compared.
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
