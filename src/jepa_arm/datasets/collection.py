"""Data collection: play on the virtual arm, recorded by parallel workers in one HDF5 file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_arm.config import ArmConfig, CollectConfig, SimConfig, to_dict
from jepa_arm.robot.action_space import TipMotion, make_contract
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.play_policy import PlayPolicy
from jepa_arm.sim.policies import PUSH_HEIGHT
from jepa_arm.sim.scene import Scene
from jepa_arm.sim.scene_sampling import (
    TIP_CLEARANCE,
    joints_for_tip,
    reachable_object_region,
    sample_object,
    sample_object_colour,
    sample_obstacle_colour,
    sample_obstacles,
    sample_tip_position,
)

from .episodes import EpisodeWriter
from .worker_pool import Episode, prepare_output, write_in_parallel

MAX_START_DISTANCE = 0.14
"""In half of the episodes the tip starts at most this far from the object, m."""


def collect(
    out: Path, arm: ArmConfig, sim: SimConfig, config: CollectConfig, workers: int | None = None
) -> Path:
    """Write ``config.episodes`` episodes of play to the file ``out`` and return its path.

    The file is named ``<out>.partial`` until it is complete; a second call with the same settings
    continues it. ``workers`` is the number of processes; None: one for each core.

    Raises:
        DataError: ``out`` exists, or a worker process could not start or was killed.
        OSError: the disk is full or not writable; episodes already written are kept.
    """
    prepare_output(out)
    lengths = [config.frames] * config.episodes
    contract = make_contract(arm, sim.time)
    writer = EpisodeWriter(out, lengths, contract, config.seed, to_dict(config))
    write_in_parallel(writer, _player, (arm, sim, config), workers)
    return out


def play_episode(world: BulletWorld, arm: Arm, config: CollectConfig, index: int) -> Episode:
    """Return episode ``index`` of play: T+1 observations, T actions.

    Its random numbers depend on ``config.seed`` and ``index`` alone.
    """
    rng = np.random.default_rng([config.seed, index])
    region = reachable_object_region(arm, config.object_min, config.object_max)
    scene = add_random_objects(sample_scene(arm, rng, region), arm, config, index)
    motion, streamer = TipMotion(arm), JointStreamer(arm, world.config.time.stream_dt)
    motion.reset(scene.joints)
    streamer.reset(scene.joints)
    state = world.reset(scene)
    randomize_view(world, config, index)
    policy = PlayPolicy(arm, rng, region, scene)
    rows = []
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
        rows.append(row)
        if frame < config.frames - 1:
            target = motion.apply(action)
            for _ in range(world.config.time.ticks):
                command = streamer.step(target)
                world.command(command.position, command.velocity)
                world.step()
            state = world.state()
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def sample_scene(arm: Arm, rng: np.random.Generator, region: NDArray) -> Scene:
    """Return a random scene: object anywhere in ``region``, tip anywhere in the workspace.

    In half of the scenes the tip starts at pushing height close to the object.

    Args:
        arm: kinematics.
        rng: source of randomness.
        region: (2, 2) m, lowest and highest (x, y) of the object.
    """
    position = rng.uniform(region[0], region[1])
    tip = sample_tip_position(arm, rng, position)
    if rng.random() < 0.5:
        angle, radius = rng.uniform([-np.pi, TIP_CLEARANCE], [np.pi, MAX_START_DISTANCE])
        beside = position + radius * np.array([np.cos(angle), np.sin(angle)])
        if arm.in_workspace(np.array([*beside, PUSH_HEIGHT])):
            tip = np.array([*beside, PUSH_HEIGHT])
    joints = joints_for_tip(arm, tip)
    yaw = float(rng.uniform(-np.pi, np.pi))
    return Scene(joints, position, yaw, sample_object_colour(rng), tip, joints)


def add_random_objects(scene: Scene, arm: Arm, config: CollectConfig, index: int) -> Scene:
    """Return ``scene`` with the random object and obstacles of episode ``index``.

    Obstacles keep clear of tip and object. A separate random generator is used, so that an episode
    without additions does not change.
    """
    rng = np.random.default_rng([config.seed, index, 1])
    has_object, has_obstacles = rng.random(2) < (config.random_object_share, config.obstacle_share)
    scene_object = sample_object(rng) if has_object else None
    if not has_obstacles:
        return replace(scene, scene_object=scene_object)
    tip = arm.tip_position(scene.joints)
    obstacles = sample_obstacles(arm, rng, tip, scene.object_position)
    rgb = np.array([sample_obstacle_colour(rng) for _ in obstacles]).reshape(-1, 3)
    return replace(scene, scene_object=scene_object, obstacles=obstacles, obstacle_rgb=rgb)


def randomize_view(world: BulletWorld, config: CollectConfig, index: int) -> None:
    """Set the random light and camera of episode ``index``, which last until the next reset."""
    rng = np.random.default_rng([config.seed, index, 2])
    if rng.random() < config.light_share:
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2]) + 0.5
        world.set_light(direction, rng.uniform(0.6, 1.0) + rng.uniform(-0.1, 0.0, 3))
    if config.camera_std > 0.0:
        world.offset_camera(rng.normal(0.0, config.camera_std, 3))


def _player(
    arm_config: ArmConfig, sim: SimConfig, config: CollectConfig
) -> Callable[[int], Episode]:
    arm = Arm(arm_config)
    return partial(play_episode, BulletWorld(arm, sim), arm, config)
