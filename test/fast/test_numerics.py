"""Numerics: NaN survives a clamp; bfloat16 is used only on processors that support it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jepa_arm.model.numerics import clamp_keep_nan, has_bfloat16, mixed_precision


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
def test_bfloat16_support_is_read_from_the_flags_of_the_processor(
    tmp_path: Path, cpuinfo: str, expected: bool
) -> None:
    file = tmp_path / 'cpuinfo'
    file.write_text(cpuinfo)
    assert has_bfloat16(file) is expected


def test_without_cpuinfo_there_is_no_bfloat16(tmp_path: Path) -> None:
    assert has_bfloat16(tmp_path / 'missing') is False


def test_a_clamp_keeps_values_that_are_not_finite_as_nan() -> None:
    x = torch.tensor([-2.0, 0.5, 2.0, float('nan'), float('inf')])
    clamped = clamp_keep_nan(x, -1.0, 1.0)
    assert clamped[:3].tolist() == [-1.0, 0.5, 1.0] and clamped[3:].isnan().all()


def test_mixed_precision_multiplies_in_the_fastest_type_of_the_processor() -> None:
    x = torch.ones(2, 2)
    with mixed_precision():
        dtype = (x @ x).dtype
    assert dtype is (torch.bfloat16 if has_bfloat16() else torch.float32)
