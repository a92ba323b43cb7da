"""Conversions from ROS messages, live or recorded, that work without ROS 2.

A message is any object with the fields of its type. Invalid messages raise ``ConversionError``
with what was expected and what was received.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import JepaArmError
from .types import ImageArray, JointSample, Proposal

Message = Any
"""Live and recorded messages have no common type."""
NANOSECONDS = 1_000_000_000
ENCODINGS = ('rgb8', 'bgr8')
MAX_ERROR_LENGTH = 500
"""Characters; error texts go into logs and status messages."""
MAX_NORM_ERROR, MAX_TILT = 0.01, 0.05
"""Tolerances of an upright unit quaternion: of its norm, and of half its tilt in rad."""


class ConversionError(JepaArmError, ValueError):
    """An invalid message; long error texts are shortened."""

    def __init__(self, text: str) -> None:
        short = text if len(text) <= MAX_ERROR_LENGTH else f'{text[:MAX_ERROR_LENGTH]} ...'
        super().__init__(short)


def to_seconds(stamp: Message) -> float:
    """Return a time or duration message in s."""
    return stamp.sec + stamp.nanosec / NANOSECONDS


def image_from_msg(msg: Message, size: tuple[int, int] | None = None) -> ImageArray:
    """Return a copy (h, w, 3) uint8 RGB of an ``rgb8`` or ``bgr8`` image.

    Args:
        msg: image, whose rows may be padded (``step``).
        size: (width, height) that the image must have; None: any.

    Raises:
        ConversionError: other encoding or size, or inconsistent fields.
    """
    if msg.encoding not in ENCODINGS:
        raise ConversionError(f'image: expected encoding rgb8 or bgr8, got {msg.encoding!r}')
    if size is not None and (msg.width, msg.height) != size:
        raise ConversionError(
            f'image: expected {size[0]}x{size[1]} pixels, got {msg.width}x{msg.height}'
        )
    row = 3 * msg.width
    if row == 0 or msg.height == 0:
        raise ConversionError('image: expected pixels, got none')
    if msg.step < row or len(msg.data) != msg.step * msg.height:
        raise ConversionError(
            f'image: expected step >= {row} and step * height bytes, got step {msg.step}, '
            f'height {msg.height} and {len(msg.data)} bytes'
        )
    rows = np.frombuffer(msg.data, dtype=np.uint8).reshape(msg.height, msg.step)[:, :row]
    pixels = rows.reshape(msg.height, msg.width, 3)
    if msg.encoding == 'rgb8':
        return pixels.copy()
    import cv2  # imported here, because the guard needs no images

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def joints_from_msg(msg: Message, names: Sequence[str]) -> JointSample:
    """Return the joints ``names``, in this order, from a joint state; others are ignored.

    Missing velocities are zero. Values may be NaN, so callers must check.

    Raises:
        ConversionError: a joint or position is missing.
    """
    index = {name: i for i, name in enumerate(msg.name)}
    missing = [name for name in names if name not in index]
    if missing:
        raise ConversionError(
            f'joint state: expected joints {list(names)}, missing {missing}, got '
            f'{list(msg.name)[:20]}'
        )
    if len(msg.position) != len(msg.name):
        raise ConversionError(
            f'joint state: expected {len(msg.name)} positions, got {len(msg.position)}'
        )
    columns = [index[name] for name in names]
    position = np.array(msg.position, dtype=float)[columns]
    velocity = np.zeros_like(position)
    if len(msg.velocity) == len(msg.name):
        velocity = np.array(msg.velocity, dtype=float)[columns]
    return JointSample(position, velocity, to_seconds(msg.header.stamp))


def yaw_from_msg(orientation: Message) -> float:
    """Return the yaw in rad of an upright orientation (``geometry_msgs/Quaternion``).

    Raises:
        ConversionError: the quaternion is not normalised, or does not keep the z axis upright.
    """
    x, y, z, w = orientation.x, orientation.y, orientation.z, orientation.w
    norm, tilt = math.hypot(x, y, z, w), math.hypot(x, y)
    if not (abs(norm - 1.0) < MAX_NORM_ERROR and tilt < MAX_TILT):
        raise ConversionError(
            'orientation: expected a unit quaternion of a rotation about z (x = y = 0), got '
            f'({x}, {y}, {z}, {w})'
        )
    return 2.0 * math.atan2(z, w)


def proposal_from_msg(msg: Message, valid_for: float) -> Proposal:
    """Return a trajectory message as a proposal; velocities and accelerations are ignored.

    Args:
        msg: trajectory whose ``header.stamp`` is that of the observation.
        valid_for: s after the stamp for which it may be followed; the message has no such field.

    Raises:
        ConversionError: a point has too few or too many positions.
    """
    width = len(msg.joint_names)
    for i, point in enumerate(msg.points):
        if len(point.positions) != width:
            raise ConversionError(
                f'trajectory: expected {width} positions at point {i}, got {len(point.positions)}'
            )
    return Proposal(
        joint_names=tuple(msg.joint_names),
        positions=np.array([p.positions for p in msg.points], dtype=float).reshape(
            len(msg.points), width
        ),
        times=np.array([to_seconds(p.time_from_start) for p in msg.points], dtype=float),
        stamp=to_seconds(msg.header.stamp),
        valid_for=valid_for,
    )
