"""Anomalies: changes of the simulated world, the camera or the arm that should raise surprise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene_sampling import sample_object_colour

TELEPORT_M = 0.06
CAMERA_SHIFT_M = 0.03
STUCK_FRICTION = 10.0
"""Factor on the friction of a stuck object."""
TABLE_MIN, TABLE_MAX = (0.36, -0.20), (0.62, 0.20)
"""Area (x, y) of the table in which objects are placed, m in the base frame."""
CLEARANCE_M = 0.14
"""Smallest distance of an unknown object from the known one and from the tip."""
COVER_GREY = 110


@dataclass(frozen=True)
class Anomaly:
    """Change that begins at some frame of an episode and lasts until the episode ends.

    Attributes:
        name: identifier. description: text for tables.
        requires: condition for the onset: '' (none), 'motion' of the tip, or 'contact' with the
            object while the tip moves.
        change_world: applied to the world once, at the onset.
        change_image: applied to every image from the onset on; gets the current image and the
            image at the onset.
        mirrors_actions: the arm executes actions mirrored left to right.
        blocks_arm: the arm stands still.
    """

    name: str
    description: str
    requires: str = ''
    change_world: Callable[[BulletWorld, np.random.Generator], None] | None = None
    change_image: Callable[[ImageArray, ImageArray], ImageArray] | None = None
    mirrors_actions: bool = False
    blocks_arm: bool = False


def _teleport(world: BulletWorld, rng: np.random.Generator) -> None:
    """Move the object in a random direction, or towards the centre if it would leave the area."""
    state = world.state()
    position = state.object_position[:2]
    angle = rng.uniform(-np.pi, np.pi)
    target = position + TELEPORT_M * np.array([np.cos(angle), np.sin(angle)])
    if np.any(target < TABLE_MIN) or np.any(target > TABLE_MAX):
        inward = np.mean([TABLE_MIN, TABLE_MAX], axis=0) - position
        target = position + TELEPORT_M * inward / np.linalg.norm(inward)
    world.move_object(target, state.object_yaw)


def _remove(world: BulletWorld, rng: np.random.Generator) -> None:
    world.move_object(np.array([-3.0, 3.0]), 0.0)


def _recolour(world: BulletWorld, rng: np.random.Generator) -> None:
    world.set_object_colour(sample_object_colour(rng))


def _move_camera(world: BulletWorld, rng: np.random.Generator) -> None:
    direction = rng.normal(size=3)
    world.offset_camera(CAMERA_SHIFT_M * direction / np.linalg.norm(direction))


def _change_light(world: BulletWorld, rng: np.random.Generator) -> None:
    direction: FloatArray = rng.normal(size=3)
    direction[2] = abs(direction[2]) + 0.5
    world.set_light(direction, rng.uniform(0.4, 1.0, 3))


def _stick_object(world: BulletWorld, rng: np.random.Generator) -> None:
    world.scale_object_friction(STUCK_FRICTION)


def _add_unknown_object(world: BulletWorld, rng: np.random.Generator) -> None:
    state = world.state()
    others = np.array([state.object_position[:2], state.tip_position[:2]])
    while True:
        position = rng.uniform(TABLE_MIN, TABLE_MAX)
        if np.linalg.norm(others - position, axis=1).min() > CLEARANCE_M:
            world.add_object(position, sample_object_colour(rng))
            return


def _cover(image: ImageArray, first: ImageArray) -> ImageArray:
    """Cover the left half with grey, which is neither black nor overexposed."""
    covered = image.copy()
    covered[:, : image.shape[1] // 2] = COVER_GREY
    return covered


def _freeze(image: ImageArray, first: ImageArray) -> ImageArray:
    return first


NO_ANOMALY = Anomaly('none', 'nothing changes')
ANOMALIES = (
    Anomaly(
        'object_teleported', f'the object is {TELEPORT_M * 100:g} cm elsewhere', '', _teleport
    ),
    Anomaly('object_removed', 'the object is gone', '', _remove),
    Anomaly('object_recoloured', 'the object has another colour', '', _recolour),
    Anomaly('camera_frozen', 'the image is frozen', 'motion', change_image=_freeze),
    Anomaly(
        'camera_bumped', f'the camera is {CAMERA_SHIFT_M * 100:g} cm elsewhere', '', _move_camera
    ),
    Anomaly('lens_covered', 'half of the image is grey', '', change_image=_cover),
    Anomaly('light_changed', 'light of another direction and colour', '', _change_light),
    Anomaly('arm_blocked', 'the arm stands still', 'motion', blocks_arm=True),
    Anomaly(
        'object_stuck', f'friction of the object x {STUCK_FRICTION:g}', 'contact', _stick_object
    ),
    Anomaly('actions_mirrored', 'left and right are swapped', 'motion', mirrors_actions=True),
    Anomaly('unknown_object', 'a second object appears', '', _add_unknown_object),
)
