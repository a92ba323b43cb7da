"""Bounds that what is not a number goes through, wherever they are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def bounded(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """``x`` (...) cut to [low, high]; NaN where it is not finite.

    Minima and maxima of compiled networks give a bound for NaN: what is broken would look sound.
    """
    low, high = torch.as_tensor(low, dtype=x.dtype), torch.as_tensor(high, dtype=x.dtype)
    return torch.minimum(torch.maximum(x, low), high) + 0.0 * x
