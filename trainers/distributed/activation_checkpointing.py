"""Owns what the backward pass recomputes and what is compiled, block by block. Must not know sharding or which network it is.

Both replace `forward` on the instance, so that parameter names stay as they are. The order is the one that torch recommends:
checkpointing, compiling, sharding; FSDP's hooks then run outside of the compiled part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from . import compiling, kept_results

_KEPT = (
    "mm",
    "addmm",
    "bmm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)
"""Operations whose results are costly to compute again and small to keep."""


def checkpoint_blocks(blocks: Iterable[nn.Module], kind: Literal["full", "selective"]) -> None:
    """Turn activation checkpointing on. full: a block keeps its input only. selective: also the results of matrix products and attention;
    of attention that torch does not see into, what is given to kept_results.kept.

    The blocks must draw nothing random: generators are not rewound, which would cost a wait for the device.
    """
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    compiled = options
    if kind == "selective":
        by_operation = functools.partial(create_selective_checkpoint_contexts, _kept_operations())
        options, compiled = {**options, "context_fn": lambda: kept_results.phases(by_operation())}, {**options, "context_fn": by_operation}
    for block in blocks:
        block.forward = _checkpointed(block.forward, options, compiled)


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block by itself: all have the same code, so it is compiled once for each shape (15-40 s on a CPU)."""
    for block in blocks:
        block.forward = compiling.compiled(block.forward)


def _checkpointed(forward: Callable[..., Any], options: dict[str, Any], compiled: dict[str, Any]) -> Callable[..., Any]:
    """Return `forward`, recomputed. `compiled`: the options where the block is compiled, whose compiler sees operations alone and takes no
    contexts but torch's own."""

    @functools.wraps(forward)
    def recomputed(*inputs: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return checkpoint(forward, *inputs, **named, **compiled)
        return checkpoint(forward, *inputs, **named, **options)

    return recomputed


def _kept_operations() -> list[Any]:
    """Return the operations of those names that this torch has, and flex_attention."""
    operations = [getattr(torch.ops.aten, name, None) for name in _KEPT]
    return [operation.default for operation in operations if operation is not None] + [torch.ops.higher_order.flex_attention]
