"""Owns rotary position embeddings of tokens at any frame of a long video. Must not know attention or caches."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def rotary_angles(rope: Any, positions: Tensor, height: int, width: int, last: int = 0) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), each [1, frames x height x width, 1, head dim], for frames at `positions` [frames] of a video.

    `rope` is diffusers' WanRotaryPosEmbed, which by itself knows only frames 0, 1, 2... up to its rope_max_seq_len; `last`: the largest
    of the positions, where it may be beyond that.
    """

    def grid(table: Tensor, in_time: Tensor) -> Tensor:
        _, down, across = table.split([rope.t_dim, rope.h_dim, rope.w_dim], 1)
        shape = (len(positions), height, width, -1)
        parts = [
            in_time[positions][:, None, None].expand(*shape),
            down[:height][None, :, None].expand(*shape),
            across[:width][None, None].expand(*shape),
        ]
        return torch.cat(parts, -1).flatten(0, 2)[None, :, None]

    in_time = _in_time(rope, last)
    return grid(rope.freqs_cos, in_time[0]), grid(rope.freqs_sin, in_time[1])


def frame_shift(rope: Any, by: int) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), each [1, 1, 1, head dim], that move keys by so many frames, wherever in their frame they are."""
    cos, sin = _in_time(rope, by)
    within = rope.h_dim + rope.w_dim
    moved = [torch.cat([table[by], table.new_full((within,), still)]) for table, still in ((cos, 1.0), (sin, 0.0))]
    return moved[0].reshape(1, 1, 1, -1), moved[1].reshape(1, 1, 1, -1)


def _in_time(rope: Any, last: int) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), each [at least last + 1, time's part of the head dim]."""
    if last < len(rope.freqs_cos):
        return rope.freqs_cos[:, : rope.t_dim], rope.freqs_sin[:, : rope.t_dim]
    length = 1 << last.bit_length()
    return _long_tables(rope.attention_head_dim, tuple(rope.patch_size), length, rope.freqs_cos.device, rope.freqs_cos.dtype)


@lru_cache(maxsize=4)
def _long_tables(
    head_dim: int, patch_size: tuple[int, int, int], length: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return what diffusers computes for a network of a longer rope_max_seq_len."""
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    with torch.inference_mode(False), torch.device("cpu"):  # cached: tables made while sampling must be usable in training too
        rope: Any = WanRotaryPosEmbed(head_dim, patch_size, length)
        cos, sin = (table[:, : rope.t_dim].to(device, dtype) for table in (rope.freqs_cos, rope.freqs_sin))
    return cos, sin
