"""Surprise: how unusual a prediction error is where the arm is and for what it does.

A score is the squared error over its usual variance. What a score means is learned from episodes
that taught nothing: for each regime (still, moving, contact) the distribution of the logarithm
of the score above its 95th percentile is taken for exponential (peaks over threshold), so that a
surprise of 1 is passed once in ``ALARM_S`` when all is well (split-conformal, with a tail that
reaches beyond the sample).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .model.belief_heads import REGIMES, STILL_ACTION, BeliefHeads

ALARM_S = 600.0
"""s between false alarms at a surprise of 1."""
TAIL_SHARE = 0.05
LEAST_SCORES = 200
"""Fewer scores in a regime give no tail of its own; then all together do."""


@torch.inference_mode()
def scores(
    heads: BeliefHeads, z: Tensor, predicted: Tensor, block: Tensor, error: Tensor
) -> Tensor:
    """(B,) mean squared ``error`` (B, D) of ``predicted`` over its usual variance; 1 is usual."""
    return (error.square() * torch.exp(-heads.usual_error(z, predicted, block))).mean(-1)


@torch.inference_mode()
def regimes(heads: BeliefHeads, z: Tensor, predicted: Tensor, block: Tensor) -> Tensor:
    """(B,) index into ``REGIMES``."""
    touches = torch.maximum(heads.contact(z), heads.contact(predicted)) > 0.0
    is_still = block.abs().amax(-1) < STILL_ACTION
    moving, contact = REGIMES.index('moving'), REGIMES.index('contact')
    return torch.where(touches, contact, torch.where(is_still, REGIMES.index('still'), moving))


def fit_tails(scores: NDArray[np.float32], regimes: NDArray[np.int64]) -> Tensor:
    """(R, 3) for each regime: log score where the tail begins, its mean excess, its share."""
    log = np.log(np.maximum(scores, 1e-12).astype(np.float64))
    rows = []
    for regime in range(len(REGIMES)):
        own = log[regimes == regime]
        own = own if len(own) >= LEAST_SCORES else log
        begin = float(np.quantile(own, 1.0 - TAIL_SHARE))
        excess = own[own > begin] - begin
        rows.append([begin, float(excess.mean()), len(excess) / len(own)])
    return torch.tensor(rows)


def alarm_level(tail: Tensor, period_s: float) -> Tensor:
    """(R,) log score that is passed once in ``ALARM_S``, one score each ``period_s`` seconds."""
    begin, scale, share = tail.unbind(-1)
    return begin + scale * torch.log(share * ALARM_S / period_s)


class Surprise:
    """Judges prediction errors one after the other."""

    def __init__(self, heads: BeliefHeads, period_s: float) -> None:
        """For scores that come every ``period_s`` seconds."""
        self._heads, self._level = heads, alarm_level(heads.tail, period_s)

    @torch.inference_mode()
    def of(self, z: Tensor, predicted: Tensor, block: Tensor, seen: Tensor) -> float:
        """The surprise at ``seen`` (1, D), predicted from ``z`` under ``block``.

        The score over the score that passes once in ``ALARM_S``: 1 raises an alarm.
        """
        score = scores(self._heads, z, predicted, block, seen - predicted)
        regime = regimes(self._heads, z, predicted, block)
        return float(score.log().sub(self._level[regime]).exp())
