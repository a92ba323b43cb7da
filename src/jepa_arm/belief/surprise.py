"""Surprise: improbability of an observation, given what was predicted for it.

There are eight channels (``belief_heads.CHANNELS``). Most are squared prediction errors divided by
their usual variance: of the latent one and three model steps ahead, the tip's motion, the tip's
position in the image, the camera's pose, the background's brightness and the amount of change in
the image. ``palette`` is the largest ratio of a colour's share to its previous maximum.

Scores are calibrated on held-out episodes (split conformal), per regime (still, moving, contact):
above its 95th percentile the log score is modelled as exponential (peaks over threshold), which
extrapolates beyond the sample. A deviation that persists over two frames, such as a blocked arm,
is rarer than one in a single frame, so the mean improbability of two consecutive frames is
calibrated in the same way, and the larger of the two counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.model.heads.belief_heads import (
    CHANNELS,
    MIN_CELL_LOG_VAR,
    REGIMES,
    REST_ACTION,
    TARGET_OFFSET_COLUMNS,
    TIP_COLUMNS,
    BeliefHeads,
)

from .image_change import ImageChange

ALARM_PERIOD_S = 600.0
"""Mean time (s) between false alarms for which the alarm threshold is set."""
TAIL_SHARE, THRESHOLD_SHARE = 0.05, 0.01
"""Shares of the highest values to which exponential tails are fitted: per channel, and of the
maximum over all channels."""
MIN_SCORES = 200
"""A regime with fewer scores is calibrated on the scores of all regimes."""
MIN_SCALE = 1e-3
REGIME_FREE = 'camera_pose', 'palette'
"""Channels that do not depend on what the arm does: calibrated over all regimes, since an arm at
rest shows few poses in many frames."""
STILL_SHARE, STILL_LOG_VAR = 0.25, 1.5
"""Background cells are those whose usual log variance is less than ``STILL_LOG_VAR`` above the
``STILL_SHARE`` quantile over all cells."""


class LatentPrediction(NamedTuple):
    """Latents predicted one or more model steps ahead.

    Attributes:
        before: (B, D) latents at the start.
        predicted: (B, D) latents predicted from ``before`` and ``actions``.
        actions: (B, H*K*A) actions in between.
    """

    before: Tensor
    predicted: Tensor
    actions: Tensor

    def rows(self, indices: Tensor) -> LatentPrediction:
        """Return the rows at ``indices``."""
        return LatentPrediction(*(values[indices] for values in self))


@dataclass(frozen=True)
class PredictedFrame:
    """B observations with the predictions for them.

    Attributes:
        z: (B, D) observed. proprio: (B, P). features: (B, F) of the image without proprioception.
        near: prediction of ``z`` from one model step before.
        recent: (B, 2, P) proprioception one and two control steps before.
        tip_setpoints: (B, 2, 3) m, commanded tip positions now and a control step before.
        far: prediction of ``z`` from ``LONG_HORIZON_STEPS`` model steps before; None if the
            history is too short.
        change: change of the image; None if it was not measured.
        image: (B, h, w, 3) uint8; None if it was not kept.
    """

    z: Tensor
    proprio: Tensor
    features: Tensor
    near: LatentPrediction
    recent: Tensor
    tip_setpoints: Tensor
    far: LatentPrediction | None = None
    change: ImageChange | None = None
    image: Tensor | None = None


def tip_setpoints_of(proprio: Tensor, before: Tensor) -> Tensor:
    """Return the tip setpoints (B, 2, 3) m contained in proprioception.

    ``proprio`` (B, P) is the current one, ``before`` (B, P) that of one control step earlier.
    """
    rows = torch.stack([proprio, before], dim=1)
    return rows[..., TIP_COLUMNS] + rows[..., TARGET_OFFSET_COLUMNS]


@torch.inference_mode()
def channel_scores(heads: BeliefHeads, frame: PredictedFrame) -> Tensor:
    """Return the log scores (B, C) of all channels: 0 is a usual value, NaN is unknown."""
    error = (frame.z - frame.near.predicted).square()
    latent = error * torch.exp(-heads.latent_error(*frame.near))
    tip = frame.proprio[:, TIP_COLUMNS]
    motion, motion_var = heads.tip_motion(frame.recent, frame.tip_setpoints)
    motion_error = (100.0 * (tip - frame.recent[:, 0, TIP_COLUMNS] - motion)).square()
    position, position_var = heads.image_tip(frame.features)
    position_error = (100.0 * (tip - position)).square()
    found = {
        'latent': latent.mean(-1),
        'tip_motion': (motion_error * torch.exp(-motion_var)).mean(-1),
        'image_tip': (position_error * torch.exp(-position_var)).mean(-1),
        **_long_horizon_scores(heads, frame),
        **_image_scores(heads, frame),
    }
    if frame.image is not None:
        found['camera_pose'] = heads.camera_pose.deviation(frame.image, frame.proprio)
    unknown = torch.full_like(found['latent'], math.nan)
    stacked = torch.stack([found.get(channel, unknown) for channel in CHANNELS], dim=-1)
    return stacked.clamp(min=1e-12).log()


def _long_horizon_scores(heads: BeliefHeads, frame: PredictedFrame) -> dict[str, Tensor]:
    """Return the scores (B,) of the channels that look back ``LONG_HORIZON_STEPS`` model steps."""
    if frame.far is None:
        return {}
    error = (frame.z - frame.far.predicted).square()
    found = {'long_horizon': (error * torch.exp(-heads.long_horizon_error(*frame.far))).mean(-1)}
    if frame.change is not None:
        usual = heads.background_error(*frame.far).clamp(min=MIN_CELL_LOG_VAR)
        error = torch.log1p(frame.change.cells.square() * torch.exp(-usual))
        stillest = usual.quantile(STILL_SHARE, dim=-1, keepdim=True)
        is_still = (usual < stillest + STILL_LOG_VAR).float()
        found['background'] = (error * is_still).sum(-1) / is_still.sum(-1)
    return found


def _image_scores(heads: BeliefHeads, frame: PredictedFrame) -> dict[str, Tensor]:
    """Return the scores (B,) of the channels that look at the whole image."""
    if frame.change is None:
        return {}
    usual, log_var = heads.image_change(frame.near.before, frame.change.proprio, frame.proprio)
    return {
        'palette': frame.change.novelty.exp(),
        'image_change': (frame.change.motion - usual).square() * torch.exp(-log_var),
    }


def _has_reference(frame: PredictedFrame) -> Tensor:
    """Return a mask (B, C) of the channels for which the frame has a reference to compare with."""
    always, change = torch.ones(len(frame.z), dtype=torch.bool), frame.change
    has_history = ~always if frame.far is None else always
    known = {
        'long_horizon': has_history,
        'camera_pose': ~always if frame.image is None else always,
        'background': ~always if change is None else has_history & ~change.cells.isnan().any(-1),
        'palette': ~always if change is None else ~change.novelty.isnan(),
        'image_change': ~always if change is None else ~change.motion.isnan(),
    }
    return torch.stack([known.get(channel, always) for channel in CHANNELS], dim=-1)


@torch.inference_mode()
def regime_of(heads: BeliefHeads, frame: PredictedFrame) -> Tensor:
    """Return the index (B,) of each frame's regime in ``REGIMES``."""
    touches = heads.contact(frame.near.predicted, frame.near.before) > 0.0
    is_still = frame.near.actions.abs().amax(-1) < REST_ACTION
    moving, contact = REGIMES.index('moving'), REGIMES.index('contact')
    return torch.where(touches, contact, torch.where(is_still, REGIMES.index('still'), moving))


def fit_tail(scores: NDArray[np.floating], regimes: NDArray[np.int64]) -> Tensor:
    """Return the tails (C, R, 3): threshold, mean excess above it, probability of an excess.

    Args:
        scores: (N, C), see ``channel_scores``, or mean ``improbability``. regimes: (N,).
    """
    rows = scores.astype(np.float64)
    tail = torch.zeros(len(CHANNELS), len(REGIMES), 3)
    for regime in range(len(REGIMES)):
        own = rows[regimes == regime]
        own = own if len(own) >= MIN_SCORES else rows
        for channel, name in enumerate(CHANNELS):
            values = (rows if name in REGIME_FREE else own)[:, channel]
            values = values[np.isfinite(values)]
            begin = float(np.quantile(values, 1.0 - TAIL_SHARE))
            excess = values[values > begin] - begin
            scale = max(float(excess.mean()) if len(excess) else 0.0, MIN_SCALE)
            tail[channel, regime] = torch.tensor([begin, scale, TAIL_SHARE])
    return tail


def improbability(tail: Tensor, scores: Tensor, regimes: Tensor) -> Tensor:
    """Return the negative log probability (B, C) of larger ``scores`` (B, C) in ``regimes`` (B,).

    It is calibrated only in the tail; below, only the order of the values is meaningful.
    """
    begin, scale, share = tail[:, regimes].unbind(-1)
    excess = (scores - begin.T) / scale.T
    at_tail = -share.T.log()
    return torch.where(excess > 0.0, at_tail + excess, at_tail * torch.exp(excess / at_tail))


class ScoredFrames(NamedTuple):
    """Scores of N frames.

    Attributes:
        scores: (N, C), see ``channel_scores``. regimes: (N,), see ``regime_of``.
        follows: (N,) whether each frame comes one control step after the row before it.
    """

    scores: NDArray[np.float32]
    regimes: NDArray[np.int64]
    follows: NDArray[np.bool_]


def max_improbability(heads: BeliefHeads, frames: ScoredFrames) -> Tensor:
    """Return each frame's largest improbability (N,) over channels, alone or as a pair.

    A pair is a frame and the one a control step before. The tails of ``heads`` must be fitted.
    """
    own, mean = _pairs(heads.tail_fit, frames)
    both = improbability(heads.pair_tail_fit, mean, torch.from_numpy(frames.regimes))
    both[~torch.from_numpy(frames.follows)] = -math.inf
    return torch.maximum(own, both).amax(-1)


def fit_pair_tail(tail: Tensor, frames: ScoredFrames) -> Tensor:
    """Return the tails of the mean improbability of two consecutive frames, see ``fit_tail``."""
    mean = _pairs(tail, frames)[1].numpy()
    return fit_tail(mean[frames.follows], frames.regimes[frames.follows])


def _pairs(tail: Tensor, frames: ScoredFrames) -> tuple[Tensor, Tensor]:
    """Return the improbabilities (N, C), and their means with those of the row before."""
    own = improbability(tail, torch.from_numpy(frames.scores), torch.from_numpy(frames.regimes))
    return own, (own + own.roll(1, 0)) / 2.0


def fit_alarm_threshold(values: Tensor, period_s: float) -> float:
    """Return the improbability that is exceeded by chance once per ``ALARM_PERIOD_S`` on average.

    The excess above the 99th percentile is modelled as exponential.

    Args:
        values: (N,), see ``max_improbability``. period_s: s between frames.
    """
    begin = float(values.quantile(1.0 - THRESHOLD_SHARE))
    scale = max(float((values[values > begin] - begin).mean()), MIN_SCALE)
    return begin + scale * math.log(THRESHOLD_SHARE * ALARM_PERIOD_S / period_s)


def fit_surprise(heads: BeliefHeads, frames: ScoredFrames, period_s: float) -> None:
    """Fit the tails and alarm threshold of ``heads`` to ``frames``, ``period_s`` seconds apart."""
    heads.tail_fit.copy_(fit_tail(frames.scores, frames.regimes))
    heads.pair_tail_fit.copy_(fit_pair_tail(heads.tail_fit, frames))
    heads.alarm_threshold.fill_(fit_alarm_threshold(max_improbability(heads, frames), period_s))


class SurpriseReport(NamedTuple):
    """Surprise of one frame.

    Attributes:
        value: surprise; 1 is the alarm threshold, set for one false alarm in ``ALARM_PERIOD_S``.
            The rate in new scenes is measured by the surprise benchmark.
        channel: most surprising channel, one of ``CHANNELS``.
    """

    value: float
    channel: str


class SurpriseDetector:
    """Computes the surprise of consecutive frames."""

    def __init__(self, heads: BeliefHeads, period_s: float) -> None:
        """Start without a previous frame; frames come every ``period_s`` seconds."""
        self._heads, self._threshold, self._period = heads, float(heads.alarm_threshold), period_s
        self._last: tuple[float, Tensor] | None = None

    @torch.inference_mode()
    def rate(self, frame: PredictedFrame, stamp: float) -> SurpriseReport:
        """Return the surprise of ``frame`` at ``stamp`` (s), alone or paired with the last one."""
        regime = regime_of(self._heads, frame)
        values = improbability(self._heads.tail_fit, channel_scores(self._heads, frame), regime)
        # a NaN score despite a reference counts as maximally surprising
        values = values.where(~values.isnan(), math.inf).where(_has_reference(frame), -math.inf)
        last, self._last = self._last, (stamp, values)
        if last is not None and abs(stamp - last[0] - self._period) < self._period / 2.0:
            both = improbability(self._heads.pair_tail_fit, (values + last[1]) / 2.0, regime)
            values = torch.maximum(values, both.where(values.isfinite() & both.isfinite(), values))
        value, channel = values[0].max(-1)
        return SurpriseReport(float(value) / self._threshold, CHANNELS[int(channel)])
