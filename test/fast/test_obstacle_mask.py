"""The obstacle mask removes declared obstacles from images, and nothing else."""

import numpy as np

from jepa_arm.agent.obstacle_mask import ObstacleMask
from jepa_arm.config import ObstacleConfig
from jepa_arm.robot.camera import project

POST = ObstacleConfig('post', 'box', (0.05, 0.05, 0.10), (0.5, 0.05, 0.05), (0.0, 0.0, 0.4))
TABLE, GREY, RED = (150, 130, 110), (90, 92, 91), (200, 20, 30)


def table(camera):
    return np.tile(np.array(TABLE, dtype=np.uint8), (camera.height, camera.width, 1))


def filled(image, camera, points, colour):
    """Return ``image`` with the pixels of ``points`` (N, 3) m in ``colour``."""
    image = image.copy()
    columns, rows = project(camera, points).astype(int).T
    image[rows, columns] = colour
    return image


def in_box(centre, half):
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 25)] * 3), axis=-1).reshape(-1, 3)
    return grid * half + centre


def test_only_the_obstacle_is_removed_not_what_is_in_front_or_beside(arm_config):
    camera = arm_config.camera
    post = in_box(np.zeros(3), np.array([0.025, 0.025, 0.05]))
    cos, sin = np.cos(0.4), np.sin(0.4)
    post = post @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]).T + POST.xyz
    before = in_box(np.array([0.56, 0.05, 0.02]), np.full(3, 0.02))
    beside = in_box(np.array([0.5, 0.15, 0.02]), np.full(3, 0.02))
    other = in_box(np.array([0.5, -0.15, 0.02]), np.full(3, 0.02))
    scene = filled(table(camera), camera, beside, RED)
    scene = filled(scene, camera, other, GREY)  # not declared, whatever its colour
    expected = filled(scene, camera, before, RED)
    image = filled(filled(scene, camera, post, GREY), camera, before, RED)
    shown = image.copy()
    masked = ObstacleMask(camera, (POST,)).apply(image)
    np.testing.assert_array_equal(masked, expected)
    np.testing.assert_array_equal(image, shown)  # the observation is unchanged
    assert (image != masked).any(axis=-1).sum() > 50


def test_an_obstacle_out_of_view_changes_nothing(arm_config):
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3)).astype(np.uint8)
    far = ObstacleConfig('far', 'box', (0.05, 0.05, 0.1), (0.5, 3.0, 0.05))
    camera = arm_config.camera
    image = image[: camera.height, : camera.width]
    np.testing.assert_array_equal(ObstacleMask(camera, (far,)).apply(image), image)
