"""Dataset configuration: play data to collect, and rendered scenes for training probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .rules import Checked, Count, Rule, Share, at_least, between, require


@dataclass(frozen=True)
class CollectConfig(Checked):
    """Play data to collect.

    Attributes:
        episodes: number of episodes.
        frames: observations per episode; an episode has one action fewer.
        seed: random seed; episode ``i`` depends on (seed, i) alone, not on the number of workers.
        object_min, object_max: (x, y) m, corners of the region in which objects start and are
            pushed; it is clipped to where the tip can move all around an object.
        obstacle_share: share of the episodes with one or two posts or walls on the table.
        random_object_share: share of the episodes with an object of random shape, size, mass and
            friction instead of the simulator's cube.
        light_share: share of the episodes lit from a random direction with random brightness.
        camera_std: m, standard deviation of the camera's offset on each axis, drawn per episode.
    """

    episodes: Count
    frames: Annotated[int, at_least(2)]
    seed: int
    object_min: tuple[float, float]
    object_max: tuple[float, float]
    obstacle_share: Share = 0.0
    random_object_share: Share = 0.0
    light_share: Share = 0.0
    camera_std: Annotated[float, Rule('0 to 0.1 m', lambda value: 0.0 <= value < 0.1)] = 0.0


@dataclass(frozen=True)
class RenderedScenesConfig(Checked):
    """Scenes to render, with arm poses from play data and the object moved elsewhere.

    Attributes:
        batches, scenes_per_batch: number of batches, and of scenes in each.
        margin: m by which the object region of ``CollectConfig`` is enlarged on each side to draw
            uniform positions.
        near_tip_share: share of scenes with the object within ``near_tip_distance`` (m) of the
            tip, measured horizontally.
        played_share: share of scenes with the object at a position from play data, plus Gaussian
            noise of standard deviation ``played_std`` (m) on each axis. In all other scenes its
            position is uniform.
    """

    batches: Count
    scenes_per_batch: Annotated[int, at_least(2)]
    margin: float
    near_tip_share: Share
    near_tip_distance: Annotated[float, between(0.05, 0.5, 'm')]
    played_share: Share
    played_std: float

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.near_tip_share, self.played_share
        require(sum(shares) <= 1.0, 'near_tip_share, played_share', 'a sum of at most 1', shares)
