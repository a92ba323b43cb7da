"""Compiled plans agree with torch, and outputs that are not finite are not followed."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_arm.config import ConfigError, PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.evaluation.benchmarks import bench_stages
from jepa_arm.model.checkpoint import Checkpoint, load_actor_critic, load_checkpoint
from jepa_arm.planning.backends.agreement import agreement
from jepa_arm.planning.backends.predictor_compression import compress_predictor
from jepa_arm.planning.backends.stage_compiler import make_stage_compiler
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.objective import ActorQuery, PositionObjective, torch_stages
from jepa_arm.planning.planner import Planner, PlanningError
from jepa_arm.planning.rollout import StartState

POSITION = np.array([0.5, 0.1, 0.025])


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    return replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=float('inf'))


def make(
    checkpoint: Checkpoint, config: PlannerConfig, model: PlanningModel | None = None
) -> Planner:
    return Planner(
        model or PlanningModel.from_checkpoint(checkpoint),
        config,
        region=torch.tensor([[0.3, -0.3], [0.7, 0.3]]),
        compile_stages=make_stage_compiler(checkpoint, config),
    )


def start_state(checkpoint: Checkpoint, seed: int) -> StartState:
    """Return latents of two noise images."""
    camera, rng = checkpoint.contract.camera, np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, camera.height, camera.width, 3), dtype=np.uint8)
    proprio = np.array(checkpoint.model.normaliser.proprio_mean, dtype=np.float32)
    with torch.inference_mode():
        z = checkpoint.model.encode(images, np.stack([proprio, proprio]))
    return StartState(z[:1], z[1:])


@pytest.mark.parametrize('subject', ['object', 'tip'])
def test_compiled_plans_have_the_latents_and_costs_that_torch_computes(
    subject: str, checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    planner, goal = make(checkpoint, config), PositionGoal(subject, POSITION)
    low, high = bounds = torch.tensor([[-3.0, -0.5, -0.2], [0.4, 2.0, 0.1]])
    delay, previous_action = 0.3, torch.tensor([[0.2, -0.1, 0.4]])
    for seed in range(3):
        start = start_state(checkpoint, seed)
        limited = replace(
            start,
            action_bounds=bounds,
            delay_fraction=delay,
            previous_action=previous_action,
            speed_scale=0.5,
        )
        plan = planner.plan(limited, goal)
        assert plan.candidates == config.candidates * config.iterations
        assert plan.actions.abs().max() <= 0.5 + 1e-6
        sums = plan.actions.cumsum(0)
        assert torch.all(sums >= low - 1e-4) and torch.all(sums <= high + 1e-4)
        moved = torch.lerp(plan.actions, torch.cat([previous_action, plan.actions[:-1]]), delay)
        with torch.inference_mode():
            blocks = moved.reshape(1, config.horizon, -1)
            expected = checkpoint.model.rollout(start.z, start.z_prev, blocks)[0]
            offset = checkpoint.probes.read(subject, expected) - torch.tensor(POSITION).float()
        torch.testing.assert_close(plan.latents, expected, rtol=0, atol=0.1)  # bfloat16
        assert (plan.latents - expected).square().mean().sqrt() < 0.02
        if subject == 'tip':
            distance = config.distance_weight * float(offset.norm(dim=-1).mean())
            assert plan.terms['distance'] == pytest.approx(distance, abs=0.04)  # 2 mm


def test_compiled_proposals_agree_with_torch_for_each_subject(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    compiler = make_stage_compiler(checkpoint, config)
    model = PlanningModel.from_checkpoint(checkpoint)
    assert compiler is not None and model.actor_critic is not None
    actor, half = model.actor_critic.actor, config.candidates // 2
    start, proposals = start_state(checkpoint, 0), {}
    state, limits = start.rollout_state(3).expand(2 * half), start.action_limits(3)
    for subject in ('object', 'tip'):
        objective = PositionObjective(subject, model, config, None)
        query = ActorQuery(
            objective.goal_tensor(PositionGoal(subject, POSITION)),
            torch.linspace(0.1, 1.0, half),
            torch.zeros(half, actor.modes),
            torch.zeros(half, actor.block),
        )
        compiled, reference = compiler(objective).actor_step, torch_stages(objective).actor_step
        assert compiled is not None and reference is not None
        inputs = state, torch.zeros(half, 2, 3), query, limits
        with torch.inference_mode():
            found, expected = compiled(*inputs), reference(*inputs)
        proposals[subject] = found[0]
        for ours, theirs in zip(found, expected, strict=False):
            assert (ours - theirs).abs().median() < 0.01
            assert ((ours - theirs).abs() < 0.1).float().mean() > 0.95  # a mode may be another
    assert (proposals['object'] - proposals['tip'])[:half].abs().max() > 0.1


def test_compiled_costs_rank_candidates_as_torch_does(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    planner, goal = make(checkpoint, config), PositionGoal('object', POSITION)
    plans = [planner.plan(start_state(checkpoint, seed), goal) for seed in range(5)]
    figures = agreement(checkpoint, config, plans)
    assert figures['rank_correlation_p1'] > 0.98 and figures['regret'] < 0.01


def test_a_number_of_candidates_that_is_not_compiled_for_runs_in_torch(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    planner, goal = make(checkpoint, config), PositionGoal('object', POSITION)
    plan = planner.plan(start_state(checkpoint, 0), goal, config.candidates + 5)
    assert plan.candidates == config.candidates + 5
    assert np.isfinite(plan.cost)


def test_the_same_seed_gives_the_same_compiled_plans(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    goal, starts = PositionGoal('object', POSITION), [start_state(checkpoint, s) for s in range(3)]
    first, second = make(checkpoint, config), make(checkpoint, config)
    for start in starts:
        assert torch.equal(first.plan(start, goal).actions, second.plan(start, goal).actions)


def with_backends(name: str, values: Iterable[str], quick: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrize with torch, and with OpenVINO; all but ``quick`` as extended tests."""
    cases = [pytest.param(value, 'torch') for value in values]
    for value in values:
        marks = () if value in quick else pytest.mark.extended
        cases.append(pytest.param(value, 'openvino', marks=marks))
    return pytest.mark.parametrize((name, 'backend'), cases)


PARTS: dict[str, Callable[[Checkpoint], nn.Module]] = {
    'predictor': lambda checkpoint: checkpoint.model.predictor,
    'object position': lambda checkpoint: checkpoint.probes.object_position.position_net,
    'object std': lambda checkpoint: checkpoint.probes.object_position.precision_net,
    'tip setpoint': lambda checkpoint: checkpoint.probes.tip_target.position_net,
}


@with_backends('part', PARTS, quick=('predictor', 'object std'))
def test_a_network_that_is_not_finite_gives_no_plan(
    backend: str, part: str, checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    broken = replace(
        checkpoint, model=copy.deepcopy(checkpoint.model), probes=copy.deepcopy(checkpoint.probes)
    )
    with torch.no_grad():
        list(PARTS[part](broken).parameters())[-1].view(-1)[0] = torch.nan
    planner = make(broken, replace(config, backend=backend))
    with pytest.raises(PlanningError):
        planner.plan(start_state(checkpoint, 0), PositionGoal('object', POSITION))


@with_backends('output', ('logit', 'mean', 'log_std', 'first', 'second'), quick=('mean', 'first'))
def test_an_actor_critic_that_is_not_finite_is_not_followed(
    backend: str, output: str, checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    networks = load_actor_critic(checkpoint)
    assert networks is not None
    modes, means = networks.actor.modes, networks.actor.modes * networks.actor.block
    outputs = {'logit': (0, modes), 'mean': (modes, means), 'log_std': (modes + means, means)}
    first, count = outputs.get(output, (0, 1))
    network = networks.actor.net if output in outputs else getattr(networks.value, output)
    with torch.no_grad():
        list(network.parameters())[-1][first : first + count] = torch.nan
    model = replace(PlanningModel.from_checkpoint(checkpoint), actor_critic=networks)
    settings = replace(config, backend=backend)
    planner = make(checkpoint, settings, model)
    goal, start = PositionGoal('object', POSITION), start_state(checkpoint, 0)
    if output in outputs:  # half of the candidates do not come from the actor
        plan = planner.plan(start, goal)
        assert plan.source == 'search' and torch.isfinite(plan.actions).all()
        planner = make(checkpoint, replace(settings, optimizer='actor'), model)
    with pytest.raises(PlanningError):
        planner.plan(start, goal)


def test_a_backend_that_is_not_installed_is_reported(
    checkpoint: Checkpoint, config: PlannerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    for name in ('openvino_function', 'openvino_cache', 'openvino_import'):
        monkeypatch.delitem(sys.modules, f'jepa_arm.planning.backends.{name}', raising=False)
    with pytest.raises(ConfigError, match='openvino.*backend: torch'):
        make_stage_compiler(checkpoint, config)
    assert make_stage_compiler(checkpoint, replace(config, backend='torch')) is None
    with pytest.raises(ConfigError, match='backend'):
        replace(config, backend='onnx')


def test_compiling_writes_no_telemetry(tmp_path: Path) -> None:
    """OpenVINO's telemetry keeps an identity and statistics in ``~/intel``."""
    code = (
        'import sys, torch\n'
        'from jepa_arm.planning.backends.openvino_function import OpenVINOFunction\n'
        'net = torch.nn.Linear(2, 2).requires_grad_(False)\n'
        'x = torch.ones(1, 2)\n'
        'print(OpenVINOFunction(lambda x: (net(x),), net, (x,), 1, 1, "net")(x))\n'
        'assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)'
    )
    environment = {**os.environ, 'HOME': str(tmp_path), 'XDG_CACHE_HOME': ''}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True, timeout=60)
    assert [folder.name for folder in tmp_path.iterdir()] == ['.cache']


class Doubled(nn.Module):
    """Module that counts how often it is traced."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([factor]), requires_grad=False)
        self.traces = 0

    def forward(self, x: Tensor) -> tuple[Tensor]:
        self.traces += 1
        return (self.weight * x,)


def test_the_cache_is_used_unless_it_is_broken_or_of_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepa_arm.planning.backends.openvino_function import OpenVINOFunction

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))

    def is_converted(factor: float = 2.0) -> bool:
        net, x = Doubled(factor), torch.ones(1, 1)
        compiled = OpenVINOFunction(net.forward, net, (x,), 1, 1, 'doubled')
        assert float(compiled(x)[0]) == factor
        return net.traces > 0

    assert [is_converted(), is_converted()] == [True, False]
    assert [is_converted(3.0), is_converted(3.0)] == [True, False]
    weights = sorted((tmp_path / 'jepa_arm').glob('*.bin'))
    assert len(weights) == 2
    for file in weights:
        file.write_bytes(file.read_bytes()[:-1] + b'X')
    assert is_converted() and is_converted(3.0)
    for file in weights:
        file.unlink()
    assert is_converted()
    monkeypatch.setenv('XDG_CACHE_HOME', '/proc/nowhere')
    assert is_converted() and is_converted()

    def homeless() -> Path:
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setattr(Path, 'home', homeless)
    assert is_converted()


def test_the_times_of_the_stages_add_up_to_that_of_a_plan(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    settings = replace(config, backend='torch', candidates=4, min_candidates=4, elites=2)
    figures = bench_stages(checkpoint, settings, plans=2)
    stages = ('actor_step', 'rollout', 'cost_terms')
    assert [figures[f'{stage}_calls'] for stage in stages] == [5.0, 1.0, 2.0]
    parts = [figures[f'{stage}_ms'] for stage in stages]
    assert sum(parts) + figures['other_ms'] == pytest.approx(figures['plan_ms_mean'], abs=0.01)
    assert min(*parts, figures['other_ms'], figures['peak_gflops']) > 0.0
    network = compress_predictor(checkpoint.model.predictor)
    weights = sum(parameter.numel() for parameter in network.parameters())
    rollout = 2.0 * figures['candidates'] * config.horizon * weights
    assert figures['rollout_gflop'] == pytest.approx(rollout / 1e9, rel=0.05)
