"""Angles of objects that look the same after a quarter turn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .types import FloatArray

QUARTER = math.pi / 2.0
"""rad, a quarter turn, after which a cube of one colour looks the same."""


def yaw_error(yaw: ArrayLike, goal: ArrayLike) -> FloatArray:
    """(...) rad from ``yaw`` to ``goal``, up to quarter turns: in [-pi/4, pi/4]."""
    difference = np.asarray(goal) - np.asarray(yaw)
    return np.asarray((difference + QUARTER / 2.0) % QUARTER - QUARTER / 2.0)
