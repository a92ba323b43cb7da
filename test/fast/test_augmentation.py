"""Colour augmentation: hues rotate, grey and the input stay."""

import numpy as np
import pytest

from jepa_arm.datasets.augmentation import hue_rotation, jitter_hues


def test_a_third_of_a_rotation_swaps_the_primary_colours() -> None:
    rotated = hue_rotation(np.array([2.0 * np.pi / 3.0]))[0] @ np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(rotated, [0.0, 1.0, 0.0], atol=1e-12)


def test_grey_changes_by_the_gain_only() -> None:
    grey = np.full((4, 8, 8, 3), 100, dtype=np.uint8)
    jittered = jitter_hues(grey, np.random.default_rng(0), gain=0.1)
    assert np.ptp(jittered, axis=-1).max() <= 1
    assert 89 <= jittered.min() and jittered.max() <= 111


def test_frames_get_independent_hues_and_the_input_is_unchanged() -> None:
    red = np.zeros((6, 4, 4, 3), dtype=np.uint8)
    red[..., 0] = 200
    before = red.copy()
    jittered = jitter_hues(red, np.random.default_rng(1))
    np.testing.assert_array_equal(red, before)
    assert len(np.unique(jittered[:, 0, 0], axis=0)) == 6
    assert jittered.std(axis=(1, 2)).max() == pytest.approx(0.0)
