"""Surprise: how improbable what is seen and felt is, where the arm is and for what it does.

Eight scores. Squared errors of an expectation over their usual variance: of the latent a model
step on and three on, of how the tip moves, of where the image alone shows it, of where the camera
looks from, of how bright what stands still is, and of how much of the image changes; and how much
more there is of a colour than ever before. What a score means is learned from episodes that taught
nothing (split-conformal), for each regime (still, moving, contact): the logarithm of the score
above its 95th percentile is taken for exponential (peaks over threshold), which reaches beyond the
sample. What goes on in two frames after one another, as an arm that is held, is less usual than in
one: the mean improbability of such pairs is judged alike, beside each frame's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .looks import Change
from .model.belief_heads import CELL_FLOOR, CHANNELS, REGIMES, STILL_ACTION, TIP, BeliefHeads

ALARM_S = 600.0
"""s between false alarms for which the level of a surprise of 1 is set."""
TAIL_SHARE, LEVEL_SHARE = 0.05, 0.01
LEAST_SCORES = 200
"""Fewer scores in a regime give no tail of its own; then all together do."""
LEAST_SCALE = 1e-3
ANYHOW = 'view', 'palette'
"""Channels that mean the same whatever the arm does: one tail for all regimes. While it rests, few
poses make many frames."""
STILL_SHARE, STILL_LOG_VAR = 0.25, 1.5
"""So many cells surely stand still, and all whose log variance is less than this much more."""


@dataclass(frozen=True)
class Frame:
    """What was expected of one frame or of many, and what came.

    Attributes:
        z: (B, D) seen. proprio: (B, P) felt. features: (B, F) of the image alone.
        before, block, predicted: (B, D), (B, K*A), (B, D), the latent a model step before, what
            was sent since, and what was predicted of it.
        recent: (B, 2, P) proprioception, one and two control steps ago.
        told: (B, 2, 3) m, where the tip was told to be by now, and by a control step ago.
        long_before, long_block, long_predicted: the same of ``OUTLOOK`` model steps; None where
            so much is not known yet.
        change: of the image; None where it was not compared with those before.
        image: (B, h, w, 3) uint8; None where it was not kept.
    """

    z: Tensor
    proprio: Tensor
    features: Tensor
    before: Tensor
    block: Tensor
    predicted: Tensor
    recent: Tensor
    told: Tensor
    long_before: Tensor | None = None
    long_block: Tensor | None = None
    long_predicted: Tensor | None = None
    change: Change | None = None
    image: Tensor | None = None

    def rows(self, picked: Tensor) -> Frame:
        """Those of ``picked``."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if value is not None:
                values[name] = value.rows(picked) if name == 'change' else value[picked]
        return Frame(**values)


@torch.inference_mode()
def scores(heads: BeliefHeads, frame: Frame) -> Tensor:
    """(B, C) log of squared errors over their usual variance, 0 is usual; NaN where not known."""
    error = (frame.z - frame.predicted).square()
    world = error * torch.exp(-heads.world(frame.before, frame.predicted, frame.block))
    tip = frame.proprio[:, TIP]
    way, way_var = heads.body(frame.recent, frame.told)
    body = (100.0 * (tip - frame.recent[:, 0, TIP] - way)).square() * torch.exp(-way_var)
    place, place_var = heads.sight(frame.features)
    sight = (100.0 * (tip - place)).square() * torch.exp(-place_var)
    found = {
        'world': world.mean(-1),
        'body': body.mean(-1),
        'sight': sight.mean(-1),
        **_far_scores(heads, frame),
        **_change_scores(heads, frame),
    }
    if frame.image is not None:
        found['view'] = heads.view.strangeness(frame.image, frame.proprio)
    unknown = torch.full_like(found['world'], math.nan)
    stacked = torch.stack([found.get(channel, unknown) for channel in CHANNELS], dim=-1)
    return stacked.clamp(min=1e-12).log()


def _far_scores(heads: BeliefHeads, frame: Frame) -> dict[str, Tensor]:
    """(B,) of the channels that compare with ``OUTLOOK`` model steps before."""
    if frame.long_before is None:
        return {}
    assert frame.long_predicted is not None and frame.long_block is not None
    then = frame.long_before, frame.long_predicted, frame.long_block
    error = (frame.z - frame.long_predicted).square()
    found = {'outlook': (error * torch.exp(-heads.outlook(*then))).mean(-1)}
    if frame.change is not None:
        usual = heads.background(*then).clamp(min=CELL_FLOOR)
        error = torch.log1p(frame.change.cells.square() * torch.exp(-usual))
        stillest = usual.quantile(STILL_SHARE, dim=-1, keepdim=True)
        is_still = (usual < stillest + STILL_LOG_VAR).float()
        found['background'] = (error * is_still).sum(-1) / is_still.sum(-1)
    return found


def _change_scores(heads: BeliefHeads, frame: Frame) -> dict[str, Tensor]:
    """(B,) of the channels that look at the whole image."""
    if frame.change is None:
        return {}
    usual, log_var = heads.motion(frame.before, frame.change.felt, frame.proprio)
    return {
        'palette': frame.change.novelty.exp(),
        'motion': (frame.change.motion - usual).square() * torch.exp(-log_var),
    }


def _is_compared(frame: Frame) -> Tensor:
    """(B, C) whether there is something that a channel compares with."""
    count, change = len(frame.z), frame.change
    is_compared = torch.ones(count, len(CHANNELS), dtype=torch.bool)
    never = torch.zeros(count, dtype=torch.bool)
    is_far = never if frame.long_before is None else ~never
    for channel, known in (
        ('outlook', is_far),
        ('view', never if frame.image is None else ~never),
        ('background', never if change is None else is_far & ~change.cells.isnan().any(-1)),
        ('palette', never if change is None else ~change.novelty.isnan()),
        ('motion', never if change is None else ~change.motion.isnan()),
    ):
        is_compared[:, CHANNELS.index(channel)] = known
    return is_compared


@torch.inference_mode()
def regimes(heads: BeliefHeads, frame: Frame) -> Tensor:
    """(B,) index into ``REGIMES``."""
    touches = heads.contact(frame.predicted, frame.before) > 0.0
    is_still = frame.block.abs().amax(-1) < STILL_ACTION
    moving, contact = REGIMES.index('moving'), REGIMES.index('contact')
    return torch.where(touches, contact, torch.where(is_still, REGIMES.index('still'), moving))


def fit_tail(scores: NDArray[np.floating], regimes: NDArray[np.int64]) -> Tensor:
    """(C, R, 3): score where the tail begins, its mean excess, its share.

    Args:
        scores: (N, C), see ``scores``, or means of ``improbability``. regimes: (N,).
    """
    rows = scores.astype(np.float64)
    tail = torch.zeros(len(CHANNELS), len(REGIMES), 3)
    for regime in range(len(REGIMES)):
        own = rows[regimes == regime]
        own = own if len(own) >= LEAST_SCORES else rows
        for channel, name in enumerate(CHANNELS):
            values = (rows if name in ANYHOW else own)[:, channel]
            values = values[np.isfinite(values)]
            begin = float(np.quantile(values, 1.0 - TAIL_SHARE))
            excess = values[values > begin] - begin
            scale = max(float(excess.mean()) if len(excess) else 0.0, LEAST_SCALE)
            tail[channel, regime] = torch.tensor([begin, scale, TAIL_SHARE])
    return tail


def improbability(tail: Tensor, scores: Tensor, regimes: Tensor) -> Tensor:
    """(B, C) minus the log of how often such scores (B, C) come in their regimes (B,).

    In the tail; below it a value that only keeps the order.
    """
    begin, scale, share = tail[:, regimes].unbind(-1)
    beyond = (scores - begin.T) / scale.T
    least = -share.T.log()
    return torch.where(beyond > 0.0, least + beyond, least * torch.exp(beyond / least))


def largest(
    heads: BeliefHeads,
    scores: NDArray[np.float32],
    regimes: NDArray[np.int64],
    follows: NDArray[np.bool_],
) -> Tensor:
    """(N,) the largest improbability of frames with scores (N, C), pairs included.

    ``follows`` (N,): whether a frame comes a control step after the one before it.
    """
    own, mean = _pairs(heads.tail, scores, regimes)
    both = improbability(heads.pair_tail, mean, torch.from_numpy(regimes))
    both[~torch.from_numpy(follows)] = -math.inf
    return torch.maximum(own, both).amax(-1)


def fit_pair_tail(
    tail: Tensor,
    scores: NDArray[np.float32],
    regimes: NDArray[np.int64],
    follows: NDArray[np.bool_],
) -> Tensor:
    """The tail of the mean improbability of two frames; ``tail`` as of ``fit_tail``."""
    mean = _pairs(tail, scores, regimes)[1].numpy()
    return fit_tail(mean[follows], regimes[follows])


def _pairs(
    tail: Tensor, scores: NDArray[np.float32], regimes: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Improbabilities (N, C), and their means with those of the rows before."""
    own = improbability(tail, torch.from_numpy(scores), torch.from_numpy(regimes))
    return own, (own + own.roll(1, 0)) / 2.0


def fit_level(values: Tensor, period_s: float) -> float:
    """What the ``largest`` improbability (N,) of frames ``period_s`` apart passes in ``ALARM_S``.

    Once by chance: the excess above the 99th percentile is taken for exponential. Were channels
    independent and their tails right, it would follow without ``values``.
    """
    begin = float(values.quantile(1.0 - LEVEL_SHARE))
    scale = max(float((values[values > begin] - begin).mean()), LEAST_SCALE)
    return begin + scale * math.log(LEVEL_SHARE * ALARM_S / period_s)


@dataclass(frozen=True)
class Judgement:
    """How surprising a frame was.

    Attributes:
        value: 1 is the level set for one false alarm in ``ALARM_S``; what it truly gives in
            new scenes is measured by ``detection``.
        channel: of ``CHANNELS``, the most surprising one.
    """

    value: float
    channel: str


class Surprise:
    """Judges frames one after the other."""

    def __init__(self, heads: BeliefHeads, period_s: float) -> None:
        """For frames that come every ``period_s`` seconds."""
        self._heads, self._level, self._period = heads, float(heads.level), period_s
        self._last: tuple[float, Tensor] | None = None

    @torch.inference_mode()
    def of(self, frame: Frame, stamp: float) -> Judgement:
        """How surprising the one ``frame`` of ``stamp`` (s) is, alone and with the last one."""
        regime = regimes(self._heads, frame)
        values = improbability(self._heads.tail, scores(self._heads, frame), regime)
        # what is not finite could not be more surprising
        values = values.where(~values.isnan(), math.inf).where(_is_compared(frame), -math.inf)
        last, self._last = self._last, (stamp, values)
        if last is not None and abs(stamp - last[0] - self._period) < self._period / 2.0:
            both = improbability(self._heads.pair_tail, (values + last[1]) / 2.0, regime)
            values = torch.maximum(values, both.where(values.isfinite() & both.isfinite(), values))
        value, channel = values[0].max(-1)
        return Judgement(float(value) / self._level, CHANNELS[int(channel)])
