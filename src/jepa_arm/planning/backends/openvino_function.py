"""OpenVINO functions: functions of tensors, compiled for the CPU that they run on.

A plan runs hundreds of small layers. In torch, most of its time goes into launching them and into
repacking their weights for the processor on every call.
"""

from __future__ import annotations

import warnings
from itertools import islice

import torch
from torch import Tensor, nn

from jepa_arm.planning.objective import StageFunction, StageInputs

from .openvino_cache import core, load_or_convert, model_name
from .openvino_import import FrontEndManager, TorchScriptPythonDecoder, openvino


class OpenVINOFunction:
    """Function of tensors, compiled for fixed input sizes; with other sizes it runs in torch.

    Networks, and everything between them, compute in bfloat16 if the processor supports it,
    otherwise in single precision. Results are computed in single precision from the outputs of
    the last networks. Non-finite values stay non-finite. Not thread-safe.
    """

    def __init__(
        self,
        function: StageFunction,
        modules: nn.Module,
        inputs: StageInputs,
        returned: int,
        threads: int,
        cache_key: str,
    ) -> None:
        """Convert ``function``, or read a cached conversion, and compile it.

        Args:
            function: takes tensors and NamedTuples of tensors.
            modules: hold the weights that it uses.
            inputs: example inputs, which fix the sizes.
            returned: number of results to return, counted from the first.
            threads: number of threads to compute with.
            cache_key: identifies the function and everything that it depends on, except weights
                and source code.
        """
        self._function, self._returned = function, returned
        flat = flatten(inputs)
        self._inputs = [x.clone(memory_format=torch.contiguous_format) for x in flat]
        self._sizes = [x.shape for x in flat]
        name = model_name(modules, f'{cache_key} {[tuple(size) for size in self._sizes]}')
        model = load_or_convert(name, lambda: convert(function, modules, inputs))
        model.reshape({i: list(size) for i, size in enumerate(self._sizes)})
        capabilities = core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        settings = {
            'INFERENCE_PRECISION_HINT': 'bf16' if 'BF16' in capabilities else 'f32',
            'INFERENCE_NUM_THREADS': threads,
            'NUM_STREAMS': 1,
            'ENABLE_CPU_PINNING': False,  # the other nodes need the cores too
        }
        compiled = core().compile_model(model, 'CPU', settings)
        self._request = compiled.create_infer_request()
        self._outputs = [torch.zeros(tuple(x.shape)) for x in compiled.outputs[:returned]]
        for i, x in enumerate(self._inputs):
            self._request.set_input_tensor(i, _shared(x))
        for i, x in enumerate(self._outputs):
            self._request.set_output_tensor(i, _shared(x))

    def __call__(self, *inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the first ``returned`` results of the function."""
        flat = flatten(inputs)
        if [x.shape for x in flat] != self._sizes:
            return self._function(*inputs)[: self._returned]
        for own, given in zip(self._inputs, flat, strict=True):
            own.copy_(given)
        self._request.infer()
        return tuple(x.clone() for x in self._outputs)


class FunctionModule(nn.Module):
    """Module that takes a flat list of tensors and regroups them into the inputs of a function."""

    def __init__(self, function: StageFunction, modules: nn.Module, inputs: StageInputs) -> None:
        super().__init__()
        self.modules_used = modules
        self._function, self._examples = function, inputs

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """Return the results of the function."""
        rest = iter(flat)
        return self._function(
            *(
                next(rest) if isinstance(x, Tensor) else type(x)(*islice(rest, len(x)))
                for x in self._examples
            )
        )


def flatten(inputs: StageInputs) -> list[Tensor]:
    """Return the tensors in ``inputs`` as a flat list, with NamedTuples unpacked."""
    flat: list[Tensor] = []
    for x in inputs:
        flat += [x] if isinstance(x, Tensor) else x
    return flat


def convert(function: StageFunction, modules: nn.Module, inputs: StageInputs) -> openvino.Model:
    """Trace ``function`` with ``inputs`` and convert it to an OpenVINO model."""
    flat = tuple(flatten(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about tracing, which OpenVINO needs
        module = FunctionModule(function, modules, inputs)
        traced = torch.jit.trace(module, flat, check_trace=False)
    frontend = FrontEndManager().load_by_framework('pytorch')
    decoder = TorchScriptPythonDecoder(traced, example_input=flat)  # must outlive the conversion
    return frontend.convert(frontend.load(decoder))


def _shared(tensor: Tensor) -> openvino.Tensor:
    """Return an OpenVINO tensor that shares the memory of ``tensor``, which must outlive it."""
    return openvino.Tensor(tensor.numpy(), shared_memory=True)
