"""Functions of tensors, compiled by OpenVINO for the processor they run on.

A plan asks hundreds of small layers. In torch most of its time goes into starting each of them
and into bringing their weights into the processor's own form, every time anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .kept_models import core, fingerprint, kept
from .quiet_openvino import FrontEndManager, TorchScriptPythonDecoder, openvino
from .stages import AsModule, OfOneSize


class Compiled(OfOneSize):
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
        own = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
        super().__init__(function, own, returned)
        model = kept(name, lambda: _converted(function, modules, inputs))
        model.reshape({i: list(size) for i, size in enumerate(self._sizes)})
        settings = {
            'INFERENCE_PRECISION_HINT': precision(),
            'INFERENCE_NUM_THREADS': threads,
            'NUM_STREAMS': 1,
            'ENABLE_CPU_PINNING': False,  # cores are for all of the graph
        }
        compiled = core().compile_model(model, 'CPU', settings)
        self._request = compiled.create_infer_request()
        self._outputs = [torch.zeros(tuple(x.shape)) for x in compiled.outputs[:returned]]
        for i, x in enumerate(self._inputs):
            self._request.set_input_tensor(i, _shared(x))
        for i, x in enumerate(self._outputs):
            self._request.set_output_tensor(i, _shared(x))

    def _run(self) -> tuple[Tensor, ...]:
        self._request.infer()
        return tuple(x.clone() for x in self._outputs)


def _converted(
    function: Callable[..., tuple[Tensor, ...]], modules: nn.Module, inputs: tuple[Tensor, ...]
) -> openvino.Model:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # tracing is how OpenVINO reads a torch function
        traced = torch.jit.trace(AsModule(function, modules), inputs, check_trace=False)
    frontend = FrontEndManager().load_by_framework('pytorch')
    decoder = TorchScriptPythonDecoder(traced, example_input=inputs)  # is to live till the end
    return frontend.convert(frontend.load(decoder))


def _shared(tensor: Tensor) -> openvino.Tensor:
    """Its memory, which must live as long."""
    return openvino.Tensor(tensor.numpy(), shared_memory=True)


def precision() -> str:
    """'bf16' where this processor multiplies matrices in it, else 'f32'."""
    able = core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    return 'bf16' if 'BF16' in able else 'f32'
