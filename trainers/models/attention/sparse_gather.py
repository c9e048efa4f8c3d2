"""Owns attention to chosen tiles in plain torch: the reference for the GPU's kernels, and what trains on a CPU. Must not choose tiles.

The chosen key tiles of a few query tiles at a time are gathered side by side, so that the data stay in the cache, and nothing of the
size of all gathered keys ever exists: scores are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CPU_BYTES, _GPU_BYTES = 1 << 20, 1 << 28
"""Of the keys gathered at a time: a share of a core's cache, and enough to fill a GPU."""


def attend(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
    """Return the output of [B, heads, N, n, head dim], in that shape: each query tile attends to the tokens of its `chosen` [B, heads, N,
    K] key tiles.

    valid [N, n] bool: which keys are tokens and not padding; None: all. No gradient through the choice, and none of second order.
    """
    b, heads, num = chosen.shape[:3]
    first = torch.arange(b * heads, device=chosen.device).view(b, heads, 1, 1) * num
    rows = (chosen + first).flatten(0, 2)
    bias = None if valid is None else _exact(query[:0]).new_zeros(valid.shape).masked_fill(~valid, -torch.inf).repeat(b * heads, 1)
    attended: Tensor = _Attention.apply(*(part.flatten(0, 2) for part in (query, key, value)), rows, bias)
    return attended.view_as(query)


class _Attention(torch.autograd.Function):
    """query, key, value [R, n, D]; rows [R, K]: the key tiles of each; bias [R, n] or None: -inf for the padding of tiles."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, key, value, rows, bias)
        seen = torch.empty_like(query, memory_format=torch.contiguous_format)
        for part, of in _parts(key, rows):
            weights = _weights(query[part], _gathered(key, of), of, bias)
            seen[part] = torch.bmm(weights, _gathered(value, of))
        return seen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, rows, bias = ctx.saved_tensors
        to_query, to_key, to_value = torch.empty_like(query), _zeros(key), _zeros(value)
        for part, of in _parts(key, rows):
            keys, gradient = _gathered(key, of), _exact(gradients[0][part])
            weights = _weights(query[part], keys, of, bias)
            _add(to_value, of, torch.bmm(weights.mT, gradient))
            to_weights = torch.bmm(gradient, _gathered(value, of).mT)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_scores *= query.shape[-1] ** -0.5
            to_query[part] = torch.bmm(to_scores, keys)
            _add(to_key, of, torch.bmm(to_scores.mT, _exact(query[part])))
        return to_query, to_key.view_as(key).type_as(key), to_value.view_as(value).type_as(value), None, None


def _parts(key: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield a few query tiles at a time: which ones, and their rows."""
    bytes_a_row = rows.shape[1] * key.shape[1] * key.shape[2] * max(4, key.element_size())
    step = max(1, (_CPU_BYTES if key.device.type == "cpu" else _GPU_BYTES) // bytes_a_row)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield part, rows[part]


def _weights(query: Tensor, keys: Tensor, of: Tensor, bias: Tensor | None) -> Tensor:
    """Return [c, n, K n]: softmax over all gathered keys. The product is one that selective checkpointing does not keep, as it is large."""
    query = _exact(query)
    added = query.new_zeros(()) if bias is None else bias[of].flatten(1)[:, None]
    scores = torch.baddbmm(added, query, keys.mT, alpha=query.shape[-1] ** -0.5)
    return scores.softmax(-1)


def _gathered(tiles: Tensor, of: Tensor) -> Tensor:
    """Return the rows `of` [c, K] of tiles [R, n, D], side by side: [c, K n, D]."""
    gathered = tiles.reshape(len(tiles), -1).index_select(0, of.flatten())
    return _exact(gathered.view(len(of), -1, tiles.shape[-1]))


def _exact(part: Tensor) -> Tensor:
    """Return half precision as float32."""
    return part.to(torch.promote_types(part.dtype, torch.float32))


def _zeros(tiles: Tensor) -> Tensor:
    """Return zeros [R, n D] to add up in."""
    return _exact(tiles[:0]).new_zeros(len(tiles), tiles.shape[1] * tiles.shape[2])


def _add(sums: Tensor, of: Tensor, gathered: Tensor) -> None:
    sums.index_add_(0, of.flatten(), gathered.reshape(of.numel(), -1))
