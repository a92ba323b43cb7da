"""Benchmarks of single stages; each returns one flat mapping, names with units."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .agent import Agent
from .arm import Arm
from .config import ArmConfig, GuardConfig, PlannerConfig, SimConfig
from .control import control_step
from .evaluator import Evaluator
from .goals import PositionGoal
from .model.checkpoint import Checkpoint
from .planning.planner import Plan
from .planning.runtime import agreement
from .resources import machine
from .sim.tasks import EVALUATION_SEED

BENCH_SEED = EVALUATION_SEED + 900_000


def bench_plan(
    checkpoint: Checkpoint,
    arm: ArmConfig,
    sim: SimConfig,
    guard: GuardConfig,
    planner: PlannerConfig,
    plans: int = 1000,
) -> dict[str, Any]:
    """Plan latency in the closed loop of the push task, in process.

    Where plans run compiled, in turns with torch, and how alike both price the same candidates.
    They are made with the configured number of candidates; how many a planner node would make
    do with here is told.
    """
    torch.set_num_threads(planner.threads)
    evaluator = Evaluator(arm, sim, guard, 'push')
    agents = {
        runtime: Agent(checkpoint, evaluator.arm, replace(planner, runtime=runtime))
        for runtime in dict.fromkeys((planner.runtime, 'torch'))
    }
    fit = agents[planner.runtime].planners.fitted()
    made: dict[str, list[Plan]] = {runtime: [] for runtime in agents}
    seed = BENCH_SEED
    while len(made['torch']) < plans:
        for runtime, agent in agents.items():
            scene = evaluator.task.sample(seed)
            evaluator.world.reset(scene)
            evaluator.guard.reset(scene.joints, now=0.0)
            agent.reset(scene.joints)
            agent.set_goal(PositionGoal('object', scene.goal))
            for _ in range(min(50, plans - len(made[runtime]))):
                decision = control_step(agent, evaluator.guard, evaluator.world, sim.time.ticks)
                assert decision.plan is not None
                made[runtime].append(decision.plan)
        seed += 1
    evaluator.world.close()
    told = made[planner.runtime]
    sources = [plan.source for plan in told]
    latencies = [plan.latency_ms for plan in told]
    figures = _percentiles('plan_ms', latencies)
    figures['plan_ms_p999'] = round(float(np.percentile(latencies, 99.9)), 3)
    figures['deadline_ms'] = planner.deadline_ms
    if planner.runtime != 'torch':
        figures |= _percentiles('torch_plan_ms', [plan.latency_ms for plan in made['torch']])
        figures |= agreement(checkpoint, planner, made['torch'])
    return {
        **figures,
        **bench_encode(checkpoint),
        'runtime': planner.runtime,
        'plans': len(told),
        'candidates': float(np.mean([plan.candidates for plan in told])),
        'fitted_candidates': planner.candidates if fit is None else fit.candidates,
        'from_actor': sources.count('actor') / len(sources),
        'from_warm_start': sources.count('warm_start') / len(sources),
        'from_search': sources.count('search') / len(sources),
        'threads': torch.get_num_threads(),
        'machine': machine(),
    }


def bench_encode(checkpoint: Checkpoint, runs: int = 300) -> dict[str, Any]:
    """Latency of encoding one image with its proprioception."""
    camera, width = checkpoint.contract.camera, len(checkpoint.model.normaliser.proprio_mean)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, camera.height, camera.width, 3), dtype=np.uint8)
    proprio = rng.normal(size=(1, width))

    def encode() -> None:
        with torch.inference_mode():
            checkpoint.model.encode(image, proprio)

    return _percentiles('encode_ms', _time_ms(encode, runs))


def bench_sim(
    arm: ArmConfig, sim: SimConfig, guard: GuardConfig, steps: int = 500
) -> dict[str, Any]:
    """Physics, rendering and guard per control step, in process."""
    evaluator = Evaluator(arm, sim, guard, 'push')
    world = evaluator.world
    world.reset(evaluator.task.sample(BENCH_SEED))
    q = Arm(arm).home

    def physics() -> None:
        for _ in range(sim.time.ticks):
            world.command(q, np.zeros_like(q))
            world.step()

    result = {
        **_percentiles('physics_ms_per_control_step', _time_ms(physics, steps)),
        **_percentiles('render_ms', _time_ms(world.image, steps)),
        'image_px': world.arm.config.camera.width,
        'machine': machine(),
    }
    world.close()
    return result


def _time_ms(function: Callable[[], Any], runs: int) -> list[float]:
    for _ in range(min(10, runs)):
        function()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1000.0)
    return times


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    return {
        f'{name}_p50': round(float(np.percentile(values, 50)), 3),
        f'{name}_p99': round(float(np.percentile(values, 99)), 3),
    }
