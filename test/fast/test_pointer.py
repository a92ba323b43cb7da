"""A few labelled images teach a pointer where an object is in all others."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jepa_arm.config import CameraConfig
from jepa_arm.sim.camera import project
from jepa_arm.training.pointer import map_pixels, shown_places, teach_pointer

CAMERA = CameraConfig(32, 24, 40.0, (1.3, 0.0, 0.8), (0.5, 0.0, 0.0), 'camera')


def pictures(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Noisy images of a coloured disc on a grey table, and where its middle is (m)."""
    rng = np.random.default_rng(seed)
    low, high = [0.4, -0.15, 0.02], [0.6, 0.15, 0.02]
    places = rng.uniform(low, high, (count, 3)).astype(np.float32)
    y, x = np.mgrid[: CAMERA.height, : CAMERA.width] + 0.5
    middle = project(CAMERA, places)[:, :, None, None]
    cover = np.clip(3.0 - np.hypot(x - middle[:, 0], y - middle[:, 1]), 0.0, 1.0)[..., None]
    colours = rng.permuted(np.tile([200.0, 60.0, 30.0], (count, 1)), axis=1)[:, None, None]
    images = 120.0 + cover * (colours - 120.0)
    images += rng.normal(0.0, 4.0, images.shape)
    return images.clip(0.0, 255.0).astype(np.uint8), places


def test_places_are_where_the_camera_sees_them() -> None:
    pixels = map_pixels(CAMERA)
    places = shown_places(CAMERA, pixels)
    np.testing.assert_allclose(project(CAMERA, places), pixels, atol=1e-9)
    assert len(pixels) == (CAMERA.width // 2) * (CAMERA.height // 2)
    up = CameraConfig(32, 24, 40.0, (1.3, 0.0, 0.8), (0.5, 0.0, 1.5), 'camera')
    assert not shown_places(up, map_pixels(up)).any()  # the table is nowhere in sight


@pytest.mark.usefixtures('one_thread')
def test_some_labels_teach_where_objects_are_in_other_images() -> None:
    images, places = pictures(100, seed=0)
    pointer = teach_pointer(images, places, CAMERA, seed=0, steps=200)
    others, truth = pictures(500, seed=1)
    error = np.linalg.norm(pointer.point(others) - truth, axis=1)
    assert np.median(error) < 0.006 and np.quantile(error, 0.9) < 0.012  # a pixel is 0.03 m


@pytest.mark.usefixtures('one_thread')
def test_the_same_seed_points_alike_and_disturbs_no_other_random_numbers() -> None:
    images, places = pictures(20, seed=0)
    torch.manual_seed(5)
    first = teach_pointer(images, places, CAMERA, seed=3, steps=5)
    drawn = torch.rand(())
    torch.manual_seed(5)
    assert drawn == torch.rand(())
    again = teach_pointer(images, places, CAMERA, seed=3, steps=5)
    np.testing.assert_array_equal(first.point(images), again.point(images))
