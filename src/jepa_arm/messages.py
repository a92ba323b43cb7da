"""Messages into our values: live ones, and recorded ones, which need no ROS 2 to be read.

A message is anything with the fields of its type. What cannot be converted raises
``ConversionError`` with what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .types import ImageArray, JointSample, Proposal

Message = Any
"""Live messages and those decoded from a file have no type in common."""
NANOSECONDS = 1_000_000_000
ENCODINGS = ('rgb8', 'bgr8')
LONGEST_TEXT = 500
"""Characters of an error; it goes into logs and status messages."""


UNIT_SLACK, MOST_TILT = 0.01, 0.05
"""By which the length of a quaternion may be off, and (half of it, rad) the z axis tilted."""


class ConversionError(ValueError):
    """A message that cannot be used; what came is quoted, but not however long it is."""

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= LONGEST_TEXT else f'{text[:LONGEST_TEXT]} ...')


def to_seconds(stamp: Message) -> float:
    """s of a time or duration message."""
    return stamp.sec + stamp.nanosec / NANOSECONDS


def image_from_msg(msg: Message, size: tuple[int, int] | None = None) -> ImageArray:
    """(h, w, 3) uint8 RGB, a copy, of an ``rgb8`` or ``bgr8`` image.

    Args:
        msg: rows may be padded (``step``).
        size: (width, height) it must have.
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
    import cv2  # late: the guard's process needs no images

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def joints_from_msg(msg: Message, names: Sequence[str]) -> JointSample:
    """The joints ``names`` out of a state with any order; other joints are ignored.

    Velocities that are not reported are zeros. Values may be NaN: the guard judges them.
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
    has_velocity = len(msg.velocity) == len(msg.name)
    velocity = np.array(msg.velocity, dtype=float)[columns] if has_velocity else None
    return JointSample(
        position=position,
        velocity=np.zeros_like(position) if velocity is None else velocity,
        stamp=to_seconds(msg.header.stamp),
    )


def yaw_from_msg(turn: Message) -> float:
    """rad about the z axis, of an upright orientation (``geometry_msgs/Quaternion``).

    Raises:
        ConversionError: it is no unit quaternion, or tilts the z axis.
    """
    norm, tilt = math.hypot(turn.x, turn.y, turn.z, turn.w), math.hypot(turn.x, turn.y)
    if not (abs(norm - 1.0) < UNIT_SLACK and tilt < MOST_TILT):
        raise ConversionError(
            'orientation: expected a unit quaternion that turns about z alone (x = y = 0), got '
            f'({turn.x}, {turn.y}, {turn.z}, {turn.w})'
        )
    return 2.0 * math.atan2(turn.z, turn.w)


def proposal_from_msg(msg: Message, valid_for: float) -> Proposal:
    """The proposal in a trajectory of positions; velocities and accelerations are not read.

    Args:
        msg: header.stamp is that of the observation.
        valid_for: s, since the message has no field for it.
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
