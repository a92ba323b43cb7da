"""What takes a search its time, compiled by OpenVINO for the processor it runs on.

A plan asks hundreds of small layers. In torch most of its time goes into starting each of them
and into bringing their weights into the processor's own form, every time anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from ..config import Contract, PlannerConfig
from ..model.probes import Probes
from ..model.world_model import WorldModel
from .costs import Stages, Task
from .kept_models import fingerprint, kept
from .local_search import advance
from .pose import PoseDynamics
from .quiet_openvino import FrontEndManager, TorchScriptPythonDecoder, openvino
from .search import unroll
from .thinning import thinned


class Compiled:
    """A function of tensors, compiled for one size of each; for other sizes it runs in torch.

    Networks compute in bfloat16 where the processor has a unit for that, else in single
    precision. So does all that leads from one network to another; what is returned is made in
    single precision from what its last networks give. What is not finite stays so. For one
    thread at a time.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        modules: nn.Module,
        inputs: tuple[Tensor, ...],
        returned: int,
        threads: int,
        told: str,
    ) -> None:
        """Traces ``function`` with ``inputs``, or takes what was kept of that, and compiles it.

        Args:
            function: of tensors.
            modules: hold the weights it uses.
            inputs: examples.
            returned: how many of its results are wanted. threads: to compute with.
            told: all else that it depends on, but for the source: no two functions alike.
        """
        name = fingerprint(modules, f'{told} {[tuple(x.shape) for x in inputs]}')
        self._function, self._returned = function, returned
        self._inputs = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
        self._sizes = [x.shape for x in inputs]
        model = kept(name, lambda: _converted(function, modules, inputs))
        model.reshape({i: list(size) for i, size in enumerate(self._sizes)})
        settings = {
            'INFERENCE_PRECISION_HINT': precision(),
            'INFERENCE_NUM_THREADS': threads,
            'NUM_STREAMS': 1,
            'ENABLE_CPU_PINNING': False,  # cores are for all of the graph
        }
        compiled = _core().compile_model(model, 'CPU', settings)
        self._request = compiled.create_infer_request()
        self._outputs = [torch.zeros(tuple(x.shape)) for x in compiled.outputs[:returned]]
        for i, x in enumerate(self._inputs):
            self._request.set_input_tensor(i, _shared(x))
        for i, x in enumerate(self._outputs):
            self._request.set_output_tensor(i, _shared(x))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns, as much of it as is wanted."""
        if [x.shape for x in inputs] != self._sizes:
            return self._function(*inputs)[: self._returned]
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._request.infer()
        return tuple(x.clone() for x in self._outputs)


def _converted(
    function: Callable[..., tuple[Tensor, ...]], modules: nn.Module, inputs: tuple[Tensor, ...]
) -> openvino.Model:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # tracing is how OpenVINO reads a torch function
        traced = torch.jit.trace(_Traced(function, modules), inputs, check_trace=False)
    frontend = FrontEndManager().load_by_framework('pytorch')
    decoder = TorchScriptPythonDecoder(traced, example_input=inputs)  # is to live till the end
    return frontend.convert(frontend.load(decoder))


def _shared(tensor: Tensor) -> openvino.Tensor:
    """Its memory, which must live as long."""
    return openvino.Tensor(tensor.numpy(), shared_memory=True)


class _Traced(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], modules: nn.Module) -> None:
        super().__init__()
        self.function, self.modules_used = function, modules

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.function(*inputs)


class CompiledStages(Stages):
    """The stages of tasks that are alike but for goal and start."""

    def __init__(self, advance: Compiled | None, unroll: Compiled, appraise: Compiled) -> None:
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
        model: WorldModel | PoseDynamics,
        probes: Probes,
        contract: Contract,
        config: PlannerConfig,
    ) -> None:
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
    ) -> Compiled:
        modules = nn.ModuleList([self._model, self._probes])
        if task is not None and task.heads is not None:
            modules.append(task.heads)
        told = f'{told} {self._told}'
        return Compiled(function, modules, inputs, returned, self._threads, told)


def precision() -> str:
    """'bf16' where this processor multiplies matrices in it, else 'f32'."""
    able = _core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    return 'bf16' if 'BF16' in able else 'f32'


@cache
def _core() -> openvino.Core:
    return openvino.Core()
