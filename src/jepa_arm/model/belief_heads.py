"""What a belief needs beside encoder and predictor; trained on frozen latents, never with them.

Small networks: how an object moves that is pushed (``Pushing``), what the encoder would make of an
arm and an object that nobody sees (``StateEncoder``), how far a reading of the belief may be off
(``Doubt``), how large a prediction error is usual where the arm is and for what it does
(``UsualError``), whether arm and object touch (``Contact``), how the tip follows what it is told
(``Body``), where the image alone shows it (``Sight``), and where the camera looks from (``View``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, CheckpointError, load_module
from .felt import Felt
from .pushing import Pushing
from .view import View
from .world_model import Normaliser, WorldModel

SUBJECTS = ('tip', 'object')
REGIMES = ('still', 'moving', 'contact')
"""What is happening, for what an error means: the arm rests, it moves, it touches the object."""
CHANNELS = 'world', 'outlook', 'body', 'sight', 'view', 'background', 'palette', 'motion'
"""Of surprise: the latent a model step on, and ``OUTLOOK`` on; how the tip moves; where it is
seen; where the camera looks from; what should look the same and does not; colours that were not
there; how much of the image changes. An arm that is held shows in the third, a camera that stands
still in the last."""
OUTLOOK = 3
"""Model steps."""
CELLS = 16, 20
"""Rows and columns into which an image is divided, see ``looks``."""
CELL_FLOOR = 2.0 * math.log(1.5 / 255.0)
"""Log variance of a cell's brightness that no camera is better than."""
TIP, LEAD = slice(-6, -3), slice(-3, None)
"""The tip's position in proprioception, and the target's lead over it, see
``motion.proprioception``."""
STILL_ACTION = 0.08
"""Actions below it in all values of a block are rest."""
MOVED_SCALE = 5.0
"""What an arm moves in a control step is small beside where it may be."""
STEP_SCALE = 2.0
"""What changes in a latent in a model step is small beside where it may be."""
BLIND_UNIT_S = 0.5
UNIT_S, UNITS = 0.2, 16
NEAR_M, MIDDLE_M, AROUND_M = 0.05, (0.5, 0.0), 0.12
"""m: how far an object is from a tip that is near; the table's middle, and what is far from it."""
MIN_LOG, MAX_LOG = -8.0, 8.0
TOLD_M, LEAST_BODY_LOG = 0.05, -14.0
"""How far the tip is told to go, usually; log variance of a way in cm^2 that no arm keeps to."""


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outputs),
    )


def told_by(proprio: Tensor) -> Tensor:
    """(..., 3) m, where proprioception (..., P) says that the tip was told to be."""
    return proprio[..., TIP] + proprio[..., LEAD]


def blindness(blind_s: Tensor) -> Tensor:
    """(B, 2) how networks are told of ``blind_s`` (B,) s without an image."""
    blind = blind_s[:, None] / BLIND_UNIT_S
    return torch.cat([torch.log1p(blind), blind / (1.0 + blind)], dim=-1)


class StateEncoder(Felt):
    """The latent of an arm as it feels itself, and of an object as it is taken to stand.

    It is what the encoder would make of an image of them.
    """

    def __init__(self, latent: int, normaliser: Normaliser, width: int = 192) -> None:
        super().__init__(normaliser)
        self.net = nn.Sequential(
            nn.Linear(len(self._mean) + 7, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, latent),
        )  # fmt: skip

    def forward(self, proprio: Tensor, place: Tensor, yaw: Tensor) -> Tensor:
        """Latents (B, D).

        Args:
            proprio: (B, P), see ``motion.proprioception``.
            place: (B, 3) m, of the object's middle. yaw: (B,) rad up to quarter turns, or NaN.
        """
        way = (place - proprio[:, TIP]) / NEAR_M
        turn = torch.stack([torch.sin(4.0 * yaw), torch.cos(4.0 * yaw)], dim=1)
        turn = torch.where(torch.isnan(turn), 0.0, turn)
        on_table = (place[:, :2] - place.new_tensor(MIDDLE_M)) / AROUND_M
        return self.net(torch.cat([self.felt(proprio), way, turn, on_table], dim=1))


class Doubt(nn.Module):
    """How far readings of a belief may be off.

    Told from the belief, how long it has been blind, and whether the object's yaw is known. An
    isotropic Gaussian of the error. ``unit`` scales it so that its 90 % region holds 90 %, of
    unknown and of known yaws, after each of ``UNITS`` times without images, ``UNIT_S`` apart.
    """

    unit: Tensor

    def __init__(self, latent: int, width: int = 128) -> None:
        super().__init__()
        self.net = _mlp(latent + 3, width, len(SUBJECTS))
        self.register_buffer('unit', torch.ones(2, UNITS, len(SUBJECTS)))

    def forward(self, z: Tensor, blind_s: Tensor, yaw: Tensor) -> Tensor:
        """(B, 2) m, standard deviation on each axis of tip and object.

        Args:
            z: (B, D). blind_s: (B,) s. yaw: (B,) rad, or NaN.
        """
        is_known = torch.isfinite(yaw)
        told = [z, blindness(blind_s), is_known.float()[:, None]]
        log_cm = self.net(torch.cat(told, dim=-1))
        units, at = self.unit[is_known.long()], (blind_s / UNIT_S).clamp(0.0, UNITS - 1.0)
        low, rows = at.long().clamp(max=UNITS - 2), torch.arange(len(z))
        unit = torch.lerp(units[rows, low], units[rows, low + 1], (at - low)[:, None])
        return log_cm.clamp(MIN_LOG, MAX_LOG).exp() * 0.01 * unit


class UsualError(nn.Module):
    """The variances of errors that are usual here: of each latent's prediction by default."""

    def __init__(
        self, latent: int, block: int, outputs: int | None = None, width: int = 256
    ) -> None:
        super().__init__()
        self.net = _mlp(2 * latent + block, width, latent if outputs is None else outputs)

    def forward(self, z: Tensor, predicted: Tensor, action_block: Tensor) -> Tensor:
        """(B, outputs) log variance, where ``action_block`` leads from ``z`` to ``predicted``."""
        seen = torch.cat([z, predicted - z, action_block], dim=-1)
        return self.net(seen).clamp(-MAX_LOG - 4.0, MAX_LOG)


class Contact(nn.Module):
    """Whether arm and object touch in a latent, seen or predicted.

    What moves tells more than what is near: a place is read less exactly than a touch is wide.
    """

    def __init__(self, latent: int, width: int = 128) -> None:
        super().__init__()
        self.net = _mlp(2 * latent, width, 1)

    def forward(self, z: Tensor, z_prev: Tensor) -> Tensor:
        """(...,) logit that they touched since ``z_prev``, a model step before (..., D) ``z``."""
        return self.net(torch.cat([z, (z - z_prev) * STEP_SCALE], dim=-1))[..., 0]


class Body(Felt):
    """How far the tip moves in a control step, from how it moved and where it is told to be.

    Where the tip is told to be says more than the actions that moved it there: at the edge of the
    workspace it stops.
    """

    def __init__(self, normaliser: Normaliser, width: int = 256) -> None:
        super().__init__(normaliser)
        inputs = 2 * (len(self._mean) - 3) + 6
        self.net = nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6),
        )  # fmt: skip

    def forward(self, recent: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement (B, 3) m and its log variance in cm^2 (B, 3).

        Args:
            recent: (B, 2, P) proprioception one and two control steps ago.
            told: (B, 2, 3) m, where the tip was told to be by now, and by a control step ago.
        """
        moved = (recent[:, 0] - recent[:, 1]) / self._std * MOVED_SCALE
        ahead = (told - recent[:, :1, TIP]) / TOLD_M
        # without the target's lead over the tip, which ``told`` says
        seen = [self.felt(recent[:, 0])[:, :-3], moved[:, :-3], ahead.flatten(1)]
        return _gaussian(self.net(torch.cat(seen, dim=-1)), LEAST_BODY_LOG)


class Sight(nn.Module):
    """Where the image alone shows the tip."""

    def __init__(self, features: int, width: int = 128) -> None:
        super().__init__()
        self.net = _mlp(features, width, 6)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Position (B, 3) m and its log variance in cm^2 (B, 3), of image features (B, F)."""
        return _gaussian(self.net(features))


class Motion(Felt):
    """How much of the image changes in a control step, from how the arm moves in it."""

    def __init__(self, latent: int, normaliser: Normaliser, width: int = 128) -> None:
        super().__init__(normaliser)
        self.net = _mlp(2 * len(self._mean) + latent, width, 2)

    def forward(self, z: Tensor, before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B,) of the log of levels, see ``looks.Change.motion``, and its log variance (B,).

        Args:
            z: (B, D), the latent a model step ago. before, now: (B, P) proprioception.
        """
        moved = (now - before) / self._std * MOVED_SCALE
        mean, log_var = self.net(torch.cat([self.felt(now), moved, z], dim=-1)).T
        return mean, log_var.clamp(-6.0, MAX_LOG)


def _gaussian(out: Tensor, least: float = MIN_LOG) -> tuple[Tensor, Tensor]:
    mean, log_var = out.split(3, dim=-1)
    return mean * 0.1, log_var.clamp(least, MAX_LOG)


class BeliefHeads(nn.Module):
    """All of them, and the calibration of surprise, that belong to one world model.

    Attributes:
        tail: (C, R, 3), the tail of the scores of each of ``CHANNELS`` in each of ``REGIMES``,
            see ``surprise.fit_tail``.
        pair_tail: (C, R, 3), of two frames after one another, see ``surprise.fit_pair_tail``.
        level: of the largest improbability that is a surprise of 1, see ``surprise.fit_level``.
    """

    tail: Tensor
    pair_tail: Tensor
    level: Tensor

    def __init__(
        self, latent: int, normaliser: Normaliser, block: int, features: int, size: tuple[int, int]
    ) -> None:
        """``size``: height and width of images, px."""
        super().__init__()
        self.pushing = Pushing()
        self.state = StateEncoder(latent, normaliser)
        self.doubt = Doubt(latent)
        self.world = UsualError(latent, block)
        self.outlook = UsualError(latent, OUTLOOK * block)
        self.body = Body(normaliser)
        self.sight = Sight(features)
        self.view = View(normaliser, *size)
        self.contact = Contact(latent)
        self.background = UsualError(latent, OUTLOOK * block, math.prod(CELLS))
        self.motion = Motion(latent, normaliser)
        for name in ('tail', 'pair_tail'):
            self.register_buffer(name, torch.zeros(len(CHANNELS), len(REGIMES), 3))
        self.register_buffer('level', torch.ones(()))


def new_belief_heads(checkpoint: Checkpoint) -> BeliefHeads:
    """Untrained ones for a checkpoint.

    Raises:
        CheckpointError: its world model is not told of the joints.
    """
    model = checkpoint.model
    if not isinstance(model, WorldModel) or model.past != 1 or model.sees_velocity:
        raise CheckpointError(
            f'{checkpoint.folder}: expected a world model that is told of the joints and goes on '
            f'from two latents, got {model.config.name}; belief heads are for such alone'
        )
    width, size = model.config.image_width, checkpoint.contract.camera.seen
    return BeliefHeads(model.latent, model.normaliser, model.block_width, width, size)


def load_belief_heads(checkpoint: Checkpoint) -> BeliefHeads | None:
    """The belief heads of a checkpoint, in eval mode; None if it has none.

    Raises:
        CheckpointError: their file is broken or belongs to another model.
    """
    if 'belief' not in checkpoint.info:
        return None
    heads = new_belief_heads(checkpoint)
    try:
        load_module(checkpoint.folder, 'belief', heads)
    except CheckpointError as error:
        raise CheckpointError(f'{error}; jepa-arm belief makes new ones') from error
    return heads
