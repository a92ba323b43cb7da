"""How many candidates a sweep may price, so that a whole search ends by its deadline here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config import PlannerConfig
from ..goals import PositionGoal
from .planner import Planner, PlanningError

LADDER = 1.0, 0.75, 0.5
"""Shares of the configured candidates that are tried one after the other, before the fewest."""
FIXED = {'openvino': 0.25, 'torch': 0.5, 'cuda': 1.0}
"""Share of a search's time that fewer candidates do not save, by runtime. Half of 32 candidates
took 0.59 to 0.65 of the time in OpenVINO, and 0.68 to 0.86 in torch; that a GPU saves nothing is
assumed."""
IN_GRAPH = 1.8
"""Times as long nearly every search takes beside the other processes of a graph at work: the 99th
percentile there was 1.7 to 2.2 times the median here, on two machines of two cores."""
WARM_UP, PLANS = 3, 20
USUAL = 0.25
"""Quantile of the times measured: while nodes start, many plans are slower than they will be."""


@dataclass(frozen=True)
class Fit:
    """How many candidates a sweep may price, and why.

    Attributes:
        candidates: that may be priced; configured: that are meant to be.
        whole_ms: what a search of all sweeps takes with those configured, or would.
        deadline_ms: by which it is to end.
    """

    candidates: int
    configured: int
    whole_ms: float
    deadline_ms: float

    def __str__(self) -> str:
        here = f'a whole search takes {self.whole_ms:.1f} ms here'
        if self.candidates < self.configured:
            here = f'not {self.configured}, with which {here}'
        else:
            here = f'with which {here}'
        return f'{self.candidates} candidates a sweep, {here}; deadline {self.deadline_ms:g} ms'


def fitted(planner: Planner, configured: int, z: Tensor, z_prev: Tensor) -> Fit | None:
    """Times whole searches of ``planner``, from latents of its size; it is as after a reset.

    What they would take with the ``configured`` candidates follows from that by ``FIXED``.

    None where there is nothing to choose: the deadline is infinite, or the model gives no finite
    plan.
    """
    config, deadline_ms = planner.config, planner.deadline_ms
    if deadline_ms == float('inf'):
        return None
    try:
        took_ms = whole_ms(planner, z, z_prev)
    except PlanningError:
        return None
    now, config = config.candidates, replace(config, candidates=configured)
    took_ms /= share_of_time(config, now)
    candidates = most_in_time(config, took_ms, deadline_ms)
    return Fit(candidates, configured, took_ms, deadline_ms)


def whole_ms(planner: Planner, z: Tensor, z_prev: Tensor) -> float:
    """ms, of a search of all sweeps for a goal of the object, which takes longest.

    Raises:
        PlanningError: the model gives no finite plan.
    """
    config, goal = planner.config, PositionGoal('object', np.zeros(3))
    most, told = config.candidates * config.sweeps, torch.zeros(3)
    planner.reset()
    took = [
        planner.plan(z, z_prev, goal, most=most, told=told).latency_ms
        for _ in range(WARM_UP + PLANS)
    ]
    planner.reset()
    return float(np.quantile(took[WARM_UP:], USUAL))


def most_in_time(config: PlannerConfig, took_ms: float, deadline_ms: float) -> int:
    """The most candidates with which a search ends in time, where all take ``took_ms``.

    The fewest where none do.
    """
    rungs = [int(share * config.candidates) for share in LADDER]
    for candidates in rungs:
        needed = took_ms * share_of_time(config, candidates) * IN_GRAPH
        if candidates in config.sweep_sizes and needed <= deadline_ms:
            return candidates
    return config.sweep_sizes[0]


def share_of_time(config: PlannerConfig, candidates: int) -> float:
    """What a search with so many ``candidates`` takes, of one with those configured."""
    fixed = FIXED[config.runtime]
    return fixed + (1.0 - fixed) * candidates / config.candidates
