"""The figures of the report are what they claim to be."""

import pytest

from jepa_arm.evaluation_report import wilson


@pytest.mark.parametrize(
    ('wins', 'count', 'low', 'high'),
    [(58, 60, 0.886, 0.991), (60, 60, 0.940, 1.0), (0, 20, 0.0, 0.161)],
)
def test_wilson_interval_equals_published_values(
    wins: int, count: int, low: float, high: float
) -> None:
    assert wilson(wins, count) == pytest.approx((low, high), abs=1e-3)
