"""Noise on action sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured_noise(
    count: int, steps: int, width: int, exponent: float, generator: torch.Generator
) -> Tensor:
    """(count, steps, width) Gaussian noise with power ~ 1/f^exponent along time, unit variance.

    After Timmer and Koenig (1995), as used by iCEM; ``exponent`` 0 is white noise.
    """
    frequency = torch.fft.rfftfreq(steps)
    frequency[0] = 1.0 / steps
    scale = frequency ** (-exponent / 2.0)
    shape = (count, width, len(scale))
    spectrum = torch.complex(
        torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    )
    noise = torch.fft.irfft(spectrum * scale, n=steps)
    weight = torch.full_like(scale, 4.0)
    weight[0] = 1.0
    if steps % 2 == 0:
        weight[-1] = 1.0
    std = torch.sqrt((weight * scale**2).sum()) / steps
    return (noise / std).transpose(1, 2)
