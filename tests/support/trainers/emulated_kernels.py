"""Owns block-sparse attention as the packages' kernels compute it, in plain torch: what they round to bfloat16, and the mistakes that were
seen in some. For tests on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)


def right(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """query, key, value [B, heads, N n, D], a map [B, heads, N, N], for each tile how many of its first places are tokens."""
    return _Kernel.apply(query, key, value, _mask(key, chosen, lengths), "right"), None  # type: ignore[no-untyped-call]


def keys_scaled_in_bf16(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """As vsa 0.0.5: the backward pass computes the scores again from keys that were scaled and rounded."""
    return _Kernel.apply(query, key, value, _mask(key, chosen, lengths), "scaled"), None  # type: ignore[no-untyped-call]


def another_dv(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """dv lacks what comes back to one token."""
    return _Kernel.apply(query, key, value, _mask(key, chosen, lengths), "dv"), None  # type: ignore[no-untyped-call]


def for_one_video(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """As the kernels for Hopper cards: the batch is one."""
    for part in (query, key, value, chosen):
        if part.shape[0] != 1 or not part.is_contiguous():
            raise RuntimeError("Batch size must be 1")
    return right(query, key, value, chosen, lengths)


def raising(*_inputs: Tensor) -> tuple[Tensor, None]:
    raise RuntimeError("no kernel image is available for execution on the device\nCompile with TORCH_USE_CUDA_DSA")


def without_numbers(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """dk is not a number in one place."""
    return _Kernel.apply(query, key, value, _mask(key, chosen, lengths), "nan"), None  # type: ignore[no-untyped-call]


def padding_attended_to(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """The tokens of a tile are not counted."""
    return right(query, key, value, chosen, torch.full_like(lengths, key.shape[2] // len(lengths)))


def half_a_scale(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """dq lacks a factor."""
    return _Kernel.apply(query, key, value, _mask(key, chosen, lengths), "half"), None  # type: ignore[no-untyped-call]


def without_gradients(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
    """As a package for inference alone."""
    with torch.no_grad():
        return right(query, key, value, chosen, lengths)


def _mask(key: Tensor, chosen: Tensor, lengths: Tensor) -> Tensor:
    """[B, heads, N n, N n] bool"""
    tile = key.shape[2] // len(lengths)
    assert chosen.dtype == torch.bool and lengths.dtype == torch.int32
    keys = (torch.arange(tile) < lengths[:, None]).flatten()
    return chosen.repeat_interleave(tile, 2).repeat_interleave(tile, 3) & keys


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: str) -> Tensor:
        scores = (query.float() @ key.float().mT * query.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
        logs = scores.logsumexp(-1, keepdim=True)
        output = _low((scores - logs).exp(), value) @ value.float()
        output = output.to(value.dtype)
        ctx.how = how
        ctx.save_for_backward(query, key, value, mask, logs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, logs, output = ctx.saved_tensors
        scale, upstream = query.shape[-1] ** -0.5, gradients[0].float()
        scores = query.float() @ key.float().mT * (scale * LOG2_E)
        if ctx.how == "scaled":
            scores = query.float() @ (key * (scale * LOG2_E)).float().mT
        weights = (scores - logs * LOG2_E).masked_fill(~mask, -torch.inf).exp2()
        along = upstream @ value.float().mT - (upstream * output.float()).sum(-1, keepdim=True)
        of_scores = _low(weights * along, value)
        dq, dk = of_scores @ key.float() * scale, of_scores.mT @ query.float() * scale
        if ctx.how == "dv":
            weights = weights.clone()
            weights[..., 0, :] = 0
        if ctx.how == "half":
            dq = dq * 0.5
        dv = _low(weights, value).mT @ upstream
        if ctx.how == "nan":
            dk[0, 0, 5, 1] = torch.nan
        return dq.type_as(query), dk.type_as(key), dv.type_as(value), None, None


def _low(part: Tensor, like: Tensor) -> Tensor:
    return part.type_as(like).float()
