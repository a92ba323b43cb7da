"""In what is trained: bfloat16 only where a processor multiplies in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jepa_arm.model import precision


@pytest.mark.parametrize(
    ('cpuinfo', 'expected'),
    [
        ('processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n', True),
        ('flags\t\t: fpu avx2 amx_bf16 amx_tile\n', True),
        ('Features\t: fp asimd bf16\n', True),
        ('flags\t\t: fpu avx2 f16c\n', False),  # AMD Zen 3, Intel before Cooper Lake
        ('model name\t: avx512_bf16\n', False),
        ('', False),
    ],
)
def test_bfloat16_where_the_processor_has_it(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    file = tmp_path / 'cpuinfo'
    file.write_text(cpuinfo)
    assert precision.has_bfloat16(file) is expected


def test_no_bfloat16_where_nothing_is_told(tmp_path: Path) -> None:
    assert precision.has_bfloat16(tmp_path / 'missing') is False


def test_matrices_are_multiplied_in_what_the_processor_has() -> None:
    x = torch.ones(2, 2)
    with precision.mixed_precision():
        dtype = (x @ x).dtype
    assert dtype is (torch.bfloat16 if precision.has_bfloat16() else torch.float32)
