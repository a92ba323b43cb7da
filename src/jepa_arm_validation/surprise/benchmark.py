"""Surprise benchmark: how reliably and how soon anomalies raise the surprise of the belief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from jepa_arm.belief.belief import Belief, EncodedObservation
from jepa_arm.belief.image_change import ImageChangeDetector
from jepa_arm.belief.surprise import SurpriseDetector
from jepa_arm.config import ArmConfig, CollectConfig, SimConfig
from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.datasets.collection import sample_scene
from jepa_arm.evaluation.report import format_number
from jepa_arm.model.checkpoint import Checkpoint, check_contract, load_belief_heads
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.model.world_model import WorldModel
from jepa_arm.robot.action_space import TipMotion, make_contract, proprioception
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.play_policy import PlayPolicy
from jepa_arm.sim.scene_sampling import reachable_object_region
from jepa_arm.sim.tasks import EVALUATION_SEED
from jepa_arm.training.belief.report import auroc

from .anomalies import ANOMALIES, NO_ANOMALY, Anomaly

FRAMES = 75
"""Number of frames of an episode."""
EARLIEST_ONSET = 25
"""First frame at which an anomaly may begin, as soon as its condition holds."""
WARM_UP = 5
"""Number of frames at the start of an episode that are not judged."""
WINDOW = 6
"""Number of frames after the onset that are judged, singly and by their largest surprise."""
MOVING_M = 0.008
"""Displacement of the tip's setpoint in a control step above which the tip counts as moving."""


@dataclass(frozen=True)
class SurpriseTrace:
    """Surprise over one episode.

    Attributes:
        surprise: (T,) per frame, in multiples of the alarm threshold; NaN in the first frames.
        onset: first frame with the anomaly; T if its condition never held.
    """

    surprise: FloatArray
    onset: int


class SurpriseBenchmark:
    """Runner of play episodes in the simulated world that rates the surprise of each frame."""

    def __init__(
        self, checkpoint: Checkpoint, arm: ArmConfig, sim: SimConfig, play: CollectConfig
    ) -> None:
        """Build world and belief.

        Raises:
            CheckpointError: the checkpoint is for another robot or has no belief heads.
        """
        check_contract(checkpoint.contract, make_contract(arm, sim.time))
        heads = load_belief_heads(checkpoint)
        if heads is None:
            raise CheckpointError(
                f'{checkpoint.folder} has no belief heads; run jepa-arm train --only belief first'
            )
        assert isinstance(checkpoint.model, WorldModel)  # other models have no belief heads
        self.checkpoint, self.time = checkpoint, sim.time
        self._model, self._play = checkpoint.model, play
        self._arm = Arm(arm)
        self._world = BulletWorld(self._arm, sim)
        read, width = checkpoint.probes.object_position, TipMotion.width
        self._belief = Belief(self._model, heads, sim.time, action_width=width, read=read)
        self._image_change = ImageChangeDetector(sim.time)
        self._surprise = SurpriseDetector(heads, sim.time.control_dt)

    def close(self) -> None:
        """Close the simulation."""
        self._world.close()

    @torch.inference_mode()
    def run_episode(self, seed: int, anomaly: Anomaly = NO_ANOMALY) -> SurpriseTrace:
        """Run one play episode; up to the onset, it depends on ``seed`` alone."""
        rng, anomaly_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        region = reachable_object_region(self._arm, self._play.object_min, self._play.object_max)
        scene = sample_scene(self._arm, rng, region)
        world = self._world
        commanded, executed = TipMotion(self._arm), TipMotion(self._arm)
        streamer = JointStreamer(self._arm, self.time.stream_dt)
        for part in (commanded, executed, streamer):
            part.reset(scene.joints)
        state = world.reset(scene)
        policy = PlayPolicy(self._arm, rng, region, scene)
        self._belief.reset()
        self._image_change.reset()
        onset, onset_image = FRAMES, world.image()
        surprise = np.full(FRAMES, np.nan)
        for frame in range(FRAMES):
            is_on = frame >= onset
            image = world.image()
            if is_on and anomaly.change_image is not None:
                image = anomaly.change_image(image, onset_image)
            surprise[frame] = self._observe(world.time, image, state.joints, commanded.target)
            action = policy.act(state, commanded.target)
            self._belief.record_action(world.time, torch.tensor(action, dtype=torch.float32))
            before = commanded.target
            joints = commanded.apply(action)
            if anomaly.mirrors_actions:
                joints = executed.apply(action * (1.0, -1.0 if is_on else 1.0, 1.0))
            self._move(streamer, joints, is_blocked=is_on and anomaly.blocks_arm)
            state = world.state()
            is_moving = bool(np.linalg.norm(commanded.target - before) > MOVING_M)
            holds = {'': True, 'motion': is_moving, 'contact': is_moving and state.contact}
            if onset == FRAMES and frame >= EARLIEST_ONSET - 1 and holds[anomaly.requires]:
                onset, onset_image = frame + 1, world.image()
                if anomaly.change_world is not None:
                    anomaly.change_world(world, anomaly_rng)
                    state = world.state()
        return SurpriseTrace(surprise, onset)

    def _observe(
        self, stamp: float, image: ImageArray, joints: FloatArray, target: FloatArray
    ) -> float:
        """Update the belief with an observation; return the observation's surprise."""
        tip = self._arm.tip_position(joints)
        proprio = torch.tensor(proprioception(joints, tip, target)[None], dtype=torch.float32)
        z, features = self._model.encode_with_features(image[None], proprio)
        encoded = EncodedObservation(stamp, image[None], proprio, z, features)
        change = self._image_change.update(stamp, image, proprio)
        frame = self._belief.compare(encoded, change)
        self._belief.update(stamp, z, proprio)
        return np.nan if frame is None else self._surprise.rate(frame, stamp).value

    def _move(self, streamer: JointStreamer, joints: FloatArray, is_blocked: bool) -> None:
        """Move the arm towards ``joints`` (J,) for one control step; a blocked arm stays put."""
        start = self._world.state().joints
        for _ in range(self.time.ticks):
            if is_blocked:
                self._world.command(start, np.zeros_like(start))
            else:
                command = streamer.step(joints)
                self._world.command(command.position, command.velocity)
            self._world.step()


def measure_surprise(benchmark: SurpriseBenchmark, episodes: int, seed: int) -> dict[str, Any]:
    """Measure the AUROC and the alarm delay for each anomaly, and the number of false alarms.

    The positives are ``episodes`` episodes with each anomaly, the negatives as many episodes of
    the same scenes without one. Data collection never uses these scenes.

    Args:
        benchmark: benchmark to run; closed at the end.
        episodes: number per anomaly.
        seed: scenes have the seeds ``EVALUATION_SEED + seed + i``.
    """
    dt = benchmark.time.control_dt
    traces: dict[str, list[SurpriseTrace]] = {}
    for anomaly in (NO_ANOMALY, *ANOMALIES):
        seeds = range(EVALUATION_SEED + seed, EVALUATION_SEED + seed + episodes)
        bar = tqdm(seeds, unit='ep', desc=anomaly.name)
        traces[anomaly.name] = [benchmark.run_episode(scene, anomaly) for scene in bar]
    benchmark.close()
    normal = np.concatenate([t.surprise[WARM_UP:] for t in traces[NO_ANOMALY.name]])
    rows = [_measure_anomaly(a, traces[a.name], normal, dt) for a in ANOMALIES]
    minutes, false_alarms = len(normal) * dt / 60.0, int((normal > 1.0).sum())
    return {
        'episodes': episodes,
        'seed': seed,
        'normal_minutes': minutes,
        'false_alarms': false_alarms,
        'false_alarms_per_10_minutes': false_alarms / minutes * 10.0,
        'rows': rows,
        'checkpoint': benchmark.checkpoint.folder.name,
    }


def _measure_anomaly(
    anomaly: Anomaly, traces: list[SurpriseTrace], normal: FloatArray, control_dt: float
) -> dict[str, Any]:
    """Return the figures of one anomaly, from episodes with at least ``WINDOW`` frames of it."""
    traces = [t for t in traces if t.onset + WINDOW <= FRAMES]
    after = np.array([t.surprise[t.onset : t.onset + WINDOW] for t in traces])
    windows = normal[: len(normal) // WINDOW * WINDOW].reshape(-1, WINDOW)
    alarms = [np.flatnonzero(t.surprise[t.onset :] > 1.0) for t in traces]
    delays = [frames[0] * control_dt for frames in alarms if len(frames)]
    return {
        'anomaly': anomaly.name,
        'description': anomaly.description,
        'episodes': len(traces),
        'auroc_frame': _auroc(after.ravel(), normal),
        'auroc_window': _auroc(after.max(1), windows.max(1)),
        'detected': len(delays) / len(traces) if traces else None,
        'median_delay_s': float(np.median(delays)) if delays else None,
    }


def _auroc(anomalous: FloatArray, normal: FloatArray) -> float | None:
    values = torch.from_numpy(np.concatenate([anomalous, normal]))
    labels = torch.from_numpy(np.arange(len(values)) < len(anomalous))
    return auroc(values, labels)


def format_surprise(report: dict[str, Any]) -> str:
    """Return the report as a table for a terminal."""
    lines = [
        f'{"anomaly":20s} {"n":>4s} {"AUROC frame":>12s} {"max of 6":>9s} {"detected":>8s} '
        f'{"median delay":>13s}'
    ]
    for row in report['rows']:
        delay = format_number(row['median_delay_s'], '.1f', ' s')
        detected = format_number(row['detected'], '.0%')
        lines.append(
            f'{row["anomaly"]:20s} {row["episodes"]:4d} {row["auroc_frame"]:12.3f} '
            f'{row["auroc_window"]:9.3f} {detected:>8s} {delay:>13s}'
        )
    lines.append(
        f'{report["false_alarms"]} false alarms in {report["normal_minutes"]:.0f} minutes of '
        f'play without anomaly: {report["false_alarms_per_10_minutes"]:.1f} in 10 minutes'
    )
    return '\n'.join(lines)
