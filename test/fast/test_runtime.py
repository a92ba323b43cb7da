"""Plans compiled for the processor are those of torch; what is broken is not followed."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_arm.bench import bench_stages
from jepa_arm.config import ConfigError, PlannerConfig, load
from jepa_arm.goals import PositionGoal
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint
from jepa_arm.planning.costs import Task
from jepa_arm.planning.heads import load_heads
from jepa_arm.planning.local_search import advance
from jepa_arm.planning.planner import Plan, Planner, PlanningError
from jepa_arm.planning.runtime import agreement, stage_compiler
from jepa_arm.planning.search import Start
from jepa_arm.planning.thinning import thinned
from jepa_arm.resources import checkpoint_path, config_path

PLACE = np.array([0.5, 0.1, 0.025])


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    return replace(load(PlannerConfig, config_path('planner.yaml')), deadline_ms=float('inf'))


def make(checkpoint: Checkpoint, config: PlannerConfig) -> Planner:
    probes = checkpoint.probes
    return Planner(
        checkpoint.model,
        probes.read,
        load_heads(checkpoint),
        checkpoint.contract,
        config,
        spread=probes.spread,
        reach=torch.tensor([[0.3, -0.3], [0.7, 0.3]]),
        compile_stages=stage_compiler(checkpoint, config),
    )


def latents(checkpoint: Checkpoint, seed: int) -> tuple[Tensor, Tensor]:
    """(1, D) of a noise image and of another one before it."""
    camera, rng = checkpoint.contract.camera, np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, camera.height, camera.width, 3), dtype=np.uint8)
    proprio = np.array(checkpoint.model.normaliser.proprio_mean, dtype=np.float32)
    with torch.inference_mode():
        z = checkpoint.model.encode(images, np.stack([proprio, proprio]))
    return z[:1], z[1:]


@pytest.mark.parametrize('subject', ['object', 'tip'])
def test_compiled_plans_price_and_lead_as_in_torch(
    subject: str, checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    planner, goal = make(checkpoint, config), PositionGoal(subject, PLACE)
    room = torch.tensor([[-3.0, -0.5, -0.2], [0.4, 2.0, 0.1]])
    for seed in range(3):
        z, z_prev = latents(checkpoint, seed)
        late, before = 0.3, torch.tensor([[0.2, -0.1, 0.4]])
        plan = planner.plan(z, z_prev, goal, room, late, before, speed=0.5)
        assert plan.candidates == config.candidates * config.sweeps
        assert plan.actions.abs().max() <= 0.5 + 1e-6
        place = plan.actions.cumsum(0)
        assert torch.all(place >= room[0] - 1e-4) and torch.all(place <= room[1] + 1e-4)
        moved = torch.lerp(plan.actions, torch.cat([before, plan.actions[:-1]]), late)
        with torch.inference_mode():
            expected = checkpoint.model.rollout(z, z_prev, moved.reshape(1, config.horizon, -1))[0]
            where = checkpoint.probes.read(subject, expected) - torch.tensor(PLACE).float()
        torch.testing.assert_close(plan.latents, expected, rtol=0, atol=0.1)  # bfloat16
        assert (plan.latents - expected).square().mean().sqrt() < 0.02
        if subject == 'tip':
            distance = config.distance_weight * float(where.norm(dim=-1).mean())
            assert plan.terms['distance'] == pytest.approx(distance, abs=0.04)  # 2 mm


def test_proposals_are_those_of_torch_for_each_kind_of_goal(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    heads, probes, half = load_heads(checkpoint), checkpoint.probes, config.candidates // 2
    assert heads is not None
    compiler = stage_compiler(checkpoint, config)
    assert compiler is not None
    z, z_prev = (x.expand(2 * half, -1) for x in latents(checkpoint, 0))
    drawn = torch.zeros(half, heads.actor.modes), torch.zeros(half, heads.actor.block)
    told = {}
    for subject in ('object', 'tip'):
        task = Task(PositionGoal(subject, PLACE), z[:1], probes.read, heads, config, 0.5)
        bounds = Start(z[:1], z_prev[:1], None).bounds(3)
        known, done = torch.zeros(half, 2, 3), torch.zeros(2 * half, 3)
        asked = task.place, torch.linspace(0.1, 1.0, half), *drawn
        inputs = z, z_prev, known, done, done, *asked, *bounds[:3]
        with torch.inference_mode():
            found = compiler(task).advance(*inputs)
            expected = advance(checkpoint.model, task, *inputs)
        told[subject] = found[0]
        for ours, theirs in zip(found, expected, strict=False):
            assert (ours - theirs).abs().median() < 0.01
            assert ((ours - theirs).abs() < 0.1).float().mean() > 0.95  # a mode may be another
    assert (told['object'] - told['tip'])[:half].abs().max() > 0.1


def test_candidates_are_ranked_as_in_torch(checkpoint: Checkpoint, config: PlannerConfig) -> None:
    planner, goal = make(checkpoint, config), PositionGoal('object', PLACE)
    plans: list[Plan] = [planner.plan(*latents(checkpoint, s), goal) for s in range(5)]
    told = agreement(checkpoint, config, plans)
    assert told['rank_correlation_p1'] > 0.98 and told['regret'] < 0.01


def test_a_smaller_effort_is_paid_for_in_torch(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    planner, goal = make(checkpoint, config), PositionGoal('object', PLACE)
    plan = planner.plan(*latents(checkpoint, 0), goal, most=config.candidates + 5)
    assert plan.candidates == config.candidates + 5
    assert np.isfinite(plan.cost)


def test_the_same_seed_gives_the_same_plans(checkpoint: Checkpoint, config: PlannerConfig) -> None:
    goal, found = PositionGoal('object', PLACE), []
    for _ in range(2):
        planner = make(checkpoint, config)
        found.append([planner.plan(*latents(checkpoint, s), goal).actions for s in range(3)])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def model(checkpoint: Checkpoint) -> nn.Module:
    return checkpoint.model.predictor


def probe(checkpoint: Checkpoint) -> nn.Module:
    return checkpoint.probes.object_position.mlp


def tip(checkpoint: Checkpoint) -> nn.Module:
    return checkpoint.probes.tip_target.mlp


def spread(checkpoint: Checkpoint) -> nn.Module:
    return checkpoint.probes.object_position.spread


@pytest.mark.parametrize('part', [model, probe, tip, spread])
@pytest.mark.parametrize('runtime', ['openvino', 'torch'])
def test_a_network_that_is_not_finite_gives_no_plan(
    runtime: str,
    part: Callable[[Checkpoint], nn.Module],
    checkpoint: Checkpoint,
    config: PlannerConfig,
) -> None:
    broken = replace(
        checkpoint, model=copy.deepcopy(checkpoint.model), probes=copy.deepcopy(checkpoint.probes)
    )
    with torch.no_grad():
        list(part(broken).parameters())[-1].view(-1)[0] = torch.nan
    planner = make(broken, replace(config, runtime=runtime))
    with pytest.raises(PlanningError, match='finite'):
        planner.plan(*latents(checkpoint, 0), PositionGoal('object', PLACE))


@pytest.mark.parametrize('head', ['logit', 'mean', 'log_std', 'first', 'second'])
@pytest.mark.parametrize('runtime', ['openvino', 'torch'])
def test_a_head_that_is_not_finite_is_not_followed(
    runtime: str, head: str, checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    heads = load_heads(checkpoint)
    assert heads is not None
    modes, means = heads.actor.modes, heads.actor.modes * heads.actor.block
    outputs = {'logit': (0, modes), 'mean': (modes, means), 'log_std': (modes + means, means)}
    first, count = outputs.get(head, (0, 1))
    net = heads.actor.net if head in outputs else getattr(heads.value, head)
    with torch.no_grad():
        net[-1].bias[first : first + count] = torch.nan
    settings = replace(config, runtime=runtime)
    probes = checkpoint.probes
    planner = Planner(
        checkpoint.model,
        probes.read,
        heads,
        checkpoint.contract,
        settings,
        spread=probes.spread,
        compile_stages=stage_compiler(checkpoint, settings),
    )
    goal = PositionGoal('object', PLACE)
    if head in outputs:  # half of the candidates are not the actor's
        plan = planner.plan(*latents(checkpoint, 0), goal)
        assert plan.source == 'search' and torch.isfinite(plan.actions).all()
        others = replace(settings, optimizer='actor')
        alone = Planner(
            checkpoint.model,
            probes.read,
            heads,
            checkpoint.contract,
            others,
            compile_stages=stage_compiler(checkpoint, others),
        )
        with pytest.raises(PlanningError, match='finite'):
            alone.plan(*latents(checkpoint, 0), goal)
    else:
        with pytest.raises(PlanningError, match='finite'):
            planner.plan(*latents(checkpoint, 0), goal)


def test_a_runtime_that_is_not_there_is_told(
    checkpoint: Checkpoint, config: PlannerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    for name in ('compiled', 'kept_models', 'quiet_openvino'):
        monkeypatch.delitem(sys.modules, f'jepa_arm.planning.{name}', raising=False)
    with pytest.raises(ConfigError, match='expected the package openvino.*runtime: torch'):
        stage_compiler(checkpoint, config)
    assert stage_compiler(checkpoint, replace(config, runtime='torch')) is None
    with pytest.raises(ConfigError, match="expected one of openvino, torch, cuda, got 'onnx'"):
        replace(config, runtime='onnx')


def test_compiling_tells_nobody(tmp_path: Path) -> None:
    """OpenVINO's telemetry keeps an identity and statistics in ``~/intel``."""
    code = (
        'import sys, torch; from jepa_arm.planning.compiled import Compiled\n'
        'net = torch.nn.Linear(2, 2).requires_grad_(False)\n'
        'x = torch.ones(1, 2)\n'
        'print(Compiled(lambda x: (net(x),), net, (x,), 1, 1, "net")(x))\n'
        'assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)'
    )
    environment = {**os.environ, 'HOME': str(tmp_path), 'XDG_CACHE_HOME': ''}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True, timeout=60)
    assert [folder.name for folder in tmp_path.iterdir()] == ['.cache']


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.weight * x,)


def test_what_is_kept_is_used_unless_it_is_broken_or_of_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepa_arm.planning import compiled

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    made, convert = [], compiled._converted
    monkeypatch.setattr(compiled, '_converted', lambda *a: made.append(a) or convert(*a))

    def doubled(factor: float = 2.0) -> float:
        net, x = Doubled(), torch.ones(1, 1)
        net.weight.fill_(factor)
        return float(compiled.Compiled(net.forward, net, (x,), 1, 1, 'doubled')(x)[0])

    assert doubled() == doubled() == 2.0 and len(made) == 1
    assert doubled(3.0) == 3.0 and len(made) == 2
    weights = sorted((tmp_path / 'jepa_arm').glob('*.bin'))
    assert len(weights) == 2
    for file in weights:
        file.write_bytes(file.read_bytes()[:-1] + b'X')
    assert doubled() == 2.0 and doubled(3.0) == 3.0 and len(made) == 4
    for file in weights:
        file.unlink()
    assert doubled() == 2.0 and len(made) == 5
    monkeypatch.setenv('XDG_CACHE_HOME', '/proc/nowhere')
    assert doubled() == doubled() == 2.0 and len(made) == 7

    def homeless() -> Path:
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setattr(Path, 'home', homeless)
    assert doubled() == 2.0 and len(made) == 8


def test_where_the_time_of_a_plan_goes_is_told_stage_by_stage(
    checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    settings = replace(config, runtime='torch', candidates=4, fewest_candidates=4, elites=2)
    told = bench_stages(checkpoint, settings, plans=2)
    calls = {stage: told[f'{stage}_calls'] for stage in ('advance', 'unroll', 'appraise')}
    assert calls == {'advance': 5.0, 'unroll': 1.0, 'appraise': 2.0}
    parts = [told[f'{stage}_ms'] for stage in calls]
    assert sum(parts) + told['other_ms'] == pytest.approx(told['plan_ms_mean'], abs=0.01)
    assert min(*parts, told['other_ms'], told['peak_gflops']) > 0.0
    rollout = 2.0 * told['candidates'] * config.horizon * size(thinned(checkpoint.model.predictor))
    assert told['unroll_gflop'] == pytest.approx(rollout / 1e9, rel=0.05)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
