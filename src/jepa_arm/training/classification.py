"""How well scores tell two classes apart, and how true probabilities are."""

from __future__ import annotations

import torch
from torch import Tensor


def auroc(scores: Tensor, labels: Tensor) -> float | None:
    """Share of (positive, negative) pairs that ``scores`` (N,) put in the right order.

    None where all ``labels`` (N,) are the same.
    """
    order = torch.argsort(scores)
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return None
    above = float(ranks[labels.bool()].sum()) - positive * (positive + 1) / 2
    return above / (positive * negative)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Expected calibration error: mean gap of probability and frequency over equal bins."""
    probability = torch.sigmoid(logits)
    which = (probability * bins).long().clamp(max=bins - 1)
    total = 0.0
    for own in (which == b for b in range(bins)):
        if own.any():
            gap = probability[own].mean() - labels[own].float().mean()
            total += float(own.float().mean() * gap.abs())
    return total
