"""Owns attention to chosen tiles on a GPU: by flex_attention, or by a package's kernels. Must not import the packages where there is no
GPU.

All functions take and return what sparse_gather.attend does, and are tested against it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ...errors import UserError

Backend = Literal["gather", "flex", "kernel"]
_FLEX_TILE, _KERNEL_TILE = 64, 64
_SMALLEST_FLEX_HEAD = 16
_KERNEL_HEADS = (64, 128)
_PACKAGES = (("fastvideo_kernel.block_sparse_attn", "block_sparse_attn"), ("vsa", "block_sparse_attn"))
"""Newest first. Both need a GPU when they are imported."""
_FLEX_BLOCKS = dict.fromkeys(("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2"), _FLEX_TILE)
"""What a kernel computes at a time must divide a tile; the defaults for recent GPUs are 128."""


def backend(requested: str, device: torch.device, dtype: torch.dtype, tile: int, head_dim: int) -> Backend:
    """Return the kernel to use. For "auto": the fastest that can do tiles of so many tokens. UserError where a package's kernels are
    requested but missing."""
    if requested == "gather" or (requested == "auto" and device.type != "cuda"):
        return "gather"
    if requested == "kernel" and kernel() is None:
        raise UserError("attention.backend: the kernels of fastvideo-kernel or vsa are not here", "install one for this GPU; or auto")
    if requested != "auto":
        return "flex" if requested == "flex" else "kernel"
    if tile == _KERNEL_TILE and head_dim in _KERNEL_HEADS and dtype == torch.bfloat16 and kernel() is not None:
        return "kernel"
    return "flex" if tile % _FLEX_TILE == 0 and head_dim >= _SMALLEST_FLEX_HEAD else "gather"


# --- flex_attention


def attend_flex(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
    """Return what sparse_gather.attend returns, computed by flex_attention; the backward pass runs on CUDA alone."""
    whole = [part.flatten(2, 3) for part in (query, key, value)]
    result = _flex(query.device.type)(*whole, chosen, valid)
    return result.view_as(query)


@cache
def _flex(device_type: str) -> Callable[..., Tensor]:
    """Return flex_attention with its options, compiled on GPUs. Not compiled it makes the whole matrix of scores, which is good only for
    comparing on a CPU."""
    if device_type == "cpu":
        return lambda *qkv_chosen_valid: _with_mask(flex_attention, *qkv_chosen_valid)
    # without max_autotune torch tries its default backward blocks alone, rejects them as larger than a tile, and gives up;
    # _FLEX_BLOCKS, warps and stages leave it nothing to choose, so no two runs compute with different kernels
    compiled = torch.compile(flex_attention, dynamic=False, options={"max_autotune": True})
    options = {**_FLEX_BLOCKS, "num_warps": 4, "num_stages": 2}
    return lambda *qkv_chosen_valid: _with_mask(compiled, *qkv_chosen_valid, kernel_options=options)


def _with_mask(flex: Any, query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None, **options: Any) -> Tensor:
    result: Tensor = flex(query, key, value, block_mask=block_mask(chosen, valid, query.shape[2] // chosen.shape[2]), **options)
    return result


def block_mask(chosen: Tensor, valid: Tensor | None, tile: int) -> BlockMask:
    """Return the BlockMask of chosen [B, heads, N, K]. Tiles that are cut off are masked key by key, the others not.

    Its lists are as long as there are tiles, however many are chosen: a sparsity that changes compiles nothing anew.
    """
    num = chosen.shape[2]
    is_chosen = torch.zeros(*chosen.shape[:3], num, dtype=torch.bool, device=chosen.device).scatter_(-1, chosen, True)
    whole = torch.ones(num, dtype=torch.bool, device=chosen.device) if valid is None else valid.all(1)
    keys = torch.ones(num * tile, dtype=torch.bool, device=chosen.device) if valid is None else valid.flatten()

    def may_attend(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return is_chosen[batch, head, query // tile, key // tile] & keys[key]

    lists = [part for tiles in (is_chosen & ~whole, is_chosen & whole) for part in _listed(tiles)]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=tile, mask_mod=may_attend, seq_lengths=(num * tile, num * tile))


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many are set in each row of [..., N, N] bool, and their columns first; int32."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32), order.to(torch.int32)


# --- the kernels of fastvideo-kernel and vsa


@cache
def kernel() -> Callable[..., Any] | None:
    """Return a package's block_sparse_attn(query, key, value [B, heads, S, D], map [B, heads, N, N] bool, tokens of each tile [N]); None
    where there is no GPU, or no package that works on it."""
    if not torch.cuda.is_available():
        return None
    for module, name in _PACKAGES:
        try:
            result: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except Exception:  # a package that was built for another machine may raise anything
            continue
        return result
    return None


def attend_kernel(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
    """Return what sparse_gather.attend returns, computed by a package's kernels. They need a tile's tokens before its padding."""
    block_sparse = kernel()
    assert block_sparse is not None, "no package with the kernels"
    b, heads, num, tile, head_dim = query.shape
    lengths = torch.full((num,), tile, device=query.device) if valid is None else valid.sum(1)
    chosen_map = torch.zeros(b, heads, num, num, dtype=torch.bool, device=query.device).scatter_(-1, chosen, True)
    order = None if valid is None else valid.int().argsort(dim=1, descending=True, stable=True)
    parts = [_ordered(part, order).flatten(2, 3) for part in (query, key, value)]
    seen = block_sparse(*parts, chosen_map, lengths.to(torch.int32))[0].view(b, heads, num, tile, head_dim)
    return seen if order is None else _ordered(seen, order.argsort(dim=1))


def _ordered(tiles: Tensor, order: Tensor | None) -> Tensor:
    """Return the tokens of each tile [B, heads, N, n, D] in the order [N, n]."""
    return tiles if order is None else tiles.gather(3, order[None, None, :, :, None].expand_as(tiles))
