"""What the belief heads do on episodes that neither taught nor calibrated them.

Alarms are those of heads that one half of the held-out episodes calibrated, in the other half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.belief_heads import REGIMES, SUBJECTS, BeliefHeads
from ..model.checkpoint import Checkpoint
from ..model.probes import REGION_SQUARED_RADIUS
from ..model.world_model import WorldModel
from ..surprise import ALARM_S
from .chains import Chains, Draw, LatentEpisodes, misread, predict
from .classification import auroc, calibration_error

MEASURED_CHAINS = 4000
"""Chains that are drawn to measure, and as many to calibrate."""
REPORTED_S = (0.2, 0.6, 1.0, 2.0, 3.0, 4.0)
RISK_STEPS = 5
"""Model steps ahead for which contact is judged: 1 s."""


@torch.inference_mode()
def measure_belief(
    checkpoint: Checkpoint,
    heads: BeliefHeads,
    latents: LatentEpisodes,
    measured: NDArray[np.int64],
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """The report on the episodes ``measured``, with chains of ``steps`` blind steps."""
    chains = Draw(latents, measured, steps, np.random.default_rng([seed, 2]))(MEASURED_CHAINS)
    model = checkpoint.model
    assert isinstance(model, WorldModel)
    report: dict[str, Any] = {'blind': {}, 'unread': {}}
    for seconds in REPORTED_S:
        step = round(seconds / checkpoint.contract.time.model_dt)
        if step <= steps:
            key = f'{seconds:g} s'
            report['blind'][key] = _blind_errors(checkpoint, heads, chains, step)
            report['unread'][key] = _blind_errors(checkpoint, heads, chains.unread(), step)
    ahead = predict(model, chains.cut(RISK_STEPS))
    before = torch.cat([chains.z[:, 1:2], ahead[:, :-1]], dim=1)
    logits = heads.contact(ahead, before)
    labels = chains.contact[:, 2 : RISK_STEPS + 2]
    pairs = list(zip(logits.unbind(1), labels.unbind(1), strict=True))
    report['contact'] = {
        'auroc': [auroc(*pair) for pair in pairs],
        'calibration_error': [calibration_error(*pair) for pair in pairs],
        'share': float(labels.float().mean()),
    }
    return report


def format_belief(report: dict[str, Any]) -> str:
    """The report as a table for people."""
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
    lines.append(f'contact 1 to {RISK_STEPS} model steps ahead: AUROC {areas}')
    for name, row in report['surprise'].items():
        lines.append(
            f'{name:8s} {row["alarms"]} alarms in {row["frames"]} frames of halves that the other '
            f'half calibrates, expected {row["expected"]:.1f}'
        )
    return '\n'.join(lines)


def _blind_errors(
    checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains, step: int
) -> dict[str, float]:
    """Median and 90th percentile cm of readings after ``step`` blind steps, and coverage."""
    z, seconds, yaw, off = misread(checkpoint, heads, chains.cut(step))
    rows = slice(step, None, step + 1)
    distance = off[rows].norm(dim=-1)
    sigma = heads.doubt(z[rows], seconds[rows], yaw[rows])
    inside = (distance / sigma).square() <= REGION_SQUARED_RADIUS
    figures: dict[str, float] = {}
    for i, name in enumerate(SUBJECTS):
        figures[f'{name}_median_cm'] = float(distance[:, i].median()) * 100.0
        figures[f'{name}_p90_cm'] = float(distance[:, i].quantile(0.9)) * 100.0
        figures[f'{name}_coverage_90'] = float(inside[:, i].float().mean())
    return figures


def tell_alarms(
    is_alarm: NDArray[np.bool_], regimes: NDArray[np.int64], period_s: float
) -> dict[str, dict[str, float]]:
    """Frames (N,), and how many pass the level that one in ``ALARM_S`` should pass, by regime."""
    return {
        name: {
            'frames': int((regimes == i).sum()),
            'alarms': int(is_alarm[regimes == i].sum()),
            'expected': float((regimes == i).sum() * period_s / ALARM_S),
        }
        for i, name in enumerate(REGIMES)
    }
