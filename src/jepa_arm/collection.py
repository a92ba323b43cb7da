"""Collects play data with parallel workers: resumable, deterministic, one atomic HDF5 file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .arm import Arm
from .config import ArmConfig, CollectConfig, SimConfig, to_dict
from .data.episodes import DataError, EpisodeWriter
from .data.workers import write_made
from .motion import JointStreamer, TipMotion, make_contract
from .sim.bullet import BulletWorld
from .sim.obstacles import sample_around, sample_grey, sample_thing
from .sim.policies import PUSH_HEIGHT, Play
from .sim.tasks import TIP_CLEARANCE, joints_at, object_region, sample_colour, sample_tip
from .sim.world import Scene

Episode = dict[str, NDArray]


def collect(
    out: Path,
    arm: ArmConfig,
    sim: SimConfig,
    config: CollectConfig,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes ``config.episodes`` of play to ``out`` and returns it.

    Until the file is whole it is ``<out>.partial``; a second call with the same settings
    continues there.

    Raises:
        DataError: ``out`` exists; a process could not begin, or was killed.
        OSError: the disk is full or not writable; episodes already written stay.
    """
    if out.exists():
        raise DataError(f'{out} exists already; remove it or choose another name')
    out.parent.mkdir(parents=True, exist_ok=True)
    lengths = [config.frames] * config.episodes
    contract = make_contract(arm, sim.time)
    with (
        EpisodeWriter(out, lengths, contract, config.seed, to_dict(config)) as writer,
        tqdm(total=config.episodes, unit='ep', desc='collect', disable=not progress) as bar,
    ):
        write_made(writer, _work, _start_worker, (arm, sim, config), workers, bar)
    return out


def play_episode(world: BulletWorld, arm: Arm, config: CollectConfig, index: int) -> Episode:
    """Episode ``index`` of play: T+1 observations, T actions; the same for (seed, index)."""
    rng = np.random.default_rng([config.seed, index])
    region = object_region(arm, config.object_min, config.object_max)
    scene = furnish(sample_scene(arm, rng, region), arm, config, index)
    motion, streamer = TipMotion(arm), JointStreamer(arm, world.config.time.stream_dt)
    motion.reset(scene.joints)
    streamer.reset(scene.joints)
    state = world.reset(scene)
    vary_view(world, config, index)
    policy = Play(arm, rng, region, scene)
    rows: dict[str, list] = {}
    for frame in range(config.frames):
        action = policy.act(state, motion.target)
        row = {
            'pixels': world.image(),
            'proprio': state.joints,
            'action': action,
            'tip_target': motion.target,
            'tip_position': state.tip_position,
            'object_position': state.object_position,
            'object_yaw': state.object_yaw,
            'contact': state.contact,
        }
        for key, value in row.items():
            rows.setdefault(key, []).append(value)
        if frame < config.frames - 1:
            target = motion.apply(action)
            for _ in range(world.config.time.ticks):
                command = streamer.step(target)
                world.command(command.position, command.velocity)
                world.step()
            state = world.state()
    return {key: _stack(value) for key, value in rows.items()}


def sample_scene(arm: Arm, rng: np.random.Generator, region: NDArray) -> Scene:
    """The object anywhere in ``region``; the tip anywhere, in half of the scenes low beside it."""
    position = rng.uniform(region[0], region[1])
    tip = sample_tip(arm, rng, position)
    if rng.random() < 0.5:
        angle, radius = rng.uniform([-np.pi, TIP_CLEARANCE], [np.pi, 0.14])
        beside = position + radius * np.array([np.cos(angle), np.sin(angle)])
        if arm.in_workspace(np.array([*beside, PUSH_HEIGHT])):
            tip = np.array([*beside, PUSH_HEIGHT])
    joints = joints_at(arm, tip)
    yaw = float(rng.uniform(-np.pi, np.pi))
    return Scene(joints, position, yaw, sample_colour(rng), tip, joints)


def furnish(scene: Scene, arm: Arm, config: CollectConfig, index: int) -> Scene:
    """``scene`` with the object and the obstacles of episode ``index``, clear of tip and object.

    Their random numbers are their own: without them the episode is what it was.
    """
    rng = np.random.default_rng([config.seed, index, 1])
    has_thing, has_obstacles = rng.random(2) < (config.thing_share, config.obstacle_share)
    thing = sample_thing(rng) if has_thing else None
    if not has_obstacles:
        return replace(scene, thing=thing)
    tip = arm.tip_position(scene.joints)
    obstacles = sample_around(arm, rng, tip, scene.object_position)
    rgb = np.array([sample_grey(rng) for _ in obstacles]).reshape(-1, 3)
    return replace(scene, thing=thing, obstacles=obstacles, obstacle_rgb=rgb)


def vary_view(world: BulletWorld, config: CollectConfig, index: int) -> None:
    """Light and camera of episode ``index``, until the next reset of ``world``."""
    rng = np.random.default_rng([config.seed, index, 2])
    if rng.random() < config.light_share:
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2]) + 0.5
        world.relight(direction, rng.uniform(0.6, 1.0) + rng.uniform(-0.1, 0.0, 3))
    if config.camera_std > 0.0:
        world.bump_camera(rng.normal(0.0, config.camera_std, 3))


def _stack(values: list) -> NDArray:
    array = np.stack(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array


_worker: tuple[BulletWorld, Arm, CollectConfig]


def _start_worker(arm_config: ArmConfig, sim: SimConfig, config: CollectConfig) -> None:
    global _worker
    arm = Arm(arm_config)
    _worker = BulletWorld(arm, sim), arm, config


def _work(index: int) -> Episode:
    world, arm, config = _worker
    return play_episode(world, arm, config, index)
