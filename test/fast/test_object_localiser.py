"""Object localiser: few labelled images suffice to locate the object in all others."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jepa_arm.config import CameraConfig
from jepa_arm.robot.camera import project
from jepa_arm.training.object_localiser import cell_centres, table_points, train_localiser

CAMERA = CameraConfig(32, 24, 40.0, (1.3, 0.0, 0.8), (0.5, 0.0, 0.0), 'camera')


def images_of_discs(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return noisy images of a coloured disc on a grey table, and its centres (m)."""
    rng = np.random.default_rng(seed)
    low, high = [0.4, -0.15, 0.02], [0.6, 0.15, 0.02]
    positions = rng.uniform(low, high, (count, 3)).astype(np.float32)
    y, x = np.mgrid[: CAMERA.height, : CAMERA.width] + 0.5
    centre = project(CAMERA, positions)[:, :, None, None]
    cover = np.clip(3.0 - np.hypot(x - centre[:, 0], y - centre[:, 1]), 0.0, 1.0)[..., None]
    colours = rng.permuted(np.tile([200.0, 60.0, 30.0], (count, 1)), axis=1)[:, None, None]
    images = 120.0 + cover * (colours - 120.0)
    images += rng.normal(0.0, 4.0, images.shape)
    return images.clip(0.0, 255.0).astype(np.uint8), positions


def test_table_points_project_back_to_their_pixels() -> None:
    pixels = cell_centres(CAMERA)
    np.testing.assert_allclose(project(CAMERA, table_points(CAMERA, pixels)), pixels, atol=1e-9)
    assert len(pixels) == (CAMERA.width // 2) * (CAMERA.height // 2)


def test_pixels_that_do_not_show_the_table_have_no_point() -> None:
    up = CameraConfig(32, 24, 40.0, (1.3, 0.0, 0.8), (0.5, 0.0, 1.5), 'camera')
    assert not table_points(up, cell_centres(up)).any()


@pytest.mark.usefixtures('one_thread')
def test_a_hundred_labels_locate_objects_within_a_fifth_of_a_pixel() -> None:
    images, positions = images_of_discs(100, seed=0)
    localiser = train_localiser(images, positions, CAMERA, seed=0, steps=200)
    others, truth = images_of_discs(500, seed=1)
    error = np.linalg.norm(localiser.locate(others) - truth, axis=1)
    assert np.median(error) < 0.006 and np.quantile(error, 0.9) < 0.012  # a pixel is 0.03 m


@pytest.mark.usefixtures('one_thread')
def test_the_same_seed_gives_the_same_localiser_and_leaves_other_random_numbers_alone() -> None:
    images, positions = images_of_discs(20, seed=0)
    torch.manual_seed(5)
    first = train_localiser(images, positions, CAMERA, seed=3, steps=5)
    drawn = torch.rand(())
    torch.manual_seed(5)
    assert drawn == torch.rand(())
    again = train_localiser(images, positions, CAMERA, seed=3, steps=5)
    np.testing.assert_array_equal(first.locate(images), again.locate(images))
