"""Owns results that selective activation checkpointing keeps although torch does not see how they are made: in a compiled function, in a
package's kernel, in an autograd function. Must not know what is computed.

torch keeps what its dispatcher shows it, operation by operation, and computes the rest again: so a compiled attention, the costliest part
of a block, would be computed twice. Here a function's result is kept with what its own backward pass needs; of its inputs nothing is kept,
as the block's second pass makes them again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

_here = threading.local()
"""`phase`: what the block under way does. The second pass is made by a thread of autograd's."""
Place = tuple[int, torch.Size, tuple[int, ...], int]
"""(number of an input, size, strides, offset from its first value): a part of it."""


def kept(function: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Return function(*parts). In a block under selective checkpointing it is called once, in the first pass."""
    phase: Phase | None = getattr(_here, "phase", None)
    needed = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    if phase is None or not needed or torch.compiler.is_compiling():
        return function(*parts)
    result: Tensor = _Kept.apply(phase.result(), function, *parts)
    return result


class Phase:
    """A block's first pass, or the one that computes it again. Together with what torch itself keeps there; may be entered again."""

    def __init__(self, results: list[Result], again: bool, torchs: AbstractContextManager[Any]) -> None:
        self._results, self._again, self._torchs, self._next = results, again, torchs, 0

    def result(self) -> Result:
        """Return where the next function's result is, or is to be put."""
        if not self._again:
            self._results.append(Result())
            return self._results[-1]
        self._next += 1
        return self._results[self._next - 1]

    def __enter__(self) -> None:
        self._former, self._next = getattr(_here, "phase", None), 0
        _here.phase = self
        self._torchs.__enter__()

    def __exit__(self, *error: Any) -> Any:
        _here.phase = self._former
        return self._torchs.__exit__(*error)


def phases(torchs: tuple[AbstractContextManager[Any], AbstractContextManager[Any]]) -> tuple[Phase, Phase]:
    """Return a block's two passes, given torch's contexts for them."""
    results: list[Result] = []
    return Phase(results, False, torchs[0]), Phase(results, True, torchs[1])


class Result:
    """A function's output, and the graph by which its gradients are computed."""

    def __init__(self) -> None:
        self._output: Tensor | None = None
        self._inputs = _Inputs()

    def output(self, function: Callable[..., Tensor], parts: tuple[Tensor, ...]) -> Tensor:
        """Return the output, which is computed if it is not here."""
        if self._output is None:
            self._inputs = _Inputs(tuple(part.detach() for part in parts))
            # torch's selective mode must not see the operations inside, since it will not see them in the second pass
            with _disable_current_modes(), torch.enable_grad(), saved_tensors_hooks(self._inputs.pack, self._inputs.unpack):
                self._output = function(*self._inputs.connected([part.requires_grad for part in parts]))
            self._inputs.parts = ()
        return self._output.detach()

    def gradients(self, gradient: Tensor, parts: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Return the gradients of the inputs, which are given again. What was kept is freed."""
        assert self._output is not None
        inputs, output = self._inputs, self._output
        self._inputs, self._output = _Inputs(), None
        inputs.parts = tuple(part.detach() for part in parts)
        torch.autograd.backward(output, gradient)
        return [inputs.gradients.get(number) for number in range(len(parts))]


class _Inputs:
    """A function's inputs while it is computed and while its gradients are; in between the graph holds their places alone."""

    def __init__(self, parts: tuple[Tensor, ...] = ()) -> None:
        self.parts = parts
        self.gradients: dict[int, Tensor] = {}

    def connected(self, required: list[bool]) -> list[Tensor]:
        """Return the inputs, those with gradients as results of a graph that does not keep them."""
        root = torch.empty(0, requires_grad=True)
        return [_Source.apply(root, part, self, number) if required[number] else part for number, part in enumerate(self.parts)]

    def pack(self, saved: Tensor) -> Tensor | Place:
        for number, part in enumerate(self.parts):
            if saved.dtype == part.dtype and saved.untyped_storage().data_ptr() == part.untyped_storage().data_ptr() and part.numel():
                return number, saved.shape, saved.stride(), saved.storage_offset() - part.storage_offset()
        return saved.detach()

    def unpack(self, packed: Tensor | Place) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        number, size, strides, offset = packed
        part = self.parts[number]
        return part.as_strided(size, strides, part.storage_offset() + offset)


class _Source(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _root: Tensor, part: Tensor, inputs: _Inputs, number: int) -> Tensor:
        ctx.inputs, ctx.number = inputs, number
        return part.view_as(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ctx.inputs.gradients[ctx.number] = gradients[0]
        return None, None, None, None


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Result, function: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        ctx.result = result
        ctx.save_for_backward(*parts)
        return result.output(function, parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.result.gradients(gradients[0], ctx.saved_tensors)
