"""Colour shifts turn hues and nothing else."""

import numpy as np
import pytest

from jepa_arm.data.augment import hue_rotation, shift_colours


def test_a_third_of_a_turn_swaps_the_primary_colours() -> None:
    turned = hue_rotation(np.array([2.0 * np.pi / 3.0]))[0] @ np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(turned, [0.0, 1.0, 0.0], atol=1e-12)


def test_grey_keeps_its_place_but_for_the_gain() -> None:
    grey = np.full((4, 8, 8, 3), 100, dtype=np.uint8)
    shifted = shift_colours(grey, np.random.default_rng(0), gain=0.1)
    assert np.ptp(shifted, axis=-1).max() <= 1
    assert 89 <= shifted.min() and shifted.max() <= 111


def test_frames_are_shifted_apart_and_the_input_is_kept() -> None:
    red = np.zeros((6, 4, 4, 3), dtype=np.uint8)
    red[..., 0] = 200
    before = red.copy()
    shifted = shift_colours(red, np.random.default_rng(1))
    np.testing.assert_array_equal(red, before)
    assert len(np.unique(shifted[:, 0, 0], axis=0)) == 6
    assert shifted.std(axis=(1, 2)).max() == pytest.approx(0.0)
