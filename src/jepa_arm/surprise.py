"""Surprise: how improbable what is seen and felt is, where the arm is and for what it does.

Four scores, each the squared error of an expectation over its usual variance: the latent a model
step on and three on, how the tip moves, and where the image alone shows it. What a score means
is learned from episodes that taught nothing (split-conformal), for each regime (still, moving,
contact): the logarithm of the score above its 95th percentile is taken for exponential (peaks
over threshold), which reaches beyond the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .model.belief_heads import CHANNELS, REGIMES, STILL_ACTION, TIP, BeliefHeads

ALARM_S = 600.0
"""s between false alarms for which the level of a surprise of 1 is set."""
TAIL_SHARE = 0.05
LEAST_SCORES = 200
"""Fewer scores in a regime give no tail of its own; then all together do."""
LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Frame:
    """What was expected of one frame or of many, and what came.

    Attributes:
        z: (B, D) seen. proprio: (B, P) felt. features: (B, F) of the image alone.
        before, block, predicted: (B, D), (B, K*A), (B, D), the latent a model step before, what
            was sent since, and what was predicted of it.
        proprio_before: (B, P), a model step before.
        long_before, long_block, long_predicted: the same of ``OUTLOOK`` model steps; None where
            so much is not known yet.
    """

    z: Tensor
    proprio: Tensor
    features: Tensor
    before: Tensor
    block: Tensor
    predicted: Tensor
    proprio_before: Tensor
    long_before: Tensor | None = None
    long_block: Tensor | None = None
    long_predicted: Tensor | None = None


@torch.inference_mode()
def scores(heads: BeliefHeads, frame: Frame) -> Tensor:
    """(B, C) squared errors over their usual variance, 1 is usual; NaN where not known."""
    error = (frame.z - frame.predicted).square()
    world = error * torch.exp(-heads.world(frame.before, frame.predicted, frame.block))
    outlook = torch.full_like(world, float('nan'))
    if frame.long_before is not None:
        assert frame.long_predicted is not None and frame.long_block is not None
        usual = heads.outlook(frame.long_before, frame.long_predicted, frame.long_block)
        outlook = (frame.z - frame.long_predicted).square() * torch.exp(-usual)
    tip = frame.proprio[:, TIP]
    way, way_var = heads.body(frame.proprio_before, frame.block)
    body = (100.0 * (tip - frame.proprio_before[:, TIP] - way)).square() * torch.exp(-way_var)
    place, place_var = heads.sight(frame.features)
    sight = (100.0 * (tip - place)).square() * torch.exp(-place_var)
    return torch.stack([part.mean(-1) for part in (world, outlook, body, sight)], dim=-1)


@torch.inference_mode()
def regimes(heads: BeliefHeads, frame: Frame) -> Tensor:
    """(B,) index into ``REGIMES``."""
    touches = torch.maximum(heads.contact(frame.before), heads.contact(frame.predicted)) > 0.0
    is_still = frame.block.abs().amax(-1) < STILL_ACTION
    moving, contact = REGIMES.index('moving'), REGIMES.index('contact')
    return torch.where(touches, contact, torch.where(is_still, REGIMES.index('still'), moving))


def fit_tail(scores: NDArray[np.float32], regimes: NDArray[np.int64]) -> Tensor:
    """(C, R, 3): log score where the tail begins, its mean excess, its share.

    Args:
        scores: (N, C). regimes: (N,).
    """
    log = np.log(np.maximum(scores.astype(np.float64), 1e-12))
    tail = torch.zeros(len(CHANNELS), len(REGIMES), 3)
    for regime in range(len(REGIMES)):
        own = log[regimes == regime]
        own = own if len(own) >= LEAST_SCORES else log
        for channel in range(len(CHANNELS)):
            values = own[:, channel]
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
    beyond = (scores.clamp(min=1e-12).log() - begin.T) / scale.T
    least = -share.T.log()
    return torch.where(beyond > 0.0, least + beyond, least * torch.exp(beyond / least))


def alarm_level(period_s: float) -> float:
    """The improbability that one of the channels passes once in ``ALARM_S``, by chance."""
    return math.log(len(CHANNELS) * ALARM_S / period_s)


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
        self._heads, self._level = heads, alarm_level(period_s)

    @torch.inference_mode()
    def of(self, frame: Frame) -> Judgement:
        """How surprising the one ``frame`` is."""
        found = scores(self._heads, frame)
        values = improbability(self._heads.tail, found, regimes(self._heads, frame))[0]
        if frame.long_before is None:
            values[CHANNELS.index('outlook')] = -math.inf
        # what is not finite could not be more surprising
        value, channel = values.where(~values.isnan(), math.inf).max(-1)
        return Judgement(float(value) / self._level, CHANNELS[int(channel)])
