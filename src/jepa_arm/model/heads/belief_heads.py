"""Belief heads: small networks that the belief needs besides encoder and predictor.

They are trained on frozen latents after the world model. They propagate the belief without images
(``PushDynamics``, ``StateEncoder``), estimate its error (``PositionStdHead``), and give the
expected values and errors that surprise is measured against (``ExpectedErrorHead``,
``TipMotionHead``, ``ImageTipHead``, ``ImageChangeHead``, ``CameraPoseHead``, ``ContactHead``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jepa_arm.model.networks import mlp
from jepa_arm.model.world_model import Normaliser, ProprioceptionScaler

from .camera_pose import CameraPoseHead
from .probes import COVERAGE, COVERAGE_CHI_SQUARED
from .push_dynamics import PushDynamics

SUBJECTS = ('tip', 'object')
REGIMES = ('still', 'moving', 'contact')
"""Regimes in which surprise is calibrated: arm at rest, arm moving, arm touching the object."""
CHANNELS = (
    'latent', 'long_horizon', 'tip_motion', 'image_tip', 'camera_pose', 'background', 'palette',
    'image_change',
)  # fmt: skip
"""Channels of surprise: the latent one model step ahead and ``LONG_HORIZON_STEPS`` ahead; the
tip's measured motion; the tip's position in the image; the camera's pose; image regions that
should not change; colours never seen before; the amount of change in the image. A blocked arm
shows in ``tip_motion``, a frozen camera in ``image_change``."""
LONG_HORIZON_STEPS = 3
"""Model steps of the long-horizon prediction."""
CELL_GRID = 16, 20
"""Rows and columns of cells into which an image is divided to compare brightness."""
MIN_CELL_LOG_VAR = 2.0 * math.log(1.5 / 255.0)
"""Smallest log variance of a cell's brightness, due to camera noise."""
TIP_COLUMNS, TARGET_OFFSET_COLUMNS = slice(-6, -3), slice(-3, None)
"""Columns of the tip position, and of tip target minus tip position, in proprioception."""
REST_ACTION = 0.08
"""An action block counts as rest if all its actions are smaller in magnitude."""
PROPRIO_STEP_GAIN = 5.0
"""Gain on changes of proprioception per control step, which are small."""
LATENT_STEP_GAIN = 2.0
"""Gain on changes of a latent per model step, which are small."""
BLIND_TIME_SCALE_S = 0.5
CALIBRATION_STEP_S, CALIBRATION_STEPS = 0.2, 16
"""Spacing and number of the blind times at which position errors are calibrated."""
OBJECT_NEAR_M, TABLE_CENTRE_M, TABLE_SCALE_M = 0.05, (0.5, 0.0), 0.12
"""Scaling of inputs: unit of the object's offset from the tip; table centre; unit from there."""
MIN_LOG_VAR, MAX_LOG_VAR = -8.0, 8.0
SETPOINT_SCALE_M, MIN_TIP_MOTION_LOG_VAR = 0.05, -14.0
"""Unit of the setpoint's offset as an input; smallest log variance (cm^2) of the tip's motion."""


class StateEncoder(nn.Module):
    """Encoder from proprioception and object pose to the latent of the corresponding image."""

    def __init__(self, latent_dim: int, normaliser: Normaliser, width: int = 192) -> None:
        super().__init__()
        self.proprio_scaler = ProprioceptionScaler(normaliser)
        self.net = mlp(len(self.proprio_scaler.mean) + 7, width, latent_dim, hidden=3)

    def forward(self, proprio: Tensor, position: Tensor, yaw: Tensor) -> Tensor:
        """Return latents (B, D).

        Args:
            proprio: (B, P), see ``robot.action_space.proprioception``.
            position: (B, 3) m, the object's centre.
            yaw: (B,) rad modulo quarter turns; NaN if unknown.
        """
        from_tip = (position - proprio[:, TIP_COLUMNS]) / OBJECT_NEAR_M
        turn = torch.stack([torch.sin(4.0 * yaw), torch.cos(4.0 * yaw)], dim=1)
        turn = torch.where(torch.isnan(turn), 0.0, turn)
        on_table = (position[:, :2] - position.new_tensor(TABLE_CENTRE_M)) / TABLE_SCALE_M
        return self.net(torch.cat([self.proprio_scaler(proprio), from_tip, turn, on_table], dim=1))


class PositionStdHead(nn.Module):
    """Head that predicts the error of positions that probes read from a belief.

    The error is modelled as an isotropic Gaussian. ``scale`` calibrates its 90 % region to contain
    90 % of positions, for unknown and known yaws and ``CALIBRATION_STEPS`` times without images.
    """

    scale: Tensor

    def __init__(self, latent_dim: int, width: int = 128) -> None:
        super().__init__()
        self.net = mlp(latent_dim + 3, width, len(SUBJECTS))
        self.register_buffer('scale', torch.ones(2, CALIBRATION_STEPS, len(SUBJECTS)))

    def forward(self, z: Tensor, blind_s: Tensor, yaw: Tensor) -> Tensor:
        """Return the per-axis error (B, 2) m, a standard deviation, of tip and object position.

        Args:
            z: (B, D).
            blind_s: (B,) s since the last image.
            yaw: (B,) rad, yaw of the object; NaN if unknown.
        """
        is_known = torch.isfinite(yaw)
        blind = blind_s[:, None] / BLIND_TIME_SCALE_S
        features = [z, torch.log1p(blind), blind / (1.0 + blind), is_known.float()[:, None]]
        log_cm = self.net(torch.cat(features, dim=-1))
        scales = self.scale[is_known.long()]
        at = (blind_s / CALIBRATION_STEP_S).clamp(0.0, CALIBRATION_STEPS - 1.0)
        low, rows = at.long().clamp(max=CALIBRATION_STEPS - 2), torch.arange(len(z))
        scale = torch.lerp(scales[rows, low], scales[rows, low + 1], (at - low)[:, None])
        return log_cm.clamp(MIN_LOG_VAR, MAX_LOG_VAR).exp() * 0.01 * scale

    def calibrate(self, is_known: bool, squared: Tensor, model_dt: float) -> None:
        """Set ``scale`` so that 90 % regions contain 90 % of the positions (split-conformal).

        There is one scale per time without images; times beyond the L given use the last.

        Args:
            is_known: whether to set the scales for known yaws or those for unknown yaws.
            squared: (B, L, 2) squared errors divided by the variances predicted so far, 0, 1, ...,
                L - 1 model steps after the last image.
            model_dt: s, duration of a model step.
        """
        scale = (torch.quantile(squared, COVERAGE, dim=0) / COVERAGE_CHI_SQUARED).sqrt()
        steps = (torch.arange(CALIBRATION_STEPS) * CALIBRATION_STEP_S / model_dt).round().long()
        self.scale[int(is_known)] *= scale[steps.clamp(max=len(scale) - 1)]


class ExpectedErrorHead(nn.Module):
    """Head that predicts the variance of prediction errors, for instance per latent dimension."""

    def __init__(self, latent_dim: int, block: int, outputs: int, width: int = 256) -> None:
        super().__init__()
        self.net = mlp(2 * latent_dim + block, width, outputs)

    def forward(self, z: Tensor, predicted: Tensor, action_block: Tensor) -> Tensor:
        """Return log variances (B, outputs); ``action_block`` leads from ``z`` to ``predicted``.

        Shapes: ``z`` and ``predicted`` (B, D), ``action_block`` (B, block).
        """
        features = torch.cat([z, predicted - z, action_block], dim=-1)
        return self.net(features).clamp(-MAX_LOG_VAR - 4.0, MAX_LOG_VAR)


class ContactHead(nn.Module):
    """Classifier of contact between arm and object, for observed or predicted latents.

    The change of the latent is an input because the object's motion reveals contact better than
    its distance to the tip, which probes do not read precisely enough.
    """

    def __init__(self, latent_dim: int, width: int = 128) -> None:
        super().__init__()
        self.net = mlp(2 * latent_dim, width, 1)

    def forward(self, z: Tensor, z_prev: Tensor) -> Tensor:
        """Return the logit (...,) of contact at latents ``z`` (..., D).

        ``z_prev`` (..., D) are the latents one model step earlier.
        """
        return self.net(torch.cat([z, (z - z_prev) * LATENT_STEP_GAIN], dim=-1))[..., 0]


class TipMotionHead(nn.Module):
    """Head that predicts the tip's displacement in a control step from its motion and setpoints.

    Setpoints are a better input than actions, because they stop at the edge of the workspace.
    """

    def __init__(self, normaliser: Normaliser, width: int = 256) -> None:
        super().__init__()
        self.proprio_scaler = ProprioceptionScaler(normaliser)
        self.net = mlp(2 * (len(self.proprio_scaler.mean) - 3) + 6, width, 6, hidden=3)

    def forward(self, recent: Tensor, setpoints: Tensor) -> tuple[Tensor, Tensor]:
        """Return the displacement (B, 3) m and its log variance (B, 3) in cm^2.

        Args:
            recent: (B, 2, P), proprioception one and two control steps ago.
            setpoints: (B, 2, 3) m, tip setpoints now and one control step ago.
        """
        moved = (recent[:, 0] - recent[:, 1]) / self.proprio_scaler.std * PROPRIO_STEP_GAIN
        ahead = (setpoints - recent[:, :1, TIP_COLUMNS]) / SETPOINT_SCALE_M
        # the tip target's offset is left out: ``setpoints`` contains it
        scaled = self.proprio_scaler(recent[:, 0])
        features = [scaled[:, :-3], moved[:, :-3], ahead.flatten(1)]
        return _gaussian(self.net(torch.cat(features, dim=-1)), MIN_TIP_MOTION_LOG_VAR)


class ImageTipHead(nn.Module):
    """Head that estimates the tip position from image features alone."""

    def __init__(self, features: int, width: int = 128) -> None:
        super().__init__()
        self.net = mlp(features, width, 6)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position (B, 3) m and its log variance (B, 3) in cm^2.

        ``features`` (B, F) are the image features of ``WorldModel.encode_with_features``.
        """
        return _gaussian(self.net(features))


class ImageChangeHead(nn.Module):
    """Head that predicts from the arm's motion how much the image changes in a control step."""

    def __init__(self, latent_dim: int, normaliser: Normaliser, width: int = 128) -> None:
        super().__init__()
        self.proprio_scaler = ProprioceptionScaler(normaliser)
        self.net = mlp(2 * len(self.proprio_scaler.mean) + latent_dim, width, 2)

    def forward(self, z: Tensor, before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (B,) and log variance (B,) of the log of the brightness change.

        Args:
            z: (B, D), latent one model step ago.
            before, now: (B, P), proprioception one control step ago and now.
        """
        moved = (now - before) / self.proprio_scaler.std * PROPRIO_STEP_GAIN
        features = torch.cat([self.proprio_scaler(now), moved, z], dim=-1)
        mean, log_var = self.net(features).T
        return mean, log_var.clamp(-6.0, MAX_LOG_VAR)


def _gaussian(out: Tensor, min_log_var: float = MIN_LOG_VAR) -> tuple[Tensor, Tensor]:
    """Return mean (B, 3) m and log variance (B, 3) in cm^2 of network outputs (B, 6)."""
    mean, log_var = out.split(3, dim=-1)
    return mean * 0.1, log_var.clamp(min_log_var, MAX_LOG_VAR)


class BeliefHeads(nn.Module):
    """All heads of the belief and the calibration of surprise, for one world model.

    Attributes:
        tail_fit: (C, R, 3), tail of the scores of each of ``CHANNELS`` in each of ``REGIMES``, see
            ``fit_tail``.
        pair_tail_fit: (C, R, 3), the same for pairs of successive frames.
        alarm_threshold: improbability that corresponds to a surprise of 1.
    """

    tail_fit: Tensor
    pair_tail_fit: Tensor
    alarm_threshold: Tensor

    def __init__(
        self,
        latent_dim: int,
        normaliser: Normaliser,
        block: int,
        features: int,
        image_size: tuple[int, int],
    ) -> None:
        """Build untrained heads.

        Args:
            latent_dim: latent dimension D.
            normaliser: statistics of proprioception.
            block: number of values K*A in an action block.
            features: number of image features.
            image_size: (h, w) px.
        """
        super().__init__()
        long_block = LONG_HORIZON_STEPS * block
        self.push_dynamics = PushDynamics()
        self.state_encoder = StateEncoder(latent_dim, normaliser)
        self.position_std = PositionStdHead(latent_dim)
        self.latent_error = ExpectedErrorHead(latent_dim, block, latent_dim)
        self.long_horizon_error = ExpectedErrorHead(latent_dim, long_block, latent_dim)
        self.tip_motion = TipMotionHead(normaliser)
        self.image_tip = ImageTipHead(features)
        self.camera_pose = CameraPoseHead(normaliser, *image_size)
        self.contact = ContactHead(latent_dim)
        self.background_error = ExpectedErrorHead(latent_dim, long_block, math.prod(CELL_GRID))
        self.image_change = ImageChangeHead(latent_dim, normaliser)
        for name in ('tail_fit', 'pair_tail_fit'):
            self.register_buffer(name, torch.zeros(len(CHANNELS), len(REGIMES), 3))
        self.register_buffer('alarm_threshold', torch.ones(()))
