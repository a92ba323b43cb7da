"""How surely, and how soon, the belief is surprised when the world is not what it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .arm import Arm
from .belief import Belief
from .collection import sample_scene
from .config import ArmConfig, CollectConfig, SimConfig
from .looks import Looks
from .model.belief_heads import load_belief_heads
from .model.checkpoint import Checkpoint, CheckpointError, check_contract, git_hash
from .model.world_model import WorldModel
from .motion import JointStreamer, TipMotion, make_contract, proprioception
from .resources import machine
from .sim.anomalies import ANOMALIES, Anomaly
from .sim.bullet import BulletWorld
from .sim.policies import Play
from .sim.tasks import EVALUATION_SEED, object_region
from .surprise import Surprise
from .training.classification import auroc
from .types import FloatArray, ImageArray

FRAMES, EARLIEST = 75, 25
"""Of an episode; an anomaly begins after so many, when what it needs is going on."""
WARM_UP = 5
"""Frames of an episode before there is a surprise."""
WINDOW = 6
"""Frames of which the largest surprise counts."""
MOVING_M = 0.008
"""Way of the tip's target in a control step that counts as motion."""


@dataclass(frozen=True)
class Watched:
    """One episode.

    Attributes:
        surprise: (T,) of each frame; NaN in the first ones.
        onset: frame before which the anomaly begins; T if it never could.
    """

    surprise: FloatArray
    onset: int


class Detector:
    """Plays with the virtual arm and watches the surprise."""

    def __init__(
        self, checkpoint: Checkpoint, arm: ArmConfig, sim: SimConfig, play: CollectConfig
    ) -> None:
        """Prepares world and belief.

        Raises:
            CheckpointError: for another robot, or without belief heads.
        """
        check_contract(checkpoint.contract, make_contract(arm, sim.time))
        heads = load_belief_heads(checkpoint)
        if heads is None:
            raise CheckpointError(
                f'{checkpoint.folder} has no belief heads; run jepa-arm belief first'
            )
        assert isinstance(checkpoint.model, WorldModel)  # others have no belief heads
        self._model, self._time, self._play = checkpoint.model, sim.time, play
        self._arm = Arm(arm)
        self._world = BulletWorld(self._arm, sim)
        read, width = checkpoint.probes.object_position, TipMotion.width
        self._belief = Belief(self._model, heads, sim.time, width, read=read)
        self._looks, self._surprise = Looks(sim.time), Surprise(heads, sim.time.control_dt)

    def close(self) -> None:
        """Frees the physics server."""
        self._world.close()

    @torch.inference_mode()
    def watch(self, seed: int, anomaly: Anomaly | None) -> Watched:
        """One episode of play with ``anomaly``; the same until it begins for a seed."""
        rng, chance = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        region = object_region(self._arm, self._play.object_min, self._play.object_max)
        scene = sample_scene(self._arm, rng, region)
        world, told, done = self._world, TipMotion(self._arm), TipMotion(self._arm)
        streamer = JointStreamer(self._arm, self._time.stream_dt)
        for part in (told, done, streamer):
            part.reset(scene.joints)
        state = world.reset(scene)
        policy = Play(self._arm, rng, region, scene)
        self._belief.reset()
        self._looks.reset()
        onset, first = FRAMES, world.image()
        surprise = np.full(FRAMES, np.nan)
        for frame in range(FRAMES):
            image = world.image()
            if anomaly is not None and frame >= onset and anomaly.image is not None:
                image = anomaly.image(image, first)
            surprise[frame] = self._see(world.time, image, state.joints, told.target)
            action = policy.act(state, told.target)
            self._belief.act(world.time, torch.tensor(action, dtype=torch.float32))
            before = told.target
            joints = told.apply(action)
            is_on = anomaly is not None and frame >= onset
            if anomaly is not None and anomaly.mirrors:
                joints = done.apply(action * (1.0, -1.0 if is_on else 1.0, 1.0))
            if not (is_on and anomaly is not None and anomaly.blocks):
                for _ in range(self._time.ticks):
                    command = streamer.step(joints)
                    world.command(command.position, command.velocity)
                    world.step()
            else:
                for _ in range(self._time.ticks):
                    world.command(state.joints, np.zeros_like(state.joints))
                    world.step()
            state = world.state()
            moves = np.linalg.norm(told.target - before) > MOVING_M
            may = {'': True, 'motion': moves, 'contact': moves and state.contact}
            if anomaly is not None and onset == FRAMES and frame >= EARLIEST - 1:
                if may[anomaly.needs]:
                    onset, first = frame + 1, world.image()
                    if anomaly.world is not None:
                        anomaly.world(world, chance)
                        state = world.state()
        return Watched(surprise, onset)

    def _see(
        self, stamp: float, image: ImageArray, joints: FloatArray, target: FloatArray
    ) -> float:
        tip = self._arm.tip_position(joints)
        proprio = torch.tensor(proprioception(joints, tip, target)[None], dtype=torch.float32)
        z, features = self._model.encode_parts(image[None], proprio)
        change = self._looks.see(stamp, image, proprio)
        shown = torch.from_numpy(image[None])
        frame = self._belief.frame(stamp, z, proprio, features, change, image=shown)
        self._belief.see(stamp, z, proprio)
        return np.nan if frame is None else self._surprise.of(frame, stamp).value


def measure_surprise(
    checkpoint: Checkpoint,
    arm: ArmConfig,
    sim: SimConfig,
    play: CollectConfig,
    episodes: int,
    seed: int,
    progress: bool = True,
) -> dict[str, Any]:
    """AUROC, and delay at one false alarm in 10 minutes, of each anomaly.

    Scenes have seeds ``EVALUATION_SEED + seed + i``, which data collection never uses. What is
    usual comes from as many episodes without anomaly for each anomaly.

    Raises:
        CheckpointError: for another robot, or without belief heads.
    """
    detector = Detector(checkpoint, arm, sim, play)
    seeds = [EVALUATION_SEED + seed + i for i in range(episodes)]
    with tqdm(total=episodes * (len(ANOMALIES) + 1), unit='ep', disable=not progress) as bar:

        def watch(anomaly: Anomaly | None) -> list[Watched]:
            bar.set_description(anomaly.name if anomaly else 'usual')
            found = []
            for scene_seed in seeds:
                found.append(detector.watch(scene_seed, anomaly))
                bar.update()
            return found

        usual = np.concatenate([w.surprise[WARM_UP:] for w in watch(None)])
        rows = [_row(anomaly, watch(anomaly), usual, sim) for anomaly in ANOMALIES]
    detector.close()
    minutes = len(usual) * sim.time.control_dt / 60.0
    return {
        'episodes': episodes,
        'seed': seed,
        'usual_minutes': minutes,
        'false_alarms': int((usual > 1.0).sum()),
        'false_alarms_per_10_minutes': float((usual > 1.0).sum()) / minutes * 10.0,
        'rows': rows,
        'checkpoint': checkpoint.folder.name,
        'git': git_hash(),
        'machine': machine(),
    }


def _row(
    anomaly: Anomaly, watched: list[Watched], usual: FloatArray, sim: SimConfig
) -> dict[str, Any]:
    begun = [w for w in watched if w.onset + WINDOW <= FRAMES]
    after = np.array([w.surprise[w.onset : w.onset + WINDOW] for w in begun])
    windows = usual[: len(usual) // WINDOW * WINDOW].reshape(-1, WINDOW)
    delays = []
    for w in begun:
        alarms = np.flatnonzero(w.surprise[w.onset :] > 1.0)
        if len(alarms):
            delays.append(alarms[0] * sim.time.control_dt)
    return {
        'anomaly': anomaly.name,
        'what': anomaly.what,
        'episodes': len(begun),
        'auroc_frame': _auroc(after.ravel(), usual),
        'auroc_window': _auroc(after.max(1), windows.max(1)),
        'noticed': len(delays) / len(begun) if begun else None,
        'median_delay_s': float(np.median(delays)) if delays else None,
    }


def _auroc(unusual: FloatArray, usual: FloatArray) -> float | None:
    values = torch.from_numpy(np.concatenate([unusual, usual]))
    labels = torch.from_numpy(np.arange(len(values)) < len(unusual))
    return auroc(values, labels)


def format_surprise(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        f'{"anomaly":20s} {"n":>4s} {"AUROC frame":>12s} {"max of 6":>9s} {"noticed":>8s} '
        f'{"median delay":>13s}'
    ]
    for row in report['rows']:
        delay = '-' if row['median_delay_s'] is None else f'{row["median_delay_s"]:.1f} s'
        noticed = '-' if row['noticed'] is None else f'{row["noticed"]:.0%}'
        lines.append(
            f'{row["anomaly"]:20s} {row["episodes"]:4d} {row["auroc_frame"]:12.3f} '
            f'{row["auroc_window"]:9.3f} {noticed:>8s} {delay:>13s}'
        )
    lines.append(
        f'{report["false_alarms"]} false alarms in {report["usual_minutes"]:.0f} minutes of '
        f'play without anomaly: {report["false_alarms_per_10_minutes"]:.1f} in 10 minutes'
    )
    return '\n'.join(lines)
