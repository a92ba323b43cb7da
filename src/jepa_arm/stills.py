"""Stills: pictures of arms from play with the object put elsewhere, which teach to read it.

What a probe reads is limited by how many scenes it has seen, and play shows few: an object
lies still for most of an episode. A still costs a picture and no motion. It shows the
simulator's cube and no obstacle, whatever play had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .arm import Arm
from .collection import Episode, sample_scene
from .config import (
    ArmConfig,
    CollectConfig,
    ConfigError,
    SimConfig,
    StillsConfig,
    from_dict,
    to_dict,
)
from .data.episodes import DataError, EpisodeFile, EpisodeWriter, IntArray
from .data.workers import write_made
from .motion import TipMotion, make_contract
from .sim.bullet import BulletWorld
from .sim.tasks import object_region, sample_colour
from .types import FloatArray

TOUCHING, LOW = 0.045, 0.075
"""m: a tip lower than the second would overlap with an object nearer than the first."""


def collect_stills(
    out: Path,
    play: Path,
    arm: ArmConfig,
    sim: SimConfig,
    config: StillsConfig,
    seed: int,
    held_out: float,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes ``config.sheets`` of stills to ``out`` and returns it.

    The file is one of episodes, each a sheet of stills that have nothing to do with each other:
    no motion leads from one to the next, and ``action`` is zero. As with ``collect``, a second
    call goes on where the first was stopped.

    Args:
        play: episode file; arms stand as in its training split.
        seed, held_out: of the split; the seed is that of what is drawn, too.

    Raises:
        DataError: ``out`` exists; ``play`` cannot be used, or is of another robot; a process
            could not begin, or was killed.
        OSError: the disk is full or not writable; what is written stays.
    """
    if out.exists():
        raise DataError(f'{out} exists already; remove it or choose another name')
    out.parent.mkdir(parents=True, exist_ok=True)
    episodes, contract = EpisodeFile(play), make_contract(arm, sim.time)
    if episodes.contract != contract:
        raise DataError(f'{play}: expected play of {arm.name}, as it is set up now, got another')
    try:
        collected = from_dict(CollectConfig, episodes.config)
    except ConfigError as error:
        raise DataError(f'{play}: expected a file of jepa-arm collect: {error}') from error
    region = object_region(Arm(arm), collected.object_min, collected.object_max)
    training, _ = episodes.split(seed, held_out)
    played = {'seed': episodes.seed, 'config': episodes.config}
    made = {'stills': to_dict(config), 'play': played, 'held_out': held_out}
    lengths = [config.stills] * config.sheets
    given = arm, sim, play, config, seed, training, region
    with (
        EpisodeWriter(out, lengths, contract, seed, made) as writer,
        tqdm(total=config.sheets, unit='sheet', desc='stills', disable=not progress) as bar,
    ):
        write_made(writer, _work, _start_worker, given, workers, bar)
    return out


class Stills:
    """Makes stills of arms as they stand in play; sheet ``i`` is the same for (seed, i)."""

    def __init__(
        self,
        world: BulletWorld,
        arm: Arm,
        play: EpisodeFile,
        config: StillsConfig,
        seed: int,
        training: IntArray,
        region: FloatArray,
    ) -> None:
        """Sets up ``world`` for them.

        Args:
            training: indices of the episodes of ``play`` from which arms are taken.
            region: (2, 2) m, where objects start in play.
        """
        self._world, self._config, self._seed = world, config, seed
        self._joints, self._tip = np.asarray(play.proprio), np.asarray(play.tip_position)
        self._target, self._objects = play.tip_target, np.asarray(play.object_position)
        self._rows = np.flatnonzero(np.isin(play.episode_of_frames(), training))
        self._region = region + config.margin * np.array([[-1.0], [1.0]])
        world.reset(sample_scene(arm, np.random.default_rng(seed), region))

    def sheet(self, index: int) -> Episode:
        """Sheet ``index``: arrays as ``play_episode`` gives them."""
        rng = np.random.default_rng([self._seed, index, 3])
        stills = [self._still(rng) for _ in range(self._config.stills)]
        sheet = {key: np.stack([still[key] for still in stills]) for key in stills[0]}
        return {**sheet, 'action': np.zeros((len(stills), TipMotion.width), np.float32)}

    def _still(self, rng: np.random.Generator) -> dict[str, Any]:
        world = self._world
        row, place = self._drawn(rng)
        while self._overlap(self._tip[row], place):
            row, place = self._drawn(rng)
        yaw = rng.uniform(-np.pi, np.pi)
        world.place_arm(self._joints[row].astype(float))
        world.move_object(place, yaw)
        world.colour_object(sample_colour(rng))
        return {
            'pixels': world.image(),
            'proprio': self._joints[row],
            'tip_target': self._target[row],
            'tip_position': self._tip[row],
            'object_position': np.array([*place, world.thing.height / 2.0], np.float32),
            'object_yaw': np.float32(yaw),
            'contact': np.bool_(False),
        }

    def _drawn(self, rng: np.random.Generator) -> tuple[int, FloatArray]:
        """A frame of play, and (2,) m where its object goes."""
        config, row, chance = self._config, int(rng.choice(self._rows)), rng.random()
        if chance < config.beside_share:
            angle, radius = rng.uniform([-np.pi, TOUCHING], [np.pi, config.beside_within])
            return row, self._tip[row, :2] + radius * np.array([np.cos(angle), np.sin(angle)])
        if chance < config.beside_share + config.played_share:
            place = self._objects[rng.choice(self._rows), :2]
            return row, place + rng.normal(0.0, config.played_std, 2)
        return row, rng.uniform(*self._region)

    def _overlap(self, tip: FloatArray, place: FloatArray) -> bool:
        return bool(tip[2] < LOW and np.linalg.norm(place - tip[:2]) < TOUCHING)


_stills: Stills


def _start_worker(
    arm_config: ArmConfig, sim: SimConfig, play: Path, config: StillsConfig, *rest: Any
) -> None:
    global _stills
    arm = Arm(arm_config)
    _stills = Stills(BulletWorld(arm, sim), arm, EpisodeFile(play), config, *rest)


def _work(index: int) -> Episode:
    return _stills.sheet(index)
