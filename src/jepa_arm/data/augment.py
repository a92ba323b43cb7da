"""Colour augmentation: what may change from one frame to the next without meaning anything."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

ONE_HUE = (0.67, 0.07, -0.74)
"""A unit vector at right angles to grey: the hue of the virtual table."""


def shift_colours(
    pixels: NDArray[np.uint8], rng: np.random.Generator, gain: float = 0.1
) -> NDArray[np.uint8]:
    """Images (B, h, w, 3), each with its hues turned by a random angle and a random gain.

    Meant for every frame apart, so that colour cannot be predicted from the frame before.
    SIGReg fills the latent with whatever is predictable, and an object's colour, constant
    through an episode and another in the next, would take much of the room.
    """
    turn = hue_rotation(rng.uniform(0.0, 2.0 * np.pi, len(pixels)))
    turn *= rng.uniform(1.0 - gain, 1.0 + gain, len(pixels))[:, None, None]
    shifted = np.empty_like(pixels)
    for image, matrix, out in zip(pixels, turn.astype(np.float32), shifted, strict=True):
        cv2.transform(image, matrix, dst=out)
    return shifted


def hue_rotation(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3) rotations of RGB about the grey axis by ``angle`` (B,) rad (Rodrigues)."""
    a = 3.0**-0.5
    cross = np.array([[0.0, -a, a], [a, 0.0, -a], [-a, a, 0.0]])
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1.0 - cos) * (cross @ cross)


def one_hue(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (..., h, w, 3) with all hues turned to that of wood; brightness and chroma stay.

    What is left of an image where hues are turned at random: the same for every turn, but for
    what a turn drives beyond black or white.
    """
    red, green, blue = np.moveaxis(pixels, -1, 0).astype(np.float32)
    grey = (red + green + blue) / 3.0
    squared = red * red + green * green + blue * blue - 3.0 * grey * grey
    chroma = np.sqrt(np.maximum(squared, 0.0))
    turned = np.empty_like(pixels)
    for channel, share in enumerate(ONE_HUE):
        turned[..., channel] = np.rint((grey + share * chroma).clip(0.0, 255.0))
    return turned
