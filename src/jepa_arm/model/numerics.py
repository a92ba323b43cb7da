"""Numerics: a clamp that propagates NaN, and mixed precision on processors that have bfloat16."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

BFLOAT16_CPU_FLAGS = {'avx512_bf16', 'amx_bf16', 'bf16'}
"""Flags in /proc/cpuinfo of processors that multiply in bfloat16 (x86, x86, ARM)."""


def clamp_keep_nan(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Return ``x`` (...) clamped to [low, high], and NaN where ``x`` is not finite.

    Minimum and maximum in compiled networks replace NaN by a bound, which would hide a broken
    network.
    """
    low, high = torch.as_tensor(low, dtype=x.dtype), torch.as_tensor(high, dtype=x.dtype)
    return torch.minimum(torch.maximum(x, low), high) + 0.0 * x


def mixed_precision() -> torch.autocast:
    """Return an autocast context: bfloat16 if the processor supports it, else float32.

    Emulated bfloat16 is slower than float32.
    """
    return torch.autocast('cpu', torch.bfloat16, enabled=has_bfloat16())


@cache
def has_bfloat16(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Return whether the processor described by Linux's ``cpuinfo`` multiplies in bfloat16."""
    flags: set[str] = set()
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(':')
            if name.strip() in ('flags', 'Features'):
                flags |= set(value.split())
    return not BFLOAT16_CPU_FLAGS.isdisjoint(flags)
