"""Stage compiler: compiles the stages of a search for the configured backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from jepa_arm.config import ConfigError, PlannerConfig
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import WorldModel
from jepa_arm.planning.objective import (
    ActorQuery,
    Objective,
    StageFunction,
    StageInputs,
    Stages,
    actor_step,
)
from jepa_arm.planning.pose_dynamics import PoseDynamics
from jepa_arm.planning.rollout import ActionLimits, RolloutState, rollout

from .predictor_compression import compress_predictor

Compile = Callable[[StageFunction, nn.Module, StageInputs, int, int, str], StageFunction]
"""(function, modules, inputs, returned, threads, cache_key), see ``OpenVINOFunction``."""


class StageCompiler:
    """Compiles the stages of searches in one world model, and compresses its predictor."""

    def __init__(
        self,
        compile_function: Compile,
        model: WorldModel | PoseDynamics,
        probes: Probes,
        config: PlannerConfig,
    ) -> None:
        """Compile the rollout, which all kinds of goals share.

        Args:
            compile_function: compiles one function.
            model: world model that is searched. probes: read positions from its latents.
            config: configuration of the search.
        """
        base = model.model if isinstance(model, PoseDynamics) else model
        contract = base.contract
        self._compile_function, self._threads = compile_function, config.threads
        self._model, self._probes = compress_predictor(model), probes
        self._cache_key = f'{base.config} {contract}'
        rows, skip, width = config.candidates, contract.time.frame_skip, contract.action_width
        self._proposals, self._skip = rows // 2, skip
        self._state = RolloutState(
            torch.zeros(rows, model.latent_dim),
            torch.zeros(rows, model.past * model.latent_dim),
            torch.zeros(rows, width),
            torch.zeros(rows, width),
        )
        self._limits = ActionLimits(torch.zeros(2, width), torch.ones(()), torch.zeros(()))
        self._actions = torch.zeros(rows, config.horizon * skip, width)
        self._latents = torch.zeros(rows, config.horizon, model.latent_dim)
        start = RolloutState(*(x[:1] for x in self._state))
        inputs = start, self._actions, self._limits
        self._rollout = self._compile(partial(rollout, self._model, skip), inputs, 2, 'rollout')

    def __call__(self, objective: Objective) -> Stages:
        """Return the compiled stages of searches towards goals of ``objective``."""
        key, z = objective.cache_key, self._state.z
        goal = torch.zeros(1, objective.goal_width)
        inputs = z[:1], self._latents, goal
        cost_terms = self._compile(objective.cost_terms, inputs, 2, f'cost_terms {key}', objective)
        step = None
        if objective.actor_critic is not None:
            actor, count = objective.actor_critic.actor, self._proposals
            noise = z.new_zeros(count, actor.modes), z.new_zeros(count, actor.block)
            query = ActorQuery(goal, torch.zeros(count), *noise)
            inputs = self._state, self._actions[count:, : self._skip], query, self._limits
            function = partial(actor_step, self._model, objective)
            step = self._compile(function, inputs, 3, f'actor_step {key}', objective)
        return Stages(step, self._rollout, cost_terms)

    def _compile(
        self,
        function: StageFunction,
        inputs: StageInputs,
        returned: int,
        cache_key: str,
        objective: Objective | None = None,
    ) -> StageFunction:
        modules = nn.ModuleList([self._model, self._probes])
        if objective is not None and objective.actor_critic is not None:
            modules.append(objective.actor_critic)
        cache_key = f'{cache_key} {self._cache_key}'
        return self._compile_function(
            function, modules, inputs, returned, self._threads, cache_key
        )


def make_stage_compiler(
    checkpoint: Checkpoint, config: PlannerConfig, poses: PoseDynamics | None = None
) -> StageCompiler | None:
    """Return the compiler of a search's stages, or None if torch runs them.

    Torch always runs LeWorldModel, and searches other than 'local'.

    Args:
        checkpoint: world model and probes. config: backend and search.
        poses: dynamics that are searched instead of the world model, if given.

    Raises:
        ConfigError: the configuration asks for OpenVINO, which is not installed.
    """
    model = checkpoint.model
    is_compiled = config.backend != 'torch' and config.optimizer == 'local'
    if not is_compiled or not isinstance(model, WorldModel):
        return None
    dynamics = model if poses is None else poses
    return StageCompiler(select_compiler(config), dynamics, checkpoint.probes, config)


def select_compiler(config: PlannerConfig) -> Compile:
    """Return the backend's function for compiling functions; that of torch leaves them unchanged.

    Raises:
        ConfigError: the configuration asks for OpenVINO, which is not installed.
    """
    if config.backend == 'torch':
        return lambda function, *_: function
    try:
        from .openvino_function import OpenVINOFunction
    except ImportError as error:
        raise ConfigError(
            f'backend: expected the package openvino, got: {error}; install it '
            '(pip install openvino), or set backend: torch in config/planner.yaml'
        ) from error
    return OpenVINOFunction
