"""Benchmarks of single stages; each returns one flat mapping, names with units."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .agent import Agent
from .arm import Arm
from .config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig
from .control import control_step
from .evaluator import Evaluator
from .goals import PositionGoal
from .model.checkpoint import Checkpoint
from .model.world_model import WorldModel
from .planning.heads import load_heads
from .planning.planner import Plan, Planner, fast_matmul
from .planning.runtime import agreement, compile_function
from .planning.stages import Compile, Function, StageCompiler
from .resources import machine
from .sim.tasks import EVALUATION_SEED

BENCH_SEED = EVALUATION_SEED + 900_000
WARM_UP = 10


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


def bench_stages(
    checkpoint: Checkpoint, planner: PlannerConfig, plans: int = 200
) -> dict[str, Any]:
    """Where the time of a plan goes, beside what this machine can multiply at most.

    Whole searches for a place of the object from made-up latents, with the configured number of
    candidates. Of each stage (``advance``: a model step of the proposals, ``unroll``: a rollout,
    ``appraise``: the terms of the cost) are told its calls and ms a plan, its GFLOP (matrix
    products; a multiplication and an addition count as two) and, of the GFLOPS of a product of
    two matrices of 1024 x 1024, its share. ``other_ms`` is what lies between the stages.
    """
    model = checkpoint.model
    if not isinstance(model, WorldModel):
        raise ConfigError('bench stages: expected a compact world model, got an official one')
    torch.set_num_threads(planner.threads)
    clock = _StageClock(compile_function(planner))
    probes, goal = checkpoint.probes, PositionGoal('object', np.array([0.5, 0.1, 0.025]))
    search = Planner(
        model,
        probes.read,
        load_heads(checkpoint),
        checkpoint.contract,
        replace(planner, deadline_ms=float('inf')),
        spread=probes.spread,
        compile_stages=StageCompiler(clock.compile, model, probes, checkpoint.contract, planner),
    )
    generator = torch.Generator().manual_seed(0)

    def latency_ms() -> float:
        z = torch.randn(1, model.latent, generator=generator)
        return search.plan(z, z.repeat(1, model.past), goal).latency_ms

    for _ in range(WARM_UP):
        latency_ms()
    clock.forget()
    whole = float(np.mean([latency_ms() for _ in range(plans)]))
    peak = _peak_gflops()
    figures, spent = clock.figures(plans, peak)
    return {
        'plan_ms_mean': round(whole, 3),
        **figures,
        'other_ms': round(whole - spent, 3),
        'peak_gflops': round(peak, 1),
        'runtime': planner.runtime,
        'candidates': planner.candidates,
        'sweeps': planner.sweeps,
        'threads': torch.get_num_threads(),
        'machine': machine(),
    }


class _StageClock:
    """Times each stage of a search, and counts its operations."""

    def __init__(self, compiled: Compile) -> None:
        self._compiled = compiled
        self._took, self._flops = dict[str, list[float]](), dict[str, int]()

    def compile(
        self, function: Function, modules: nn.Module, inputs: tuple[Tensor, ...], *rest: Any
    ) -> Function:
        """See ``Compile``."""
        run, told = self._compiled(function, modules, inputs, *rest), str(rest[-1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(*inputs)
        self._took[told], self._flops[told] = [], counter.get_total_flops()

        def call(*given: Tensor) -> tuple[Tensor, ...]:
            began = time.perf_counter()
            found = run(*given)
            self._took[told].append((time.perf_counter() - began) * 1000.0)
            return found

        return call

    def forget(self) -> None:
        """Forgets the times so far."""
        for calls in self._took.values():
            calls.clear()

    def figures(self, plans: int, peak: float) -> tuple[dict[str, float], float]:
        """Of each stage that was called in ``plans`` plans, and ms a plan of them all.

        ``peak``: GFLOPS of the machine.
        """
        figures, spent = dict[str, float](), 0.0
        for told, calls in self._took.items():
            if not calls:
                continue  # of goals for the tip
            stage, ms, count = told.split()[0], sum(calls) / plans, len(calls) / plans
            gflop = self._flops[told] * count / 1e9
            spent += ms
            figures |= {
                f'{stage}_calls': round(count, 2),
                f'{stage}_ms': round(ms, 3),
                f'{stage}_gflop': round(gflop, 4),
                f'{stage}_share_of_peak': round(gflop / ms * 1e3 / peak, 3),
            }
        return figures, spent


def _peak_gflops(size: int = 1024, runs: int = 20) -> float:
    """Of a product of two square matrices, as torch multiplies while it plans."""
    first, second = torch.randn(2, size, size)
    with fast_matmul(), torch.inference_mode():
        times = _time_ms(lambda: first @ second, runs)
    return 2.0 * size**3 / float(np.median(times)) / 1e6


def bench_encode(checkpoint: Checkpoint, runs: int = 300) -> dict[str, Any]:
    """Latency of encoding one image with its proprioception."""
    shape, width = checkpoint.contract.camera.shape, len(checkpoint.model.normaliser.proprio_mean)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *shape), dtype=np.uint8)
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
    for _ in range(min(WARM_UP, runs)):
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
