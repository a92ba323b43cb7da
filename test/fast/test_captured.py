"""Plans on a GPU: what is captured there is what torch computes, and all of it is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from jepa_arm.config import ConfigError, PlannerConfig, load
from jepa_arm.goals import PositionGoal
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint
from jepa_arm.model.world_model import WorldModel
from jepa_arm.planning.captured import exported
from jepa_arm.planning.costs import Task
from jepa_arm.planning.heads import load_heads
from jepa_arm.planning.pose import PoseDynamics, PoseTask
from jepa_arm.planning.pose_heads import load_pose_heads
from jepa_arm.planning.runtime import agreement, stage_compiler
from jepa_arm.planning.search import Start
from jepa_arm.planning.stages import Function, StageCompiler
from jepa_arm.resources import checkpoint_path, config_path

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope='module')
def checkpoint() -> Checkpoint:
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    return load(PlannerConfig, config_path('planner.yaml'))


class Stage:
    """Stands for a captured function: runs it where it is moved to, and remembers what came."""

    def __init__(self) -> None:
        self.seen = list[tuple[Tensor, Tensor, Tensor]]()

    def __call__(
        self,
        function: Function,
        modules: nn.Module,
        inputs: tuple[Tensor, ...],
        returned: int,
        threads: int,
        told: str,
    ) -> Function:
        program = exported(function, modules, inputs)

        def call(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                here, expected = program.module()(*inputs), function(*inputs)
                there = move_to_device_pass(program, 'meta').module()
                moved = there(*(x.to('meta') for x in inputs))
            self.seen += list(zip(here, moved, expected, strict=True))[:returned]
            return expected

        return call


def ask(kind: str, stage: Stage, checkpoint: Checkpoint, config: PlannerConfig) -> None:
    """Has each stage of a search for such a goal computed once."""
    model, probes, poses = checkpoint.model, checkpoint.probes, load_pose_heads(checkpoint)
    assert isinstance(model, WorldModel) and poses is not None
    dynamics: WorldModel | PoseDynamics = model
    reach, place = torch.tensor([[0.3, -0.3], [0.7, 0.3]]), np.array([0.5, 0.1, 0.025])
    if kind == 'pose':
        dynamics = PoseDynamics(model, probes, poses)
        goal = PositionGoal('object', place, yaw=0.3)
        read, spread = dynamics.read, dynamics.spread
        task: Task = PoseTask(goal, torch.zeros(1, 0), read, poses, config, 0.5, spread, reach)
    else:
        heads, goal = load_heads(checkpoint), PositionGoal(kind, place)
        read, spread = probes.read, probes.spread
        task = Task(goal, torch.zeros(1, 0), read, heads, config, 0.5, spread, reach)
    stages = StageCompiler(stage, dynamics, probes, checkpoint.contract, config)(task)
    torch.manual_seed(0)
    heads, rows, half = task.heads, config.candidates, config.candidates // 2
    skip, width = checkpoint.contract.time.frame_skip, checkpoint.contract.action_width
    start = Start(
        torch.randn(1, dynamics.latent), torch.randn(1, dynamics.past * dynamics.latent), None
    )
    actions, bounds = torch.rand(rows, config.horizon * skip, width) - 0.5, start.bounds(width)
    _, latents = stages.unroll(start.z, start.z_prev, actions, *bounds)
    stages.appraise(start.z, latents, task.place)
    assert heads is not None
    drawn = torch.rand(half, heads.actor.modes), torch.randn(half, heads.actor.block)
    asked = task.place, torch.linspace(0.1, 1.0, half), *drawn
    rest = actions[half:, :skip], actions[:, 0], actions[:, 1], *asked, *bounds[:3]
    stages.advance(start.z.expand(rows, -1), start.z_prev.expand(rows, -1), *rest)


@pytest.mark.parametrize('kind', ['object', 'pose'])
def test_what_is_captured_is_what_torch_computes_and_leaves_the_cpu(
    kind: str, checkpoint: Checkpoint, config: PlannerConfig
) -> None:
    """An operation on tensors of two devices raises; the meta device is there on any machine."""
    stage = Stage()
    ask(kind, stage, checkpoint, replace(config, horizon=2))
    assert len(stage.seen) == 7
    for here, moved, expected in stage.seen:
        torch.testing.assert_close(here, expected)
        assert moved.device.type == 'meta' and moved.shape == expected.shape


@pytest.mark.skipif(HAS_GPU, reason='there is a GPU')
def test_without_a_gpu_it_is_told(checkpoint: Checkpoint, config: PlannerConfig) -> None:
    with pytest.raises(ConfigError, match='expected a GPU.*set runtime: openvino'):
        stage_compiler(checkpoint, replace(config, runtime='cuda'))


@pytest.mark.skipif(not HAS_GPU, reason='needs a GPU that torch can use')
def test_plans_on_a_gpu_price_as_in_torch(checkpoint: Checkpoint, config: PlannerConfig) -> None:
    from jepa_arm.planning.planner import Planner

    settings = replace(config, runtime='cuda', deadline_ms=float('inf'))
    probes, goal = checkpoint.probes, PositionGoal('object', np.array([0.5, 0.1, 0.025]))
    planner = Planner(
        checkpoint.model,
        probes.read,
        load_heads(checkpoint),
        checkpoint.contract,
        settings,
        spread=probes.spread,
        compile_stages=stage_compiler(checkpoint, settings),
    )
    plans = []
    for seed in range(5):
        torch.manual_seed(seed)
        z = torch.randn(1, checkpoint.model.latent)
        plans.append(planner.plan(z, z + 0.05 * torch.randn_like(z), goal))
    told = agreement(checkpoint, settings, plans)
    assert told['rank_correlation_p1'] > 0.98 and told['regret'] < 0.01
