"""Report of the belief heads on episodes used for neither training nor calibration.

Alarms are counted in each half of the held-out episodes by heads calibrated on the other half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.belief.surprise import ALARM_PERIOD_S
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.model.heads.belief_heads import REGIMES, SUBJECTS, BeliefHeads
from jepa_arm.model.heads.probes import COVERAGE_CHI_SQUARED
from jepa_arm.model.world_model import WorldModel

from .latent_windows import LatentWindows, LatentWindowSampler, belief_errors, predict_open_loop

MEASURED_WINDOWS = 4000
"""Number of windows drawn for measurement, and the same number for calibration."""
REPORTED_S = (0.2, 0.6, 1.0, 2.0, 3.0, 4.0)
CONTACT_STEPS = 5
"""Number of model steps (together 1 s) for which contact is predicted ahead."""


@torch.inference_mode()
def measure_belief(
    checkpoint: Checkpoint, heads: BeliefHeads, sampler: LatentWindowSampler, steps: int
) -> dict[str, Any]:
    """Measure errors of positions and contact on windows with ``steps`` steps without images."""
    windows = sampler.sample(MEASURED_WINDOWS)
    model = checkpoint.model
    assert isinstance(model, WorldModel)
    kinds = {'blind': windows, 'blind_unknown_yaw': windows.with_unknown_yaw()}
    report: dict[str, Any] = {key: {} for key in kinds}
    for seconds in REPORTED_S:
        step = round(seconds / checkpoint.contract.time.model_dt)
        if step <= steps:
            for key, own in kinds.items():
                report[key][f'{seconds:g} s'] = _errors_after(checkpoint, heads, own, step)
    ahead = predict_open_loop(model, windows.first(CONTACT_STEPS))
    before = torch.cat([windows.z[:, 1:2], ahead[:, :-1]], dim=1)
    logits = heads.contact(ahead, before)
    labels = windows.contact[:, 2 : CONTACT_STEPS + 2]
    pairs = list(zip(logits.unbind(1), labels.unbind(1), strict=True))
    report['contact'] = {
        'auroc': [auroc(*pair) for pair in pairs],
        'calibration_error': [calibration_error(*pair) for pair in pairs],
        'share': float(labels.float().mean()),
    }
    return report


def format_belief(report: dict[str, Any]) -> str:
    """Return the report of ``train_belief`` as a table."""
    lines = ['blind for    tip median / p90, in 90 %   object median / p90, in 90 %']
    for seconds, row in report['blind'].items():
        parts = [
            f'{row[f"{name}_median_cm"]:6.2f} / {row[f"{name}_p90_cm"]:.2f} cm '
            f'{row[f"{name}_coverage_90"]:6.1%}   '
            for name in SUBJECTS
        ]
        lines.append(f'{seconds:9s}' + '   '.join(parts))
    contact = report['contact']
    areas = ', '.join('-' if a is None else f'{a:.3f}' for a in contact['auroc'])
    lines.append(f'contact 1 to {CONTACT_STEPS} model steps ahead: AUROC {areas}')
    for name, row in report['surprise'].items():
        lines.append(
            f'{name:8s} {row["alarms"]} alarms in {row["frames"]} frames of halves calibrated on '
            f'the other half, expected {row["expected"]:.1f}'
        )
    return '\n'.join(lines)


def _errors_after(
    checkpoint: Checkpoint, heads: BeliefHeads, windows: LatentWindows, step: int
) -> dict[str, float]:
    """Return the errors of positions after ``step`` model steps without images.

    They are the median and the 90th percentile (cm), and the coverage of the 90 % region.
    """
    beliefs = belief_errors(checkpoint, heads, windows.first(step))
    rows = slice(step, None, step + 1)
    distance = beliefs.error[rows].norm(dim=-1)
    std = heads.position_std(beliefs.z[rows], beliefs.blind_s[rows], beliefs.yaw[rows])
    is_inside = (distance / std).square() <= COVERAGE_CHI_SQUARED
    figures: dict[str, float] = {}
    for i, name in enumerate(SUBJECTS):
        figures[f'{name}_median_cm'] = float(distance[:, i].median()) * 100.0
        figures[f'{name}_p90_cm'] = float(distance[:, i].quantile(0.9)) * 100.0
        figures[f'{name}_coverage_90'] = float(is_inside[:, i].float().mean())
    return figures


def count_alarms(
    is_alarm: NDArray[np.bool_], regimes: NDArray[np.int64], period_s: float
) -> dict[str, dict[str, float]]:
    """Return frames, alarms and expected alarms by regime.

    Args:
        is_alarm: (N,) frames above the alarm threshold. regimes: (N,), see ``regime_of``.
        period_s: s between frames.
    """
    return {
        name: {
            'frames': int((regimes == i).sum()),
            'alarms': int(is_alarm[regimes == i].sum()),
            'expected': float((regimes == i).sum() * period_s / ALARM_PERIOD_S),
        }
        for i, name in enumerate(REGIMES)
    }


def auroc(scores: Tensor, labels: Tensor) -> float | None:
    """Return the share of (positive, negative) pairs that ``scores`` (N,) rank correctly.

    It is None if all ``labels`` (N,) are the same. Ties count half.
    """
    positive, negative = scores[labels.bool()], scores[~labels.bool()].sort().values
    if not len(positive) or not len(negative):
        return None
    below, not_above = (torch.searchsorted(negative, positive, side=s) for s in ('left', 'right'))
    return float((below + not_above).double().mean()) / (2 * len(negative))


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Return the expected calibration error over equal bins of probability.

    It is the mean difference between predicted probability and observed frequency.
    """
    probability = torch.sigmoid(logits)
    bin_of = (probability * bins).long().clamp(max=bins - 1)
    total = 0.0
    for own in (bin_of == b for b in range(bins)):
        if own.any():
            gap = probability[own].mean() - labels[own].float().mean()
            total += float(own.float().mean() * gap.abs())
    return total
