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
        frames: observations in each episode; actions: one less.
        seed: episode ``i`` depends on (seed, i) alone, however many workers there are.
        object_min, object_max: (x, y) m, region in which objects start and are pushed, as far as
            the arm's workspace allows.
        obstacle_share: share of the episodes with one or two posts or walls on the table.
        random_object_share: share of the episodes with an object of random shape, size, mass and
            friction instead of the simulator's cube.
        light_share: share of the episodes that are lit from a random direction and brightness.
        camera_std: m, standard deviation of the camera's position per axis and episode.
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
    """Scenes to render with recorded arm poses and the object elsewhere.

    Attributes:
        batches, scenes_per_batch: number of batches, and of scenes in each.
        margin: m, by which the region of ``CollectConfig`` is enlarged for uniform positions.
        near_tip_share: share of scenes with the object within ``near_tip_distance`` (m) of the
            tip.
        played_share: share of scenes with the object at a position from play, plus Gaussian noise
            of ``played_std`` (m) on each axis. All other positions are uniform.
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
