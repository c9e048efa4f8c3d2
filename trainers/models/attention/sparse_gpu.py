"""Owns attention to chosen tiles on a GPU, by flex_attention or by a package's kernels, and which of them is taken. Must not import the
packages where there is no GPU.

All functions take and return what sparse_gather.attend does, and are tested against it: by tests, and on each GPU before a run takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ...distributed.mesh import ParallelContext
from . import flex, kernel_choice, kernel_packages, sparse_gather
from .kernel_check import Trial, fault
from .kernel_choice import Candidate

Backend = Literal["gather", "flex", "kernel"]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
_FLEX_TILE, _KERNEL_TILE = 64, 64
_SMALLEST_FLEX_HEAD = 16
_KERNEL_HEADS = (64, 128)
_FLEX_BLOCKS = dict.fromkeys(("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2"), _FLEX_TILE)
"""What a kernel computes at a time must divide a tile; the defaults for recent GPUs are 128."""


def backend(
    requested: str, device: torch.device, dtype: torch.dtype, tile: int, head_dim: int, parallel: ParallelContext | None = None
) -> Backend:
    """Return the kernel to use. For "auto": the fastest that can do tiles of so many tokens, and gives right results here.

    What is requested by name and is not here, or is wrong, is a UserError. With `parallel` the ranks agree on it; without, what was
    agreed holds.
    """
    if requested == "gather" or (requested == "auto" and device.type != "cuda"):
        return "gather"
    of_package = Candidate("kernel", "a package's kernels", (tile, head_dim), partial(_fault_of_package, device, dtype, tile, head_dim))
    by_flex = Candidate("flex", "flex_attention's kernels", (tile, head_dim), partial(_fault_of_flex, device, dtype, tile, head_dim))
    if requested == "kernel":
        nothing = "neither fastvideo-kernel nor vsa is installed here, or no GPU is seen"
        kernel_choice.required(of_package, "attention.backend", nothing, kernel_packages.HINT, parallel)
        return "kernel"
    if requested == "flex":
        kernel_choice.required(by_flex, "attention.backend", "", "backend: auto or gather; or another version of torch", parallel)
        return "flex"
    candidates = []
    if tile == _KERNEL_TILE and head_dim in _KERNEL_HEADS and dtype == torch.bfloat16:
        candidates.append(of_package)
    if tile % _FLEX_TILE == 0 and head_dim >= _SMALLEST_FLEX_HEAD:
        candidates.append(by_flex)
    chosen: Any = kernel_choice.first(candidates, "gather", parallel)
    return chosen


# --- what each is tried on


def _fault_of_package(device: torch.device, dtype: torch.dtype, tile: int, head_dim: int) -> str | None:
    kernel, why = kernel_packages.found()
    if kernel is None:
        return why or kernel_choice.ABSENT
    return tried(attend_kernel, device, dtype, tile, head_dim) or None


def _fault_of_flex(device: torch.device, dtype: torch.dtype, tile: int, head_dim: int) -> str | None:
    """Nothing is tried on a CPU, where it is not compiled and has no backward pass."""
    return None if device.type == "cpu" else tried(attend_flex, device, dtype, tile, head_dim) or None


def tried(attend: Attend, device: torch.device, dtype: torch.dtype, tile: int, head_dim: int) -> str:
    """Return how `attend` is wrong on a few tiles of `tile` tokens, some of them cut off; "" where it is right. There are two videos of two
    heads, and a tile that no query attends to."""
    num, batch, heads = max(4, 512 // tile), *((2, 2) if tile <= 256 else (1, 1))
    lengths = torch.tensor([tile, tile - 1, tile, tile // 2, 1, tile, tile // 4, tile])[torch.arange(num) % 8]
    valid = torch.arange(tile) < lengths[:, None]
    valid[1::2] = valid[1::2].flip(1)  # padding may come first
    drawn = torch.rand(batch, heads, num, num - 1, generator=torch.Generator().manual_seed(0))
    chosen = drawn.topk(num // 2, -1).indices.sort(-1).values.to(device)
    valid = valid.to(device)
    of_tiles = torch.zeros(batch, heads, num, num, dtype=torch.bool, device=device).scatter_(-1, chosen, True)
    mask = of_tiles.repeat_interleave(tile, 2).repeat_interleave(tile, 3) & valid.flatten()

    def whole(of: Attend, *parts: Tensor) -> Tensor:
        query, key, value = (part.unflatten(2, (num, tile)) for part in parts)
        return of(query, key, value, chosen, valid).flatten(2, 3)

    trial = Trial(partial(whole, sparse_gather.attend), mask, head_dim, tile, valid.flatten())
    return fault(partial(whole, attend), trial, dtype)


# --- flex_attention


def attend_flex(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
    """Return what sparse_gather.attend returns, computed by flex_attention; the backward pass runs on CUDA alone."""
    whole = [part.flatten(2, 3) for part in (query, key, value)]
    result = _flex(query.device.type)(*whole, chosen, valid)
    return result.view_as(query)


@cache
def _flex(device_type: str) -> Callable[..., Tensor]:
    """Return flex_attention with its options."""
    if device_type == "cpu":
        return partial(_with_mask, flex.attention("cpu"))
    # without max_autotune torch tries its default backward blocks alone, rejects them as larger than a tile, and gives up;
    # _FLEX_BLOCKS, warps and stages leave it nothing to choose, so no two runs compute with different kernels
    compiled = flex.attention(device_type, max_autotune=True)
    return partial(_with_mask, compiled, kernel_options={**_FLEX_BLOCKS, "num_warps": 4, "num_stages": 2})


def _with_mask(attention: Any, query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None, **options: Any) -> Tensor:
    result: Tensor = attention(query, key, value, block_mask=block_mask(chosen, valid, query.shape[2] // chosen.shape[2]), **options)
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


def attend_kernel(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, valid: Tensor | None) -> Tensor:
    """Return what sparse_gather.attend returns, computed by a package's kernels. They need a tile's tokens before its padding.

    They are given the videos of a batch as heads of one: the kernels for Hopper cards know no other batch, and heads do not see each
    other.
    """
    block_sparse, _ = kernel_packages.found()
    assert block_sparse is not None, "no package with the kernels"
    b, heads, num, tile, head_dim = query.shape
    lengths = torch.full((num,), tile, device=query.device) if valid is None else valid.sum(1)
    chosen_map = torch.zeros(1, b * heads, num, num, dtype=torch.bool, device=query.device).scatter_(-1, chosen.flatten(0, 1)[None], True)
    order = None if valid is None else valid.int().argsort(dim=1, descending=True, stable=True)
    parts = [_ordered(part, order).reshape(1, b * heads, num * tile, head_dim).contiguous() for part in (query, key, value)]
    seen = block_sparse(*parts, chosen_map, lengths.to(torch.int32))[0].view(b, heads, num, tile, head_dim)
    return seen if order is None else _ordered(seen, order.argsort(dim=1))


def _ordered(tiles: Tensor, order: Tensor | None) -> Tensor:
    """Return the tokens of each tile [B, heads, N, n, D] in the order [N, n]."""
    return tiles if order is None else tiles.gather(3, order[None, None, :, :, None].expand_as(tiles))
