"""Colour augmentation: random hues, so that colour cannot be predicted from the previous frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

REFERENCE_HUE = (0.67, 0.07, -0.74)
"""Unit vector in RGB, perpendicular to the grey axis: the hue of the virtual table."""


def jitter_hues(
    pixels: NDArray[np.uint8], rng: np.random.Generator, gain: float = 0.1
) -> NDArray[np.uint8]:
    """Return images (B, h, w, 3), each with its hues rotated and its brightness scaled at random.

    Angle and gain differ from frame to frame. SIGReg fills the latent with whatever is
    predictable; an object's colour, constant within an episode, would take up much of it.

    Args:
        pixels: (B, h, w, 3) RGB.
        rng: source of the angles, uniform in [0, 2 pi), and of the gains.
        gain: largest relative change of brightness.
    """
    matrices = hue_rotation(rng.uniform(0.0, 2.0 * np.pi, len(pixels)))
    matrices *= rng.uniform(1.0 - gain, 1.0 + gain, len(pixels))[:, None, None]
    jittered = np.empty_like(pixels)
    for image, matrix, out in zip(pixels, matrices.astype(np.float32), jittered, strict=True):
        cv2.transform(image, matrix, dst=out)
    return jittered


def hue_rotation(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotations (B, 3, 3) of RGB about the grey axis by ``angle`` (B,) rad (Rodrigues)."""
    a = 3.0**-0.5
    cross = np.array([[0.0, -a, a], [a, 0.0, -a], [-a, a, 0.0]])
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1.0 - cos) * (cross @ cross)


def unify_hues(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (..., h, w, 3) with every hue set to ``REFERENCE_HUE``.

    Brightness and chroma are kept. ``jitter_hues`` without gain does not change the result, except
    where its rotation saturates a channel.
    """
    red, green, blue = np.moveaxis(pixels, -1, 0).astype(np.float32)
    grey = (red + green + blue) / 3.0
    squared = red * red + green * green + blue * blue - 3.0 * grey * grey
    chroma = np.sqrt(np.maximum(squared, 0.0))
    unified = np.empty_like(pixels)
    for channel, share in enumerate(REFERENCE_HUE):
        unified[..., channel] = np.rint((grey + share * chroma).clip(0.0, 255.0))
    return unified
