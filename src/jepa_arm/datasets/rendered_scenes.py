"""Rendered scenes: recorded arm poses with the object moved, to train the object's probe.

The accuracy of a probe is limited by the number of scenes it has seen, and play shows few: the
object rests for most of an episode. A rendered scene takes one image and no motion. It shows the
simulator's cube and no obstacles, whatever the play data contains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa_arm.config import (
    ArmConfig,
    CollectConfig,
    ConfigError,
    RenderedScenesConfig,
    SimConfig,
    from_dict,
    to_dict,
)
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.action_space import TipMotion, make_contract
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene_sampling import reachable_object_region, sample_object_colour

from .collection import sample_scene
from .episodes import RENDERED_SCENES, DataError, EpisodeFile, EpisodeWriter
from .worker_pool import Episode, prepare_output, write_in_parallel

MIN_OBJECT_DISTANCE, CLEAR_TIP_HEIGHT = 0.045, 0.075
"""m: below this tip height, an object closer to the tip than this distance (x, y) overlaps it."""


@dataclass(frozen=True)
class PlaySource:
    """Play data from which arm poses are drawn.

    Attributes:
        path: episode file.
        seed, held_out: random seed and held-out share of the split; poses come from its training
            part. The seed also determines the rendered scenes.
    """

    path: Path
    seed: int
    held_out: float


def render_scenes(
    out: Path,
    play: PlaySource,
    arm: ArmConfig,
    sim: SimConfig,
    config: RenderedScenesConfig,
    workers: int | None = None,
) -> Path:
    """Write ``config.batches`` batches of rendered scenes to the file ``out``; return its path.

    The file is an episode file with a batch in place of each episode: its scenes are independent,
    and ``action`` is zero. As with ``collect``, a second call continues an interrupted one.

    Raises:
        DataError: ``out`` exists, the play data is unusable or of another robot, or a worker
            process could not start or was killed.
        OSError: the disk is full or not writable; batches already written are kept.
    """
    prepare_output(out)
    episodes, contract = EpisodeFile(play.path), make_contract(arm, sim.time)
    if episodes.contract != contract:
        raise DataError(
            f'{play.path}: expected play of {arm.name} in its present configuration, got another'
        )
    source = {'seed': episodes.seed, 'config': episodes.config}
    about = {RENDERED_SCENES: to_dict(config), 'play': source, 'held_out': play.held_out}
    lengths = [config.scenes_per_batch] * config.batches
    _object_region(episodes, Arm(arm))  # report an unusable file before workers start
    writer = EpisodeWriter(out, lengths, contract, play.seed, about)
    write_in_parallel(writer, _renderer, (arm, sim, play, config), workers)
    return out


def _object_region(play: EpisodeFile, arm: Arm) -> FloatArray:
    """Return the region (2, 2) m in which objects start in ``play``."""
    try:
        config = from_dict(CollectConfig, play.config)
    except ConfigError as error:
        raise DataError(f'{play.path}: expected a file of data collect: {error}') from error
    return reachable_object_region(arm, config.object_min, config.object_max)


class SceneRenderer:
    """Renderer of scenes with arm poses from play; batch ``i`` depends on (seed, i) alone."""

    def __init__(
        self, world: BulletWorld, arm: Arm, play: PlaySource, config: RenderedScenesConfig
    ) -> None:
        episodes = EpisodeFile(play.path)
        region = _object_region(episodes, arm)
        training, _ = episodes.split(play.seed, play.held_out)
        self._world, self._config, self._seed = world, config, play.seed
        self._play = episodes
        self._rows = np.flatnonzero(np.isin(episodes.episode_of_frames(), training))
        self._region = region + config.margin * np.array([[-1.0], [1.0]])
        world.reset(sample_scene(arm, np.random.default_rng(play.seed), region))

    def batch(self, index: int) -> Episode:
        """Return the scenes of batch ``index`` as an episode."""
        rng = np.random.default_rng([self._seed, index, 3])
        scenes = [self._render(rng) for _ in range(self._config.scenes_per_batch)]
        batch = {key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}
        return {**batch, 'action': np.zeros((len(scenes), TipMotion.width), np.float32)}

    def _render(self, rng: np.random.Generator) -> dict[str, Any]:
        world = self._world
        while True:
            row, position = self._sample(rng)
            tip = self._play.tip_position[row]
            distance = np.linalg.norm(position - tip[:2])
            if tip[2] >= CLEAR_TIP_HEIGHT or distance >= MIN_OBJECT_DISTANCE:
                break
        yaw = rng.uniform(-np.pi, np.pi)
        world.place_arm(self._play.proprio[row].astype(float))
        world.move_object(position, yaw)
        world.set_object_colour(sample_object_colour(rng))
        height = world.scene_object.height / 2.0
        return {
            'pixels': world.image(),
            'proprio': self._play.proprio[row],
            'tip_target': self._play.tip_target[row],
            'tip_position': self._play.tip_position[row],
            'object_position': np.array([*position, height], np.float32),
            'object_yaw': np.float32(yaw),
            'contact': np.bool_(False),
        }

    def _sample(self, rng: np.random.Generator) -> tuple[int, FloatArray]:
        """Return a random frame of play, for the arm's pose, and an object position (2,) m."""
        config, row, chance = self._config, int(rng.choice(self._rows)), rng.random()
        if chance < config.near_tip_share:
            angle, radius = rng.uniform(
                [-np.pi, MIN_OBJECT_DISTANCE], [np.pi, config.near_tip_distance]
            )
            offset = radius * np.array([np.cos(angle), np.sin(angle)])
            return row, self._play.tip_position[row, :2] + offset
        if chance < config.near_tip_share + config.played_share:
            position = self._play.object_position[rng.choice(self._rows), :2]
            return row, position + rng.normal(0.0, config.played_std, 2)
        return row, rng.uniform(*self._region)


def _renderer(
    arm_config: ArmConfig, sim: SimConfig, play: PlaySource, config: RenderedScenesConfig
) -> Callable[[int], Episode]:
    arm = Arm(arm_config)
    return SceneRenderer(BulletWorld(arm, sim), arm, play, config).batch
