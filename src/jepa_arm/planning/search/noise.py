"""Coloured noise on action sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured_noise(
    shape: tuple[int, int, int], exponent: float, generator: torch.Generator
) -> Tensor:
    """Return Gaussian noise of unit variance whose power along time is ~ 1/f^exponent.

    After Timmer and Koenig (1995), as used by iCEM (arXiv:2008.06389).

    Args:
        shape: (S, T, A). exponent: 0 is white noise.
        generator: source of the random numbers.
    """
    count, steps, width = shape
    frequency = torch.fft.rfftfreq(steps)
    frequency[0] = 1.0 / steps
    scale = frequency ** (-exponent / 2.0)
    size = (count, width, len(scale))
    spectrum = torch.complex(
        torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    )
    noise = torch.fft.irfft(spectrum * scale, n=steps)
    weight = torch.full_like(scale, 4.0)
    weight[0] = 1.0
    if steps % 2 == 0:
        weight[-1] = 1.0
    std = torch.sqrt((weight * scale**2).sum()) / steps
    return (noise / std).transpose(1, 2)
