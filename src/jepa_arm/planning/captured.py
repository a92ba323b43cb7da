"""Functions of tensors, captured as CUDA graphs: one launch in place of one a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from .stages import AsModule, Function, OfOneSize

WARM_UP = 3
"""Runs before one is captured, as CUDA graphs ask for."""


class Captured(OfOneSize):
    """As ``compiled.Compiled``, on a GPU, in single precision; tensors come and go on the CPU."""

    def __init__(
        self,
        function: Function,
        modules: nn.Module,
        inputs: tuple[Tensor, ...],
        returned: int,
        threads: int,
        told: str,
    ) -> None:
        """See ``compiled.Compiled``; ``threads`` and ``told`` are of no use here."""
        super().__init__(function, [x.to('cuda').contiguous() for x in inputs], returned)
        program = exported(function, modules, inputs)
        run = move_to_device_pass(program, 'cuda').module()
        stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._outputs = run(*self._inputs)[:returned]

    def _run(self) -> tuple[Tensor, ...]:
        self._graph.replay()
        return tuple(x.cpu() for x in self._outputs)


def exported(
    function: Function, modules: nn.Module, inputs: tuple[Tensor, ...]
) -> torch.export.ExportedProgram:
    """``function`` with the weights of ``modules`` and all constants, which can be moved.

    Args:
        function: of tensors of the sizes of ``inputs``.
    """
    own = tuple(x.clone() for x in inputs)  # one tensor given twice would be one input
    with torch.no_grad():
        return torch.export.export(AsModule(function, modules), own, strict=False)
