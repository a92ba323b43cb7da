"""Image change: brightness per cell, new colours, and the amount of motion."""

import numpy as np
import pytest
import torch

from jepa_arm.belief.image_change import MIN_MOTION, ImageChangeDetector, image_changes
from jepa_arm.config import SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import ImageArray
from jepa_arm.model.heads.belief_heads import CELL_GRID

TIME = load(SimConfig, config_path('sim.yaml')).time
TABLE, RED, GREEN = (148, 132, 115), (200, 30, 30), (30, 200, 30)
PROPRIO = torch.zeros(1, 13)


def scene(*objects: tuple[int, int, tuple[int, int, int]]) -> ImageArray:
    """Return an image of a table with coloured squares of 6 px at (row, column)."""
    image = np.full((64, 80, 3), TABLE, np.uint8)
    for row, column, colour in objects:
        image[row : row + 6, column : column + 6] = colour
    return image


def last_change(*images: ImageArray):
    """Return the change of the last of ``images``, which are a control step apart."""
    proprio = np.zeros((len(images), 13), np.float32)
    return image_changes(np.stack(images), proprio, TIME).rows(torch.tensor([-1]))


def test_a_static_scene_has_not_changed() -> None:
    change = last_change(*[scene((20, 30, RED))] * 8)
    assert change.cells.abs().max() == 0.0 and change.novelty.item() == 0.0
    assert change.motion.item() == pytest.approx(np.log(MIN_MOTION))


def test_a_moved_object_changes_its_cells_and_no_colour() -> None:
    change = last_change(*[scene((20, 30, RED))] * 7, scene((20, 50, RED)))
    cells = change.cells.view(CELL_GRID)
    rows, columns = torch.nonzero(cells.abs() > 0.01, as_tuple=True)
    assert set(rows.tolist()) == {5, 6} and set(columns.tolist()) == {7, 8, 12, 13}
    assert abs(change.novelty.item()) < 0.01
    assert change.motion.item() > np.log(100 * MIN_MOTION)


@pytest.mark.parametrize('objects', [[(20, 30, GREEN)], [(20, 30, RED), (40, 60, GREEN)]])
def test_a_new_colour_is_detected(objects) -> None:
    change = last_change(*[scene((20, 30, RED))] * 7, scene(*objects))
    assert change.novelty.item() > 2.0


def test_a_colour_in_the_shade_is_not_new() -> None:
    shaded = (140, 21, 21)
    assert abs(last_change(*[scene((20, 30, RED))] * 7, scene((20, 30, shaded))).novelty) < 0.05


def test_less_of_a_colour_is_not_new() -> None:
    assert abs(last_change(*[scene((20, 30, RED))] * 7, scene()).novelty.item()) < 0.01


def test_a_colour_that_was_hidden_is_known_when_it_comes_back() -> None:
    hidden = [scene((20, 30, RED))] + [scene()] * 40
    assert last_change(*hidden, scene((20, 30, RED))).novelty.item() < 0.01


def test_without_a_reference_the_change_is_nan() -> None:
    detector = ImageChangeDetector(TIME)
    first = detector.update(0.0, scene(), PROPRIO)
    assert first.cells.isnan().all() and first.novelty.isnan() and first.motion.isnan()
    second = detector.update(0.1, scene(), PROPRIO)
    assert second.cells.isnan().all() and not second.motion.isnan()
    late = detector.update(0.4, scene(), PROPRIO)  # two images were lost
    assert late.motion.isnan() and late.proprio.isnan().all()
    compared = detector.update(0.7, scene(), PROPRIO)
    assert not compared.cells.isnan().any() and not compared.novelty.isnan()
    gap = detector.update(
        1.5, scene(), PROPRIO
    )  # that of 0.6 s before was lost; colours stay known
    assert gap.cells.isnan().all() and not gap.novelty.isnan()
    detector.reset()
    assert detector.update(1.6, scene(), PROPRIO).novelty.isnan()
