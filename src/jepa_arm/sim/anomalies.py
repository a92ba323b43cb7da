"""What may go wrong in the world or before the camera, and should surprise a belief."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..types import FloatArray, ImageArray
from .bullet import BulletWorld
from .tasks import sample_colour

TELEPORT_M = 0.06
BUMP_M = 0.03
STUCK = 10.0
LOW, HIGH = (0.36, -0.20), (0.62, 0.20)
"""m, where on the table an object is put."""
CLEAR_M = 0.14
"""How far from object and tip an unknown object appears."""


@dataclass(frozen=True)
class Anomaly:
    """One way for the world to be another one.

    Attributes:
        name, what: for people.
        needs: what must be going on when it begins: '', 'motion' of the tip, or 'contact'.
        world: done to the world once.
        image: done to every image from then on; the second is the first one after it began.
        mirrors: whether actions act mirrored. blocks: whether the arm stands still.
    """

    name: str
    what: str
    needs: str = ''
    world: Callable[[BulletWorld, np.random.Generator], None] | None = None
    image: Callable[[ImageArray, ImageArray], ImageArray] | None = None
    mirrors: bool = False
    blocks: bool = False


def _teleport(world: BulletWorld, rng: np.random.Generator) -> None:
    """In a random direction, or towards the middle where that would leave the table."""
    state = world.state()
    here = state.object_position[:2]
    angle = rng.uniform(-np.pi, np.pi)
    way = np.array([np.cos(angle), np.sin(angle)])
    there = here + TELEPORT_M * way
    if np.any(there < LOW) or np.any(there > HIGH):
        way = np.mean([LOW, HIGH], axis=0) - here
        there = here + TELEPORT_M * way / np.linalg.norm(way)
    world.move_object(there, state.object_yaw)


def _remove(world: BulletWorld, rng: np.random.Generator) -> None:
    world.move_object(np.array([-3.0, 3.0]), 0.0)


def _recolour(world: BulletWorld, rng: np.random.Generator) -> None:
    world.colour_object(sample_colour(rng))


def _bump(world: BulletWorld, rng: np.random.Generator) -> None:
    way = rng.normal(size=3)
    world.bump_camera(BUMP_M * way / np.linalg.norm(way))


def _relight(world: BulletWorld, rng: np.random.Generator) -> None:
    direction: FloatArray = rng.normal(size=3)
    direction[2] = abs(direction[2]) + 0.5
    world.relight(direction, rng.uniform(0.4, 1.0, 3))


def _drag(world: BulletWorld, rng: np.random.Generator) -> None:
    world.drag_object(STUCK)


def _intrude(world: BulletWorld, rng: np.random.Generator) -> None:
    state = world.state()
    others = np.array([state.object_position[:2], state.tip_position[:2]])
    while True:
        place = rng.uniform(LOW, HIGH)
        if np.linalg.norm(others - place, axis=1).min() > CLEAR_M:
            world.add_object(place, sample_colour(rng))
            return


def _cover(image: ImageArray, first: ImageArray) -> ImageArray:
    """A grey cloth over the left half: neither black nor overexposed."""
    covered = image.copy()
    covered[:, : image.shape[1] // 2] = 110
    return covered


ANOMALIES = (
    Anomaly(
        'object_teleported', f'the object is {TELEPORT_M * 100:g} cm elsewhere', '', _teleport
    ),
    Anomaly('object_removed', 'the object is gone', '', _remove),
    Anomaly('object_recoloured', 'the object has another colour', '', _recolour),
    Anomaly('camera_frozen', 'the image stands still', 'motion', image=lambda _, first: first),
    Anomaly('camera_bumped', f'the camera is {BUMP_M * 100:g} cm elsewhere', '', _bump),
    Anomaly('lens_covered', 'half of the image is grey', '', image=_cover),
    Anomaly('light_changed', 'light from elsewhere in another colour', '', _relight),
    Anomaly('arm_blocked', 'the arm stands still', 'motion', blocks=True),
    Anomaly('object_stuck', f'friction of the object x {STUCK:g}', 'contact', _drag),
    Anomaly('actions_mirrored', 'actions to the left act to the right', 'motion', mirrors=True),
    Anomaly('unknown_object', 'a second object appears', '', _intrude),
)
