"""Training of the pose actor-critic: pushing an object to a position and a yaw.

The yaw probe is trained on image patches by the likelihood of its error on the unit circle, the
yaw change head by its absolute error, and actor and value as in ``actor_critic``, with poses that
the same episode reached later as goals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.config import PoseConfig
from jepa_arm.core.geometry import QUARTER, yaw_error
from jepa_arm.datasets.augmentation import jitter_hues
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError, add_module, round_weights
from jepa_arm.model.heads.pose_actor_critic import PoseActorCritic, motion_features, pose_features
from jepa_arm.model.heads.yaw_probe import YawProbe, crop_patches
from jepa_arm.model.numerics import mixed_precision
from jepa_arm.robot.camera import project

from .actor_critic import train_value
from .cpu import TrainedParts, load_parts, parts_of, weights_of, worker_pool
from .encoding import EncodedEpisodes, HeadTraining
from .fit import adamw, adamw_one_cycle, fit, recent_mean
from .hindsight import FIRST_FRAME_REPEATS, Batch, Trajectories

ACTION_WIDTH = 3
"""Number of directions in which actions must move the tip."""
VIEW_MARGIN_PX = 2.0
"""Margin around the image, in pixels, in which the object's centre may still lie."""
WEIGHT_DECAY = 1e-3
"""Weight decay of the yaw probe."""
PIXEL_STD = 0.3
"""Pixels, standard deviation of the noise on the object's centre on each axis, in training."""
YAW_STD = 0.03, 0.08
"""rad, standard deviation of the noise on the object's yaw in training: in four of five samples,
and in the others."""
MIN_MOTION, MIN_TURN = 0.01, 0.09
"""m and rad: goals for which the object moved or turned by more than this are preferred."""
NEAR_GOAL_STD, NEAR_YAW_STD = (0.015, 0.05), 0.15
"""m and rad, standard deviations of the offset of random goals near the object; of the two for
positions, one is drawn per goal."""


def train_pose(inputs: HeadTraining, config: PoseConfig) -> dict[str, Any]:
    """Train the pose actor-critic and add it to the checkpoint as ``pose.safetensors``.

    Returns:
        The report, which ``config.json`` holds under ``pose``, with errors of the yaw probe on
        held-out episodes.

    Raises:
        CheckpointError: actions do not move the tip in three directions.
        TrainingError: a loss is not finite.
    """
    checkpoint = load_checkpoint(inputs.folder)
    if checkpoint.contract.action_width != ACTION_WIDTH:
        raise CheckpointError(
            f'{inputs.folder}: expected actions that move the tip in {ACTION_WIDTH} directions, '
            f'got {checkpoint.contract.action_width}; goals with a yaw need all three'
        )
    networks, jobs = _new_networks(checkpoint, config), (_train_yaw_probe, _train_networks)
    with worker_pool(len(jobs)) as pool:
        futures = [pool.submit(job, inputs, config) for job in jobs]
        figures = load_parts(networks, (future.result() for future in futures))
    round_weights(networks)
    report = inputs.describe(config) | figures
    add_module(inputs.folder, 'pose', networks, report)
    return report


def _new_networks(checkpoint: Checkpoint, config: PoseConfig) -> PoseActorCritic:
    contract = checkpoint.contract
    return PoseActorCritic(contract.time.frame_skip, contract.action_width, config.max_steps)


def _train_yaw_probe(inputs: HeadTraining, config: PoseConfig) -> TrainedParts:
    """Train the yaw probe; return its weights and its errors on held-out episodes."""
    torch.manual_seed(inputs.seed)
    encoded, rng = inputs.encoded, np.random.default_rng(inputs.seed)
    episodes = encoded.episodes
    camera = load_checkpoint(inputs.folder).contract.camera
    yaw = np.asarray(episodes.object_yaw, dtype=np.float64)
    pixels = project(camera, np.asarray(episodes.object_position, dtype=np.float64))
    size = np.array([camera.width, camera.height])
    is_in_view = ((pixels > -VIEW_MARGIN_PX) & (pixels < size + VIEW_MARGIN_PX)).all(axis=1)
    rows = np.flatnonzero(is_in_view & encoded.frames_of(encoded.training))
    probe = YawProbe()
    probe.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(step: int) -> Tensor:
        batch = np.sort(rng.choice(rows, config.yaw_probe_batch))
        images = torch.from_numpy(jitter_hues(episodes.pixels[batch], rng))
        noisy = pixels[batch] + rng.normal(0.0, PIXEL_STD, (len(batch), 2))
        centres = torch.tensor(noisy, dtype=torch.float32)
        angle = torch.tensor(4.0 * yaw[batch], dtype=torch.float32)
        with mixed_precision():
            direction, log_error = probe(crop_patches(images, centres), centres)
        truth = torch.stack([torch.sin(angle), torch.cos(angle)], dim=1)
        squared = (direction.float() - truth).square().sum(1)
        return (squared * torch.exp(-log_error.float()) + log_error.float()).mean()

    steps, learning_rate = config.yaw_probe_steps, config.yaw_probe_learning_rate
    optimizer = adamw_one_cycle(probe, steps, learning_rate, WEIGHT_DECAY, float('inf'))
    fit(probe, loss, optimizer, 'yaw probe')
    round_weights(probe)
    held_out = np.flatnonzero(is_in_view & encoded.frames_of(encoded.held_out))
    errors, expected = [], []
    for batch in np.array_split(held_out, max(1, len(held_out) // 512)):
        noisy = pixels[batch] + rng.normal(0.0, PIXEL_STD, (len(batch), 2))
        read, std = probe.read(np.array(episodes.pixels[batch]), noisy)
        errors.append(np.degrees(np.abs(yaw_error(read, yaw[batch]))))
        expected.append(np.degrees(std))
    error, std = np.concatenate(errors), np.concatenate(expected)
    figures = {
        'yaw_median_deg': np.median(error),
        'yaw_p90_deg': np.percentile(error, 90),
        'yaw_rms_deg': np.sqrt(np.mean(error**2)),
        'yaw_expected_rms_deg': np.sqrt(np.mean(std**2)),
    }
    rounded = {name: round(float(value), 3) for name, value in figures.items()}
    return {'yaw_probe': weights_of(probe)}, rounded


def _train_networks(inputs: HeadTraining, config: PoseConfig) -> TrainedParts:
    """Train the yaw-change, actor and value networks; return their weights and losses."""
    torch.manual_seed(inputs.seed)
    checkpoint = load_checkpoint(inputs.folder)
    tolerance = float(np.radians(config.yaw_tolerance_deg))
    rng = np.random.default_rng(inputs.seed)
    sampler = PoseHindsightSampler(checkpoint, inputs.encoded, tolerance, rng)
    networks = _new_networks(checkpoint, config)
    yaw_change, actor, max_steps = networks.yaw_change, networks.actor, config.max_steps

    def yaw_change_loss(step: int) -> Tensor:
        batch = sampler.sample(config.batch, max_steps, random_goals=0.0)
        return (yaw_change(batch['motion']) - batch['yaw_change']).abs().mean()

    def actor_loss(step: int) -> Tensor:
        batch = sampler.sample(config.batch, max_steps, random_goals=0.0)
        remaining = batch['remaining'] / max_steps
        return -actor.log_prob(sampler.features(batch), remaining, batch['action']).mean()

    optimizer = adamw(yaw_change, config.yaw_change_steps, config.learning_rate)
    error = recent_mean(fit(yaw_change, yaw_change_loss, optimizer, 'yaw change'))
    optimizer = adamw(actor, config.actor_steps, config.learning_rate)
    log_likelihood = recent_mean(fit(actor, actor_loss, optimizer, 'pose actor'))
    value_loss = train_value(networks, sampler, config)
    return parts_of(
        networks,
        *('yaw_change', 'actor', 'value'),
        yaw_change_error_deg=round(float(np.degrees(error)), 3),
        actor_loss=round(log_likelihood, 4),
        value_loss=round(value_loss, 4),
    )


class PoseHindsightSampler:
    """Sampler of transitions with object poses as goals; see ``GoalSampler``.

    Half of the samples are mirrored at the x-z plane, because the workspace is symmetric.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoded: EncodedEpisodes,
        yaw_tolerance: float,
        rng: np.random.Generator,
    ) -> None:
        """Create the sampler of the training split.

        Args:
            checkpoint: with probes, which read tip and object from the latents.
            encoded: episodes with its latents.
            yaw_tolerance: rad, yaw error up to which a goal counts as reached.
            rng: source of randomness.
        """
        episodes, z = encoded.episodes, torch.from_numpy(encoded.z)
        self._rng, self._yaw_tolerance = rng, yaw_tolerance
        with torch.inference_mode():
            self._tip, self._object = (p.numpy().copy() for p in checkpoint.probes.read_both(z))
        self._position = np.asarray(episodes.object_position)
        self._yaw = np.asarray(episodes.object_yaw)
        self._trajectories = Trajectories.training_split(encoded)
        self._now, self._start, self._end = self._trajectories.transitions(FIRST_FRAME_REPEATS)

    def sample(self, count: int, max_steps: int, random_goals: float) -> Batch:
        """Return ``count`` transitions with goals; see ``GoalSampler.sample``.

        Returns:
            now, later (B, FEATURES) from ``pose_features``; motion (B, MOTION_FEATURES) from
            ``motion_features``; yaw_change (B,) rad in the model step; action (B, K*A) in the
            frame of the object; remaining (B,) control steps until the episode reached the goal
            (meaningless for random goals); gap (B, 2) m and rad from the object to the goal.
        """
        rng = self._rng
        pick = rng.integers(0, len(self._now), 2 * count)
        now, start, end = self._now[pick], self._start[pick], self._end[pick]
        steps = np.minimum(rng.integers(1, max_steps + 1, 2 * count), end - now)
        position, yaw = self._position[now + steps], self._yaw[now + steps]
        moved = np.linalg.norm(position - self._position[now], axis=1) > MIN_MOTION
        moved |= np.abs(yaw_error(self._yaw[now], yaw)) > MIN_TURN
        order = np.argsort(~moved & (rng.random(2 * count) < 0.8), kind='stable')[:count]
        now, start, steps = now[order], start[order], steps[order]
        position, yaw = position[order], yaw[order]
        if random_goals > 0.0:
            position, yaw = self._with_random_goals(now, position, yaw, random_goals)
        distance = np.linalg.norm((position - self._position[now])[:, :2], axis=1)
        turn = np.abs(yaw_error(self._yaw[now], yaw))
        batch = self._features_of(now, start, np.column_stack([position, yaw]))
        batch['remaining'] = torch.from_numpy(steps.astype(np.float32))
        batch['gap'] = torch.tensor(np.column_stack([distance, turn]), dtype=torch.float32)
        return batch

    def features(self, batch: Batch, later: bool = False) -> Tensor:
        """Return inputs (B, FEATURES); see ``GoalSampler.features``."""
        return batch['later' if later else 'now']

    def is_reached(self, batch: Batch, tolerance: float) -> Tensor:
        """Return the mask (B,) of reached goals; see ``GoalSampler.is_reached``."""
        return (batch['gap'] < torch.tensor([tolerance, self._yaw_tolerance])).all(dim=1)

    def _with_random_goals(
        self, now: NDArray, position: NDArray, yaw: NDArray, share: float
    ) -> tuple[NDArray, NDArray]:
        """Return the goals with a ``share`` replaced by random poses, mostly near the object."""
        rng, count = self._rng, len(now)
        is_random, is_near = rng.random(count) < share, rng.random(count) < 0.6
        elsewhere = self._now[rng.integers(0, len(self._now), count)]
        std = np.where(rng.random(count) < 0.5, *NEAR_GOAL_STD)[:, None]
        offset = rng.normal(0.0, 1.0, (count, 3)) * std * [1.0, 1.0, 0.0]
        turn = rng.normal(0.0, NEAR_YAW_STD, count)
        any_turn = (rng.random(count) - 0.5) * QUARTER
        near_yaw = self._yaw[now] + np.where(rng.random(count) < 0.5, turn, any_turn)
        random = np.where(
            is_near[:, None], self._position[now] + offset, self._position[elsewhere]
        )
        random_yaw = np.where(is_near, near_yaw, self._yaw[elsewhere])
        return (
            np.where(is_random[:, None], random, position),
            np.where(is_random, random_yaw, yaw),
        )

    def _features_of(self, now: NDArray, start: NDArray, goal: NDArray) -> Batch:
        """Return the networks' inputs and targets for ``goal`` (B, 4), half of them mirrored."""
        rng, count, skip = self._rng, len(now), self._trajectories.frame_skip
        side = np.where(rng.random(count) < 0.5, -1.0, 1.0)

        def vectors(values: NDArray) -> Tensor:
            values = values * np.stack([np.ones(count), side, np.ones(count)], axis=1)
            return torch.tensor(values, dtype=torch.float32)

        def angles(values: NDArray) -> Tensor:
            return torch.tensor(values * side, dtype=torch.float32)

        last, after = np.maximum(now - skip, start), now + skip
        noise = rng.normal(0.0, 1.0, count) * np.where(rng.random(count) < 0.8, *YAW_STD)
        goals = torch.cat([vectors(goal[:, :3]), angles(goal[:, 3])[:, None]], dim=1)
        yaw, yaw_after = self._yaw[now], self._yaw[after]
        tip = [vectors(self._tip[i]) for i in (last, now, after)]
        position = [vectors(self._object[i]) for i in (last, now, after)]
        noisy = angles(yaw + noise)
        features, frame = pose_features(noisy, (tip[1], tip[0]), (position[1], position[0]), goals)
        later = pose_features(
            angles(yaw_after + noise), (tip[2], tip[1]), (position[2], position[1]), goals
        )[0]
        actions = self._trajectories.actions
        blocks = torch.stack([vectors(actions[now + i]) for i in range(skip)], dim=1)
        change = (yaw_after - yaw + np.pi) % (2.0 * np.pi) - np.pi
        return {
            'now': features,
            'later': later,
            'motion': motion_features(noisy, (tip[1], tip[0]), (position[1], position[2]), blocks),
            'yaw_change': angles(change),
            'action': frame.from_base(blocks).flatten(1),
        }
