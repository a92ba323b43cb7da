"""Training of the belief heads on frozen latents; see ``BeliefHeads``.

Push dynamics are trained along windows, each pose predicted from the prediction before it: single
steps would not show how errors grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_arm.belief.surprise import (
    LatentPrediction,
    PredictedFrame,
    ScoredFrames,
    fit_surprise,
    max_improbability,
)
from jepa_arm.config import BeliefConfig
from jepa_arm.model.checkpoint import load_checkpoint, new_belief_heads
from jepa_arm.model.checkpoint_files import add_module, round_weights
from jepa_arm.model.heads.belief_heads import MIN_CELL_LOG_VAR, TIP_COLUMNS, BeliefHeads
from jepa_arm.model.world_model import WorldModel
from jepa_arm.training.cpu import TrainedParts, load_parts, parts_of, worker_pool
from jepa_arm.training.encoding import BATCH, HeadTraining
from jepa_arm.training.fit import ScheduledOptimizer, adamw, fit, muon_and_adamw

from .camera_pose import train_camera_pose
from .latent_windows import (
    PUSH_STEPS,
    LatentEpisodes,
    LatentWindows,
    LatentWindowSampler,
    belief_errors,
    follow_object,
    predict_open_loop,
    predicted_frames,
    score_frames,
)
from .report import CONTACT_STEPS, MEASURED_WINDOWS, count_alarms, measure_belief

UNKNOWN_YAW_SHARE = 0.15
"""Share of samples in the training of the state encoder that lack the object's yaw."""
MIN_MOVING_SHARE = 0.8
"""Smallest share of windows with a moving object in the training of the push dynamics."""
POSITION_SCALE_M, YAW_WEIGHT, MIN_SQUARED = 0.01, 0.3, 0.01
"""Loss of push dynamics: unit of position errors; weight of yaw errors, which lie in [0, 2]; value
added to squared distances, in that unit, before the root."""
CAMERA_POSE_FRAMES, CALIBRATION_FRAMES = 20000, 4000
"""Numbers of images that train the camera pose head, and of others that calibrate it."""


def train_belief(inputs: HeadTraining, config: BeliefConfig) -> dict[str, Any]:
    """Train the belief heads, measure them and add them to the checkpoint.

    Half of the held-out episodes calibrate position errors, the other half measures them. Surprise
    is calibrated on all held-out episodes; its false alarms are counted in each half after
    calibration on the other. The heads that propagate the belief are trained in this process, the
    others in two more. The checkpoint gets ``belief.safetensors``.

    Returns:
        The report, which ``config.json`` holds under ``belief``.

    Raises:
        CheckpointError, DataError: a file cannot be used.
        TrainingError: a loss is not finite.
    """
    job = _BeliefTraining(inputs, config)
    heads, seed, held_out = job.heads, inputs.seed, inputs.encoded.held_out
    calibration, measured = held_out[::2], held_out[1::2]
    sampler = job.sampler(inputs.encoded.training, seed)
    with worker_pool(2) as pool:
        jobs = _train_expected_errors, _train_camera_pose_and_contact
        others = [pool.submit(train, inputs, config) for train in jobs]
        _train_push_dynamics(job, sampler)
        _train_state_encoder(job, sampler)
        for part in (heads.push_dynamics, heads.state_encoder):
            round_weights(part)
        _train_position_std(job, sampler)
        load_parts(heads, (other.result() for other in others))
    round_weights(heads)
    heads.eval().requires_grad_(False)
    windows = job.sampler(calibration, [seed, 1]).sample(MEASURED_WINDOWS)
    _calibrate_position_std(job, windows)
    halves = [score_frames(job.model, heads, job.latents, h) for h in (calibration, measured)]
    sampler = job.sampler(measured, [seed, 2])
    report = {
        **inputs.describe(config),
        **measure_belief(job.checkpoint, heads, sampler, config.blind_steps),
        'surprise': _calibrate_surprise(heads, halves, job.checkpoint.contract.time.control_dt),
    }
    add_module(inputs.folder, 'belief', heads, report)
    return report


class _BeliefTraining:
    """Checkpoint, heads and data of a process that trains some of the heads.

    Attributes:
        inputs, config: see ``train_belief``.
        checkpoint, model: frozen.
        heads: the belief heads, untrained at first.
        latents: latents of the episodes.
    """

    def __init__(self, inputs: HeadTraining, config: BeliefConfig) -> None:
        self.inputs, self.config = inputs, config
        self.checkpoint = load_checkpoint(inputs.folder)
        with torch.random.fork_rng():
            torch.manual_seed(inputs.seed)
            self.heads = new_belief_heads(self.checkpoint)
        assert isinstance(self.checkpoint.model, WorldModel)
        self.model = self.checkpoint.model
        self.latents = LatentEpisodes(self.checkpoint, inputs.encoded)

    def sampler(self, episodes: NDArray[np.int64], seed: int | list[int]) -> LatentWindowSampler:
        """Return a sampler of windows of ``episodes``."""
        rng = np.random.default_rng(seed)
        return LatentWindowSampler(self.latents, episodes, self.config.blind_steps, rng)

    def adamw(self, module: nn.Module) -> ScheduledOptimizer:
        """Return AdamW for ``module`` with the configured number of steps."""
        return adamw(module, self.config.steps, self.config.learning_rate)

    def rows(self, rng: np.random.Generator, count: int) -> Tensor:
        """Return a batch of random row indices below ``count``."""
        return torch.from_numpy(rng.integers(0, count, self.config.batch))


def _train_expected_errors(inputs: HeadTraining, config: BeliefConfig) -> TrainedParts:
    """Train the heads that predict expected values and errors; return their weights by name."""
    job, encoded = _BeliefTraining(inputs, config), inputs.encoded
    rng = np.random.default_rng([inputs.seed, 3])
    chosen = rng.permutation(encoded.training)[: config.expected_error_episodes]
    frames = predicted_frames(job.model, job.latents, chosen, colours=False)
    losses = _expected_error_losses(job, frames, rng)
    for name, loss in losses.items():
        module = getattr(job.heads, name)
        fit(module, loss, job.adamw(module), name)
    _train_tip_motion(job, frames, rng)
    return parts_of(job.heads, *losses, 'tip_motion')


def _train_camera_pose_and_contact(inputs: HeadTraining, config: BeliefConfig) -> TrainedParts:
    """Train the camera pose head and the contact head; return their weights by name."""
    job, encoded = _BeliefTraining(inputs, config), inputs.encoded
    sampler = job.sampler(encoded.training, [inputs.seed, 4])
    _train_camera_pose(job, sampler.rng)
    _train_contact(job, sampler)
    return parts_of(job.heads, 'camera_pose', 'contact')


def _train_push_dynamics(job: _BeliefTraining, sampler: LatentWindowSampler) -> None:
    """Train the push dynamics on windows, in most of which the object moves."""
    dynamics, config = job.heads.push_dynamics, job.config

    def loss(step: int) -> Tensor:
        windows = sampler.sample(config.push_batch, MIN_MOVING_SHARE).first(PUSH_STEPS)
        poses = follow_object(dynamics, windows)
        position = torch.stack([p.position for p in poses], dim=1)
        yaw = torch.stack([p.yaw for p in poses], dim=1)
        error = (position - windows.object_path[..., :3])[..., :2] / POSITION_SCALE_M
        distance = (error.square().sum(-1) + MIN_SQUARED).sqrt().mean()
        yaw_error = (1.0 - torch.cos(4.0 * (yaw - windows.object_path[..., 3]))).mean()
        return distance + YAW_WEIGHT * yaw_error

    optimizer = adamw(dynamics, config.push_steps, config.learning_rate)
    fit(dynamics, loss, optimizer, 'push dynamics')


def _train_state_encoder(job: _BeliefTraining, sampler: LatentWindowSampler) -> None:
    """Train the state encoder by squared latent error, with some yaws unknown, as at run time."""
    encoder, config, rng = job.heads.state_encoder, job.config, sampler.rng
    z, proprio, position, true_yaw = job.latents.states(sampler.episodes)

    def loss(step: int) -> Tensor:
        rows = job.rows(rng, len(z))
        yaw = sampler.noisy(true_yaw[rows])
        yaw[torch.from_numpy(rng.random(len(yaw)) < UNKNOWN_YAW_SHARE)] = torch.nan
        return (encoder(proprio[rows], position[rows], yaw) - z[rows]).square().mean()

    optimizer = muon_and_adamw(encoder, config.state_encoder_steps, config.learning_rate)
    fit(encoder, loss, optimizer, 'state encoder')


def _train_position_std(job: _BeliefTraining, sampler: LatentWindowSampler) -> None:
    """Train the head that predicts the std of positions propagated without images.

    It is trained by maximum likelihood, with the yaw known in most windows, unknown in the others.
    """
    config, head = job.config, job.heads.position_std
    known = sampler.sample(config.windows)
    unknown = sampler.sample(config.windows // 4).with_unknown_yaw()
    parts = [belief_errors(job.checkpoint, job.heads, w) for w in (known, unknown)]
    z, blind_s, yaw, error = map(torch.cat, zip(*parts, strict=True))

    def loss(step: int) -> Tensor:
        rows = job.rows(sampler.rng, len(z))
        std = head(z[rows], blind_s[rows], yaw[rows])
        squared = error[rows].square().sum(-1)
        return (0.5 * squared / std.square() + 3.0 * std.log()).mean()

    fit(head, loss, job.adamw(head), 'position std')


def _expected_error_losses(
    job: _BeliefTraining, frames: PredictedFrame, rng: np.random.Generator
) -> dict[str, Callable[[int], Tensor]]:
    """Return the Gaussian losses of the heads that predict expected values and errors, by name.

    All heads are trained on the same batches.
    """
    heads, f, far, change = job.heads, frames, frames.far, frames.change
    assert far is not None and change is not None
    batches = [job.rows(rng, len(f.z)) for _ in range(job.config.steps)]

    def latent(head: nn.Module, prediction: LatentPrediction, step: int) -> Tensor:
        rows = batches[step]
        past = prediction.rows(rows)
        return _gaussian_loss(f.z[rows] - past.predicted, head(*past))

    def image_tip(step: int) -> Tensor:
        rows = batches[step]
        position, log_var = heads.image_tip(f.features[rows])
        return _gaussian_loss(100.0 * (f.proprio[rows][:, TIP_COLUMNS] - position), log_var)

    def background(step: int) -> Tensor:
        rows = batches[step]
        log_var = heads.background_error(*far.rows(rows)).clamp(min=MIN_CELL_LOG_VAR)
        return _gaussian_loss(change.cells[rows], log_var)

    def image_change(step: int) -> Tensor:
        rows = batches[step]
        proprio = change.proprio[rows], f.proprio[rows]
        mean, log_var = heads.image_change(f.near.before[rows], *proprio)
        return _gaussian_loss(change.motion[rows] - mean, log_var)

    return {
        'latent_error': partial(latent, heads.latent_error, f.near),
        'long_horizon_error': partial(latent, heads.long_horizon_error, far),
        'image_tip': image_tip,
        'background_error': background,
        'image_change': image_change,
    }


def _train_tip_motion(
    job: _BeliefTraining, frames: PredictedFrame, rng: np.random.Generator
) -> None:
    """Train the tip motion head by Gaussian likelihood; the motion is almost fully predictable."""
    head, config = job.heads.tip_motion, job.config
    motion = 100.0 * (frames.proprio[:, TIP_COLUMNS] - frames.recent[:, 0, TIP_COLUMNS])

    def loss(step: int) -> Tensor:
        rows = job.rows(rng, len(motion))
        expected, log_var = head(frames.recent[rows], frames.tip_setpoints[rows])
        return _gaussian_loss(motion[rows] - 100.0 * expected, log_var)

    optimizer = muon_and_adamw(head, config.tip_motion_steps, config.learning_rate)
    fit(head, loss, optimizer, 'tip motion')


def _gaussian_loss(error: Tensor, log_var: Tensor) -> Tensor:
    return (error.square() * torch.exp(-log_var) + log_var).mean()


def _train_camera_pose(job: _BeliefTraining, rng: np.random.Generator) -> None:
    """Train the camera pose head and calibrate it on other frames.

    If there are too few frames, some are used for both.
    """
    head, latents = job.heads.camera_pose, job.latents
    frames = rng.permutation(latents.starts(job.inputs.encoded.training, 1))
    training = frames[:CAMERA_POSE_FRAMES]
    calibration = frames[: CAMERA_POSE_FRAMES + CALIBRATION_FRAMES][-CALIBRATION_FRAMES:]
    train_camera_pose(head, *latents.images(training), job.config.camera_pose_steps, rng)
    round_weights(head)
    with torch.inference_mode():
        parts = np.array_split(calibration, -(-len(calibration) // BATCH))
        motions = [head.estimate(*map(torch.from_numpy, latents.images(p))) for p in parts]
        head.calibrate(torch.cat(motions))


def _train_contact(job: _BeliefTraining, sampler: LatentWindowSampler) -> None:
    """Train the contact head on recorded latents and on ``CONTACT_STEPS`` predicted ones."""
    head, config = job.heads.contact, job.config
    windows = sampler.sample(config.windows)
    with torch.inference_mode():
        ahead = predict_open_loop(job.model, windows.first(CONTACT_STEPS))
    z = torch.cat([windows.z[:, :2], ahead], dim=1).clone()
    z, z_prev = z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1)
    contact = windows.contact[:, 1 : CONTACT_STEPS + 2].float().flatten()

    def loss(step: int) -> Tensor:
        rows = job.rows(sampler.rng, len(z))
        logits = head(z[rows], z_prev[rows])
        return nn.functional.binary_cross_entropy_with_logits(logits, contact[rows])

    fit(head, loss, job.adamw(head), 'contact')


@torch.inference_mode()
def _calibrate_position_std(job: _BeliefTraining, windows: LatentWindows) -> None:
    """Calibrate the predicted errors of positions, for unknown and known yaws."""
    head, model_dt = job.heads.position_std, job.checkpoint.contract.time.model_dt
    for is_known, own in ((False, windows.with_unknown_yaw()), (True, windows)):
        beliefs = belief_errors(job.checkpoint, job.heads, own)
        variance = head(beliefs.z, beliefs.blind_s, beliefs.yaw).square()
        squared = beliefs.error.square().sum(-1) / variance
        head.calibrate(is_known, squared.unflatten(0, (len(own.z), -1)), model_dt)


def _calibrate_surprise(
    heads: BeliefHeads, halves: Sequence[ScoredFrames], period_s: float
) -> dict[str, dict[str, float]]:
    """Fit tails and alarm threshold to both ``halves`` of the held-out episodes.

    Returns:
        alarms in each half after calibration on the other, see ``count_alarms``.
    """
    alarms = []
    for half, other in (halves, halves[::-1]):
        fit_surprise(heads, half, period_s)
        alarms.append((max_improbability(heads, other) > heads.alarm_threshold).numpy())
    frames = ScoredFrames(*map(np.concatenate, zip(*halves, strict=True)))
    fit_surprise(heads, frames, period_s)
    return count_alarms(np.concatenate(alarms[::-1]), frames.regimes, period_s)
