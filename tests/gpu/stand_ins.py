"""Owns what takes the place of kernels that a simulated device cannot run, and of weights that are never read.

flex_attention and the packages' block-sparse kernels become functions that keep for the backward pass what the real ones keep (query, key,
value, output, and a log-sum-exp in float32), and count their operations. Everything around them stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from trainers.models.attention import block_causal, kernel_choice, kernel_packages, masks, sparse, sparse_gpu
from trainers.models.loading import diffusers_weights


class Operations:
    """Counts the floating-point operations of the stand-ins, by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.chosen = 0
        """Key tiles that a query tile attends to in the block-sparse call under way."""


class _Attention(torch.autograd.Function):
    """Attention over `pairs` of a query and a key, over all heads. Forward are two products, backward are five (the scores once more)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pairs: int, name: str, operations: Operations) -> Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        log_sums = torch.empty(query.shape[:-1], device=query.device, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.pairs, ctx.name, ctx.operations = pairs, name, operations
        operations.counts[name] += 2 * 2 * pairs * query.shape[-1]
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        query, key, value, _output, log_sums = ctx.saved_tensors
        gradient, _deltas = gradient.contiguous(), torch.empty_like(log_sums)
        ctx.operations.counts[f"{ctx.name}_backward"] += 5 * 2 * ctx.pairs * query.shape[-1]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None, None


class _Convolution(torch.autograd.Function):
    """A convolution of patches, whose stride is its kernel. torch's own, which computes where there is no cuDNN, launches a kernel for each
    channel of each sample."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, operations: Operations) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.operations, ctx.has_bias = operations, bias is not None
        sizes = (size // patch for size, patch in zip(hidden.shape[2:], weight.shape[2:], strict=True))
        output = hidden.new_empty(hidden.shape[0], weight.shape[0], *sizes)
        ctx.flops = 2 * output.numel() * weight[0].numel()
        operations.counts["convolution"] += ctx.flops
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        hidden, weight = ctx.saved_tensors
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        ctx.operations.counts["convolution_backward"] += ctx.flops * (of_hidden + of_weight)
        bias = gradient.new_empty(weight.shape[0]) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return torch.empty_like(hidden) if of_hidden else None, torch.empty_like(weight) if of_weight else None, bias, None


@contextmanager
def installed(*, gather: bool = False) -> Iterator[Operations]:
    """Put the stand-ins in place, inside; yield what they count. `gather`: also for sparse attention in plain torch, whose many small
    operations take long to simulate."""
    operations = Operations()
    with ExitStack() as stack:
        for owner, name, value in _replaced(operations):
            stack.enter_context(mock.patch.object(owner, name, value))
        fine = {"kernel": _noting_chosen(sparse._FINE["kernel"], operations)}
        fine |= {"gather": _gathering(operations)} if gather else {}
        stack.enter_context(mock.patch.dict(sparse._FINE, fine))
        yield operations


def _replaced(operations: Operations) -> list[tuple[Any, str, Any]]:
    tile_mask = masks.tile_mask

    def counted_tile_mask(between: Tensor, tokens: int, device: Any) -> BlockMask:
        on_host, mask = tile_mask(between, tokens, "cpu"), tile_mask(between, tokens, device)
        tiles = int(on_host.kv_num_blocks.sum()) + int(on_host.full_kv_num_blocks.sum())
        mask.simulated_pairs = tiles * masks.TILE**2
        return mask

    def flex(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any) -> Tensor:
        pairs = block_mask.simulated_pairs * query.shape[0] * query.shape[1]
        return _Attention.apply(query, key, value, pairs, "flex_attention", operations)

    def sparse_flex(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
        tile = query.shape[2] // chosen.shape[2]
        _mask = sparse_gpu.block_mask(chosen, valid, tile)
        return _Attention.apply(query, key, value, chosen.numel() * tile**2, "flex_attention", operations)

    def block_sparse(query: Tensor, key: Tensor, value: Tensor, chosen_map: Tensor, _lengths: Tensor) -> tuple[Tensor]:
        tile = query.shape[2] // chosen_map.shape[2]
        pairs = chosen_map[..., 0].numel() * operations.chosen * tile**2
        return (_Attention.apply(query, key, value, pairs, "block_sparse_attention", operations),)

    def conv3d(hidden: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        assert tuple(stride) == tuple(weight.shape[2:]) and tuple(padding) == (0, 0, 0) and groups == 1, "no convolution of patches"
        return _Convolution.apply(hidden, weight, bias, operations)

    return [
        (torch.nn.functional, "conv3d", conv3d),
        (masks, "tile_mask", counted_tile_mask),
        (block_causal, "_flex", lambda device_type: flex),
        (sparse_gpu, "_flex", lambda device_type: sparse_flex),
        (kernel_packages, "found", lambda: (block_sparse, "")),
        (kernel_choice, "verdict", lambda candidate, parallel: None),
        (diffusers_weights, "load", lambda *state_and_folder, **options: None),
    ]


def _noting_chosen(attend: Any, operations: Operations) -> Any:
    """Return a block-sparse attention that notes how many tiles are chosen: the kernel is given a map, whose values are on the device."""

    def noting(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
        operations.chosen = chosen.shape[-1]
        return attend(query, key, value, chosen, valid)

    return noting


def _gathering(operations: Operations) -> Any:
    def gathering(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
        return _Attention.apply(query, key, value, chosen.numel() * query.shape[3] ** 2, "block_sparse_attention", operations)

    return gathering
