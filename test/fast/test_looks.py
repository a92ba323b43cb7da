"""What changes in images to the eye: brightness where nothing moves, colours, and how much."""

import numpy as np
import pytest
import torch

from jepa_arm.config import SimConfig, load
from jepa_arm.looks import LEAST_MOTION, Looks, changes_of
from jepa_arm.model.belief_heads import CELLS
from jepa_arm.resources import config_path
from jepa_arm.types import ImageArray

TIME = load(SimConfig, config_path('sim.yaml')).time
TABLE, RED, GREEN = (148, 132, 115), (200, 30, 30), (30, 200, 30)
FELT = torch.zeros(1, 13)


def scene(*objects: tuple[int, int, tuple[int, int, int]]) -> ImageArray:
    """A table with objects of 6 px at (row, column), in a colour each."""
    image = np.full((64, 80, 3), TABLE, np.uint8)
    for row, column, colour in objects:
        image[row : row + 6, column : column + 6] = colour
    return image


def last_change(*images: ImageArray):
    """What changed in the last of ``images``, a control step apart."""
    felt = np.zeros((len(images), 13), np.float32)
    return changes_of(np.stack(images), felt, TIME).rows(torch.tensor([-1]))


def test_a_scene_that_stays_as_it_is_has_not_changed() -> None:
    change = last_change(*[scene((20, 30, RED))] * 8)
    assert change.cells.abs().max() == 0.0 and change.novelty.item() == 0.0
    assert change.motion.item() == pytest.approx(np.log(LEAST_MOTION))


def test_what_moves_changes_its_cells_and_no_colour() -> None:
    change = last_change(*[scene((20, 30, RED))] * 7, scene((20, 50, RED)))
    cells = change.cells.view(CELLS)
    rows, columns = torch.nonzero(cells.abs() > 0.01, as_tuple=True)
    assert set(rows.tolist()) == {5, 6} and set(columns.tolist()) == {7, 8, 12, 13}
    assert abs(change.novelty.item()) < 0.01
    assert change.motion.item() > np.log(100 * LEAST_MOTION)


@pytest.mark.parametrize('objects', [[(20, 30, GREEN)], [(20, 30, RED), (40, 60, GREEN)]])
def test_a_colour_that_was_not_there_is_new(objects) -> None:
    change = last_change(*[scene((20, 30, RED))] * 7, scene(*objects))
    assert change.novelty.item() > 2.0


def test_a_colour_in_the_shade_is_no_new_one() -> None:
    shaded = (140, 21, 21)
    assert abs(last_change(*[scene((20, 30, RED))] * 7, scene((20, 30, shaded))).novelty) < 0.05


def test_less_of_a_colour_is_not_new() -> None:
    assert abs(last_change(*[scene((20, 30, RED))] * 7, scene()).novelty.item()) < 0.01


def test_a_colour_that_was_hidden_is_known_when_it_comes_back() -> None:
    hidden = [scene((20, 30, RED))] + [scene()] * 40
    assert last_change(*hidden, scene((20, 30, RED))).novelty.item() < 0.01


def test_nothing_is_said_where_there_is_nothing_to_compare_with() -> None:
    looks = Looks(TIME)
    first = looks.see(0.0, scene(), FELT)
    assert first.cells.isnan().all() and first.novelty.isnan() and first.motion.isnan()
    second = looks.see(0.1, scene(), FELT)
    assert second.cells.isnan().all() and not second.motion.isnan()
    late = looks.see(0.4, scene(), FELT)  # two images were lost
    assert late.motion.isnan() and late.felt.isnan().all()
    compared = looks.see(0.7, scene(), FELT)
    assert not compared.cells.isnan().any() and not compared.novelty.isnan()
    gap = looks.see(1.5, scene(), FELT)  # that of 0.6 s before was lost; colours stay known
    assert gap.cells.isnan().all() and not gap.novelty.isnan()
    looks.reset()
    assert looks.see(1.6, scene(), FELT).novelty.isnan()
