"""What takes a search its time, compiled as functions of tensors of one size each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..config import Contract, PlannerConfig
from ..model.probes import Probes
from ..model.world_model import WorldModel
from .costs import Stages, Task
from .local_search import advance
from .pose import PoseDynamics
from .search import unroll
from .thinning import thinned

Function = Callable[..., tuple[Tensor, ...]]
Compile = Callable[[Function, nn.Module, tuple[Tensor, ...], int, int, str], Function]
"""(function, modules, inputs, returned, threads, told), see ``compiled.Compiled``."""


class AsModule(nn.Module):
    """A function as a module, with the modules that hold the weights it uses."""

    def __init__(self, function: Function, modules: nn.Module) -> None:
        super().__init__()
        self.function, self.modules_used = function, modules

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns."""
        return self.function(*inputs)


class OfOneSize:
    """A function of tensors that runs in another way for one size of each, for others as it is."""

    def __init__(self, function: Function, own: list[Tensor], returned: int) -> None:
        """``own``: what its inputs are copied to. ``returned``: how many results are wanted."""
        self._function, self._inputs, self._returned = function, own, returned
        self._sizes = [x.shape for x in own]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns, as much of it as is wanted."""
        if [x.shape for x in inputs] != self._sizes:
            return self._function(*inputs)[: self._returned]
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        return self._run()

    def _run(self) -> tuple[Tensor, ...]:
        """The results of what was copied."""
        raise NotImplementedError


class CompiledStages(Stages):
    """The stages of tasks that are alike but for goal and start."""

    def __init__(self, advance: Function | None, unroll: Function, appraise: Function) -> None:
        self._advance, self._unroll, self._appraise = advance, unroll, appraise

    def advance(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``local_search.advance``."""
        assert self._advance is not None
        return self._advance(*inputs)

    def unroll(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``search.unroll``."""
        return self._unroll(*inputs)

    def appraise(self, start: Tensor, latents: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """See ``Task.appraise``."""
        return self._appraise(start, latents, place)


class StageCompiler:
    """Compiles the stages of searches in one world model, see ``thinning`` too."""

    def __init__(
        self,
        compile_function: Compile,
        model: WorldModel | PoseDynamics,
        probes: Probes,
        contract: Contract,
        config: PlannerConfig,
    ) -> None:
        self._make = compile_function
        base = model.model if isinstance(model, PoseDynamics) else model
        model = thinned(model)
        self._model, self._probes, self._threads = model, probes, config.threads
        self._told = f'{base.config} {contract}'
        skip, width = contract.time.frame_skip, contract.action_width
        self._rows, self._skip = config.candidates, skip
        self._z = torch.zeros(self._rows, model.latent)
        self._z_prev = torch.zeros(self._rows, model.past * model.latent)
        self._bounds = torch.zeros(2, width), torch.ones(()), torch.zeros(())
        self._actions = torch.zeros(self._rows, config.horizon * skip, width)
        self._latents = torch.zeros(self._rows, config.horizon, model.latent)
        before = self._actions[:1, 0]
        inputs = self._z[:1], self._z_prev[:1], self._actions, *self._bounds, before
        self._unroll = self._compile(partial(unroll, model, skip), inputs, 2, 'unroll')

    def __call__(self, task: Task) -> Stages:
        """Those of tasks that are as ``task`` but for goal and start."""
        z, place, advanced = self._z, task.place, None
        reach = None if task.reach is None else task.reach.tolist()
        told = f'{task.goal} {task.names} {task.lag} {task.spread is None} {reach} {task.config}'
        inputs = z[:1], self._latents, place
        appraised = self._compile(task.appraise, inputs, 2, f'appraise {told}', task)
        if task.heads is not None and task.heads.know(task.goal):
            actor, half = task.heads.actor, self._rows // 2
            known, done = self._actions[half:, : self._skip], self._actions[:, 0]
            drawn = z.new_zeros(half, actor.modes), z.new_zeros(half, actor.block)
            asked = place, z[:half, 0], *drawn
            inputs = z, self._z_prev, known, done, done, *asked, *self._bounds
            step = partial(advance, self._model, task)
            advanced = self._compile(step, inputs, 3, f'advance {told}', task)
        return CompiledStages(advanced, self._unroll, appraised)

    def _compile(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        inputs: tuple[Tensor, ...],
        returned: int,
        told: str,
        task: Task | None = None,
    ) -> Function:
        modules = nn.ModuleList([self._model, self._probes])
        if task is not None and task.heads is not None:
            modules.append(task.heads)
        told = f'{told} {self._told}'
        return self._make(function, modules, inputs, returned, self._threads, told)
