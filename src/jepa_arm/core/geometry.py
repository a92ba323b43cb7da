"""Yaw angles of objects that look the same after a quarter turn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .types import FloatArray

QUARTER = math.pi / 2.0
"""Quarter turn in rad; after one, a cube of one colour looks the same."""


def yaw_error(yaw: ArrayLike, goal: ArrayLike) -> FloatArray:
    """Return the angle (...) rad from ``yaw`` to ``goal``, reduced to +-pi/4 by quarter turns."""
    difference = np.asarray(goal) - np.asarray(yaw)
    return np.asarray((difference + QUARTER / 2.0) % QUARTER - QUARTER / 2.0)
