"""Owns the masks of block-causal attention, and which kernel is used for them. Must not know the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from ...diffusion import frame_blocks
from ...distributed.mesh import ParallelContext
from . import block_causal, kernel_choice
from .kernel_check import Trial, fault, plain
from .kernel_choice import Candidate

TILE = 128
"""Tokens along a side of the squares that flex_attention computes, masks or leaves out whole."""
_SMALLEST_FLEX_HEAD = 16


Backend = Literal["dense", "flex"]


def backend(
    requested: str,
    device: torch.device,
    head_dim: int,
    dtype: torch.dtype = torch.bfloat16,
    parallel: ParallelContext | None = None,
) -> Backend:
    """Return the kernel to use. For "auto": flex_attention leaves out what is masked, but it trains only on CUDA, has no kernel for tiny
    heads, and must give right results here.

    What is requested by name and is wrong is a UserError. With `parallel` the ranks agree on it; without, what was agreed holds.
    """
    by_flex = Candidate("flex", "flex_attention's kernels", ("block-causal", head_dim), partial(_fault_of_flex, device, dtype, head_dim))
    if requested == "flex":
        kernel_choice.required(by_flex, "attention", "", "attention: dense or auto; or another version of torch", parallel)
    if requested != "auto":
        return "dense" if requested == "dense" else "flex"
    candidates = [by_flex] if device.type == "cuda" and head_dim >= _SMALLEST_FLEX_HEAD else []
    return "flex" if kernel_choice.first(candidates, "dense", parallel) == "flex" else "dense"


def _fault_of_flex(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Nothing is tried on a CPU, where it is not compiled and has no backward pass."""
    return None if device.type == "cpu" else tried(block_causal.attend, device, dtype, head_dim) or None


def tried(attend: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Return how `attend` is wrong under the mask of a short video, whose tokens fill no whole number of squares; "" where it is right."""
    frames, tokens = 7, 50
    with torch.inference_mode(False):
        between = frame_blocks.causal(frames, 2)
        blocks, whole = tile_mask(between, tokens, device), between.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(device)

    def candidate(*parts: Tensor) -> Tensor:
        return attend(*(part.transpose(1, 2) for part in parts), blocks).transpose(1, 2)

    whole = whole.expand(2, 2, -1, -1)
    real = torch.ones(frames * tokens, dtype=torch.bool, device=device)
    return fault(candidate, Trial(plain(whole), whole, head_dim, tokens, real), dtype)


@lru_cache(maxsize=4)
def mask(
    kind: Backend,
    num_frames: int,
    per_block: int,
    tokens: int,
    device: torch.device,
    *,
    teacher_forcing: bool = False,
    window: frame_blocks.Window = frame_blocks.ALL,
) -> Tensor | BlockMask:
    """Return the mask at `tokens` a frame; with teacher_forcing for twice the frames, [clean | noisy]."""
    with torch.inference_mode(False):  # the mask is cached: one made while sampling must be usable in training too
        between = (frame_blocks.teacher_forcing if teacher_forcing else frame_blocks.causal)(num_frames, per_block, window)
        if kind == "flex":
            return tile_mask(between, tokens, device)
        return between.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(device)


def tile_mask(between: Tensor, tokens: int, device: torch.device | str) -> BlockMask:
    """Return the BlockMask of a mask between frames, [F, F] bool, at `tokens` a frame.

    Counted tile by tile: torch's create_block_mask goes over all pairs of tokens, which at 58k tokens takes tens of gigabytes.
    """
    size = len(between) * tokens
    starts = torch.arange(0, size, TILE)
    ends = (starts + TILE).clamp(max=size)
    first, after = starts // tokens, (ends - 1) // tokens + 1  # the frames that a tile touches
    sums = pad(between.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    allowed = sums[after][:, after] - sums[first][:, after] - sums[after][:, first] + sums[first][:, first]
    touched, whole = after - first, ends - starts == TILE
    full = (allowed == touched[:, None] * touched) & whole[:, None] & whole
    partial = (allowed > 0) & ~full
    frames = between.to(device)

    def may_attend(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return frames[query // tokens, key // tokens]

    lists = [part.to(device) for tiles in (partial, full) for part in _listed(tiles)]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=TILE, mask_mod=may_attend, seq_lengths=(size, size))


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many are set in each row of [rows, columns] bool, and their columns first: [1, 1, rows] and [1, 1, rows, columns]
    int32."""
    order = tiles.int().argsort(dim=1, descending=True, stable=True)
    return tiles.sum(1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]
