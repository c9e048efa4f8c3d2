"""Owns the masks of block-causal attention, and which kernel is used for them. Must not know the network."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from ...diffusion import frame_blocks

TILE = 128
"""Tokens along a side of the squares that flex_attention computes, masks or leaves out whole."""
_SMALLEST_FLEX_HEAD = 16


Backend = Literal["dense", "flex"]


def backend(requested: str, device: torch.device, head_dim: int) -> Backend:
    """Return the kernel to use. For "auto": flex_attention leaves out what is masked, but trains only on CUDA and has no kernel for tiny
    heads."""
    if requested == "auto":
        return "flex" if device.type == "cuda" and head_dim >= _SMALLEST_FLEX_HEAD else "dense"
    return "dense" if requested == "dense" else "flex"


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
