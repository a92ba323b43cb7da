"""In what networks are trained, and frames encoded, on this processor."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

UNITS = {'avx512_bf16', 'amx_bf16', 'bf16'}
"""Flags of processors that multiply in bfloat16: x86, x86, ARM."""


def mixed_precision() -> torch.autocast:
    """bfloat16 where the processor multiplies in it, else float32: emulated it is slower."""
    return torch.autocast('cpu', torch.bfloat16, enabled=has_bfloat16())


@cache
def has_bfloat16(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Whether the processor of Linux's ``cpuinfo`` multiplies in bfloat16."""
    flags: set[str] = set()
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(':')
            if name.strip() in ('flags', 'Features'):
                flags |= set(value.split())
    return not UNITS.isdisjoint(flags)
