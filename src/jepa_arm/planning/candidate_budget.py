"""Candidate budget: how many candidates per iteration this machine can evaluate in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jepa_arm.config import PlannerConfig
from jepa_arm.core.goals import PositionGoal
from jepa_arm.planning.planner import Planner, PlanningError
from jepa_arm.planning.rollout import StartState

CANDIDATE_SHARES = 1.0, 0.75, 0.5
"""Shares of the configured number of candidates, tried in this order; the smallest allowed
number comes last."""
FIXED_TIME_SHARE = {'openvino': 0.25, 'torch': 0.5}
"""Share of a search's time that is independent of the number of candidates, by backend.

Measured: half of 32 candidates took 0.59 to 0.65 of the time in OpenVINO, 0.68 to 0.86 in torch.
"""
GRAPH_SLOWDOWN = 1.8
"""Factor on the measured time that covers nearly every search while the graph is running.

Measured: the 99th percentile then was 1.7 to 2.2 times the median without a graph, on two cores.
"""
WARM_UP_PLANS, MEASURED_PLANS = 3, 20
TIME_QUANTILE = 0.25
"""Quantile of the measured times that is used: low, as plans are slower while nodes start."""


@dataclass(frozen=True)
class CandidateBudget:
    """Number of candidates per iteration for this machine, and the reason for it.

    Attributes:
        candidates: number that fits into the deadline. configured: number in the configuration.
        search_ms: extrapolated duration of all iterations with ``configured`` candidates.
        deadline_ms: deadline of a search.
    """

    candidates: int
    configured: int
    search_ms: float
    deadline_ms: float

    def __str__(self) -> str:
        reduced = f' instead of {self.configured}' * (self.candidates < self.configured)
        return (
            f'{self.candidates} candidates per iteration{reduced}; with {self.configured} a '
            f'search takes {self.search_ms:.1f} ms here, deadline {self.deadline_ms:g} ms'
        )


def measure_candidate_budget(
    planner: Planner, configured: int, z: Tensor, z_prev: Tensor
) -> CandidateBudget | None:
    """Time whole searches and return how many candidates fit into the deadline.

    The goal is a position of the object, the slowest kind. The measured time is extrapolated to
    ``configured`` candidates. The planner is reset afterwards.

    Returns:
        None if there is nothing to choose: the deadline is infinite, or the model gives no finite
        plan.
    """
    deadline_ms, measured = planner.deadline_ms, planner.config.candidates
    if deadline_ms == float('inf'):
        return None
    goal = PositionGoal('object', np.zeros(3))
    start = StartState(z, z_prev, tip_setpoint=torch.zeros(3))
    max_candidates, count = measured * planner.config.iterations, WARM_UP_PLANS + MEASURED_PLANS
    planner.reset()
    try:
        times = [planner.plan(start, goal, max_candidates).latency_ms for _ in range(count)]
    except PlanningError:
        return None
    planner.reset()
    config = replace(planner.config, candidates=configured)
    search_ms = float(np.quantile(times[WARM_UP_PLANS:], TIME_QUANTILE))
    search_ms /= relative_time(config, measured)
    candidates = most_candidates_in_time(config, search_ms, deadline_ms)
    return CandidateBudget(candidates, configured, search_ms, deadline_ms)


def most_candidates_in_time(config: PlannerConfig, search_ms: float, deadline_ms: float) -> int:
    """Return the largest number of candidates with which a search ends in time.

    ``CANDIDATE_SHARES`` are tried; if none ends in time, the smallest allowed number is returned.

    Args:
        config: configured number of candidates, and range of allowed numbers.
        search_ms: duration of a search with the configured candidates.
        deadline_ms: deadline of a search.
    """
    for share in CANDIDATE_SHARES:
        candidates = int(share * config.candidates)
        needed_ms = search_ms * relative_time(config, candidates) * GRAPH_SLOWDOWN
        if candidates in config.candidate_range and needed_ms <= deadline_ms:
            return candidates
    return config.candidate_range[0]


def relative_time(config: PlannerConfig, candidates: int) -> float:
    """Return the time of a search with ``candidates`` relative to the configured number."""
    fixed = FIXED_TIME_SHARE[config.backend]
    return fixed + (1.0 - fixed) * candidates / config.candidates
