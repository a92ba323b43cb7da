"""In-process benchmarks: latency of planning, its stages, encoding and simulation.

Each returns one flat mapping whose keys include the units.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jepa_arm.agent.agent import Agent
from jepa_arm.config import ConfigError, PlannerConfig
from jepa_arm.core.goals import PositionGoal
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.model.world_model import WorldModel
from jepa_arm.planning.backends.agreement import agreement
from jepa_arm.planning.backends.stage_compiler import Compile, StageCompiler, select_compiler
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.objective import StageFunction, StageInputs
from jepa_arm.planning.planner import Plan, Planner, fast_matmul
from jepa_arm.planning.rollout import StartState
from jepa_arm.sim.tasks import EVALUATION_SEED

from .episode_runner import EpisodeRunner, SimulationSetup
from .report import percentiles

BENCH_SEED = EVALUATION_SEED + 900_000
WARM_UP_RUNS = 10
STEPS_PER_EPISODE = 50


def bench_plan(
    checkpoint: Checkpoint, setup: SimulationSetup, planner: PlannerConfig, plans: int = 1000
) -> dict[str, Any]:
    """Measure the latency of planning in closed loop on the push task.

    With a compiled backend, episodes alternate between it and PyTorch, and the costs that both
    assign to the same candidates are compared. Plans use the configured number of candidates;
    ``fitted_candidates`` is the number that a planner node would choose on this machine.
    """
    torch.set_num_threads(planner.threads)
    with EpisodeRunner(setup, 'push') as runner:
        agents = {
            backend: Agent(checkpoint, runner.arm, replace(planner, backend=backend))
            for backend in dict.fromkeys((planner.backend, 'torch'))
        }
        budget = agents[planner.backend].planners.measure_candidate_budget()
        plans_made: dict[str, list[Plan]] = {backend: [] for backend in agents}
        seed = BENCH_SEED
        while len(plans_made['torch']) < plans:
            for backend, agent in agents.items():
                steps = min(STEPS_PER_EPISODE, plans - len(plans_made[backend]))
                plans_made[backend] += _plans_of_episode(runner, agent, seed, steps)
            seed += 1
    measured = plans_made[planner.backend]
    sources = [plan.source for plan in measured]
    latencies = [plan.latency_ms for plan in measured]
    figures = _percentiles('plan_ms', latencies)
    figures['plan_ms_p999'] = round(float(np.percentile(latencies, 99.9)), 3)
    figures['deadline_ms'] = planner.deadline_ms
    if planner.backend != 'torch':
        torch_plans = plans_made['torch']
        figures |= _percentiles('torch_plan_ms', [plan.latency_ms for plan in torch_plans])
        figures |= agreement(checkpoint, planner, torch_plans)
    return {
        **figures,
        **bench_encode(checkpoint),
        'backend': planner.backend,
        'plans': len(measured),
        'candidates': float(np.mean([plan.candidates for plan in measured])),
        'fitted_candidates': planner.candidates if budget is None else budget.candidates,
        'from_actor': sources.count('actor') / len(sources),
        'from_warm_start': sources.count('warm_start') / len(sources),
        'from_search': sources.count('search') / len(sources),
        'threads': torch.get_num_threads(),
    }


def _plans_of_episode(runner: EpisodeRunner, agent: Agent, seed: int, steps: int) -> list[Plan]:
    """Return the plan of each of the first ``steps`` control steps in the scene of ``seed``."""
    scene = runner.task.sample(seed)
    loop, plans = runner.control_loop(agent, scene, PositionGoal('object', scene.goal)), []
    for _ in range(steps):
        decision = loop.step()
        assert decision.plan is not None
        plans.append(decision.plan)
    return plans


def bench_stages(
    checkpoint: Checkpoint, planner: PlannerConfig, plans: int = 200
) -> dict[str, Any]:
    """Measure how the time of a plan divides among the stages of the search.

    Plans for an object-position goal start from random latents, with the configured number of
    candidates. The stages are ``actor_step`` (one model step of the actor's proposals),
    ``rollout`` and ``cost_terms``. For each stage the result gives calls, ms and GFLOP per plan
    (matrix products only; a multiplication and an addition count as two), and its GFLOPS as a
    share of those that a product of two 1024 x 1024 matrices reaches on this machine.
    ``other_ms`` is the time between the stages.

    Raises:
        ConfigError: the checkpoint holds a LeWorldModel.
    """
    model = checkpoint.model
    if not isinstance(model, WorldModel):
        raise ConfigError('bench stages: expected a compact world model, got an official one')
    torch.set_num_threads(planner.threads)
    timer = _StageTimer(select_compiler(planner))
    goal = PositionGoal('object', np.array([0.5, 0.1, 0.025]))
    search = Planner(
        PlanningModel.from_checkpoint(checkpoint),
        replace(planner, deadline_ms=float('inf')),
        compile_stages=StageCompiler(timer.compile, model, checkpoint.probes, planner),
    )
    generator = torch.Generator().manual_seed(0)

    def latency_ms() -> float:
        z = torch.randn(1, model.latent_dim, generator=generator)
        return search.plan(StartState(z, z.repeat(1, model.past)), goal).latency_ms

    for _ in range(WARM_UP_RUNS):
        latency_ms()
    timer.times_ms.clear()
    mean_ms = float(np.mean([latency_ms() for _ in range(plans)]))
    peak = _peak_gflops()
    stages_ms = sum(map(sum, timer.times_ms.values())) / plans
    return {
        'plan_ms_mean': round(mean_ms, 3),
        **timer.figures(plans, peak),
        'other_ms': round(mean_ms - stages_ms, 3),
        'peak_gflops': round(peak, 1),
        'backend': planner.backend,
        'candidates': planner.candidates,
        'iterations': planner.iterations,
        'threads': torch.get_num_threads(),
    }


class _StageTimer:
    """Compiler of stages that record the duration of their calls.

    Attributes:
        times_ms: duration of each call, by stage. flops: operations in one call, by stage.
    """

    def __init__(self, compile_function: Compile) -> None:
        self._compile_function = compile_function
        self.times_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.flops: dict[str, int] = {}

    def compile(
        self, function: StageFunction, modules: nn.Module, inputs: StageInputs, *rest: Any
    ) -> StageFunction:
        """Compile ``function`` and count its operations; see ``Compile`` for the arguments."""
        compiled, stage = self._compile_function(function, modules, inputs, *rest), str(rest[-1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(*inputs)
        self.flops[stage] = counter.get_total_flops()

        def timed(*inputs: Any) -> Any:
            began = time.perf_counter()
            outputs = compiled(*inputs)
            self.times_ms[stage].append((time.perf_counter() - began) * 1000.0)
            return outputs

        return timed

    def figures(self, plans: int, peak_gflops: float) -> dict[str, float]:
        """Return calls, ms and GFLOP per plan of each stage, and its share of peak GFLOPS."""
        figures = {}
        for stage, times_ms in self.times_ms.items():
            name, ms, calls = stage.split()[0], sum(times_ms) / plans, len(times_ms) / plans
            gflop = self.flops[stage] * calls / 1e9
            figures[f'{name}_calls'] = round(calls, 2)
            figures[f'{name}_ms'] = round(ms, 3)
            figures[f'{name}_gflop'] = round(gflop, 4)
            figures[f'{name}_share_of_peak'] = round(gflop / ms * 1e3 / peak_gflops, 3)
        return figures


def _peak_gflops(size: int = 1024, runs: int = 20) -> float:
    """Measure the GFLOPS of a product of two square matrices, with the planner's settings."""
    first, second = torch.randn(2, size, size)
    with fast_matmul(), torch.inference_mode():
        times = _time_ms(lambda: first @ second, runs)
    return 2.0 * size**3 / float(np.median(times)) / 1e6


def bench_encode(checkpoint: Checkpoint, runs: int = 300) -> dict[str, Any]:
    """Measure the latency of encoding one image with its proprioception."""
    shape, rng = checkpoint.contract.camera.image_shape, np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *shape), dtype=np.uint8)
    proprio = rng.normal(size=(1, len(checkpoint.model.normaliser.proprio_mean)))

    def encode() -> None:
        with torch.inference_mode():
            checkpoint.model.encode(image, proprio)

    return _percentiles('encode_ms', _time_ms(encode, runs))


def bench_sim(setup: SimulationSetup, steps: int = 500) -> dict[str, Any]:
    """Measure the duration of physics and rendering per control step."""
    with EpisodeRunner(setup, 'push') as runner:
        world, q = runner.world, runner.arm.home
        world.reset(runner.task.sample(BENCH_SEED))

        def simulate_control_step() -> None:
            for _ in range(setup.sim.time.ticks):
                world.command(q, np.zeros_like(q))
                world.step()

        return {
            **_percentiles('physics_ms_per_control_step', _time_ms(simulate_control_step, steps)),
            **_percentiles('render_ms', _time_ms(world.image, steps)),
            'image_px': world.arm.config.camera.width,
        }


def _time_ms(function: Callable[[], Any], runs: int) -> list[float]:
    for _ in range(min(WARM_UP_RUNS, runs)):
        function()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1000.0)
    return times


def _percentiles(name: str, values: list[float]) -> dict[str, float | None]:
    return {f'{name}_{key}': value for key, value in percentiles(values).items()}
