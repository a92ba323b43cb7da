"""Toy world in which actions move a small square: data in a second, without a simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from jepa_arm.config import (
    CameraConfig,
    Contract,
    LewmConfig,
    ModelConfig,
    ModelFile,
    PredictorConfig,
    TimeConfig,
    load,
)
from jepa_arm.core.files import config_path
from jepa_arm.datasets.episodes import EpisodeWriter
from jepa_arm.robot.action_space import proprioception

SIZE = 16
CONTRACT = Contract(
    arm='toy',
    joints=('x_joint', 'y_joint'),
    camera=CameraConfig(SIZE, SIZE, 40.0, (1.0, 0.0, 1.0), (0.0, 0.0, 0.0), 'camera'),
    action_space='tip_delta_xy',
    action_width=2,
    action_scale=0.1,
    time=TimeConfig(physics_dt=0.01, stream_dt=0.01, control_dt=0.1, frame_skip=2),
)
MODEL = ModelConfig('toy', (8, 16), 32, 16, 64, 8, 64, 1)
LEWM = LewmConfig('toy-lewm', 24, 8, 1, 2, 16, 32, 1, 2, 8, 32, 0.1, 3, 4)
TRAIN = replace(
    load(ModelFile, config_path('model/compact.yaml')).train,
    steps=12,
    learning_rate=1e-2,
    batch=32,
    warmup_steps=4,
    sigreg_projections=32,
    sigreg_knots=9,
    held_out=0.3,
    validate_every=6,
    save_every_s=1e6,
    probe_steps=30,
    tip_probe_steps=30,
    inverse_dynamics_weight=0.0,
    colour_augmentation=False,
    windows_per_episode=1,
)
TOY = replace(
    load(ModelFile, config_path('model/compact.yaml')),
    model=MODEL,
    train=TRAIN,
    predictor=None,  # needs two more processes, which take longer to start than the toy to train
)
TOY_LEWM = replace(TOY, model=LEWM, train=replace(TRAIN, window=4, learning_rate=2e-3))
PREDICTOR = PredictorConfig(steps=40, batch=32, window=5, learning_rate=5e-3)


def episode(rng: np.random.Generator, frames: int) -> dict[str, np.ndarray]:
    """Return a random episode in which joints in [-1, 1]^2, moved by up to 0.1, place a square."""
    q = np.empty((frames, 2))
    action = np.empty((frames - 1, 2))
    q[0] = rng.uniform(-1.0, 1.0, 2)
    velocity = rng.uniform(-1.0, 1.0, 2)
    for t in range(frames - 1):
        velocity = np.clip(velocity + rng.normal(0.0, 0.3, 2), -1.0, 1.0)
        action[t] = velocity
        q[t + 1] = np.clip(q[t] + CONTRACT.action_scale * action[t], -1.0, 1.0)
    pixels = np.full((frames, SIZE, SIZE, 3), 90, dtype=np.uint8)
    corners = np.rint((q + 1.0) / 2.0 * (SIZE - 4)).astype(int)
    for image, (x, y) in zip(pixels, corners, strict=True):
        image[y : y + 4, x : x + 4] = (200, 40, 40)
    position = np.column_stack([q, np.zeros(frames)])
    return {
        'pixels': pixels,
        'proprio': q,
        'action': action,
        'tip_position': position,
        'tip_target': position,
        'object_position': position,
        'object_yaw': np.zeros(frames),
        'contact': np.zeros(frames, dtype=bool),
    }


def observations(one: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return images and proprioception of an episode, the inputs of the encoder."""
    proprio = proprioception(one['proprio'], one['tip_position'], one['tip_target'])
    return one['pixels'], proprio.astype(np.float32)


def write(path: Path, lengths: list[int], seed: int = 0) -> Path:
    """Write a complete episode file of the toy world and return its path."""
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, lengths, CONTRACT, seed, {'made_by': 'synthetic'}) as writer:
        for length in lengths:
            writer.append(episode(rng, length))
    return path
