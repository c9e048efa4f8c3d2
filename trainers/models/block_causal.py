"""Owns block-causal self-attention for diffusers' Wan: its processor, its masks and the positions of its frames. Must not know roles.

diffusers passes a block's self-attention nothing but the hidden states and the rotary angles, so what else it needs travels with
the angles, as an `Attending`: an argument, not a state that somebody sets, because activation checkpointing calls the block a second
time in the backward pass, when another forward pass may have been made since. A cache of keys and values has its place there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from .. import blocks
from .self_attention import projected, put_out

if TYPE_CHECKING:
    from .streaming import Layers, Past

TILE = 128
"""Tokens of a side of the squares that flex_attention computes, masks or leaves out whole."""
_SMALLEST_FLEX_HEAD = 16


@dataclass(frozen=True)
class Attending:
    """What each block's self-attention is told, for S = frames x height x width tokens (after patching) in that order."""

    cos: Tensor
    """[1, S, 1, head dim], each angle twice in a row, as diffusers has it."""
    sin: Tensor
    mask: Tensor | BlockMask | None
    """[S, S] bool, row attends to column; or the same for flex_attention. None: to all."""
    past: Past | None = None
    """Earlier blocks, which all tokens attend to as well."""
    kept: Layers | None = None
    """Gets the tokens' own keys and values. Only without gradient: nothing must be kept a second time."""


class BlockCausalProcessor:
    """Self-attention of a WanTransformerBlock, the `layer`th, which gets an Attending in place of rotary angles."""

    def __init__(self, layer: int) -> None:
        self._layer = layer

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden: Tensor | None = None, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        assert encoder_hidden is None and attention_mask is None and isinstance(rotary_emb, Attending)
        query, key, value = projected(attn, hidden, rotary_emb.cos, rotary_emb.sin)
        if rotary_emb.kept is not None:
            rotary_emb.kept.put(self._layer, (key, value))
        if rotary_emb.past is not None:
            key, value = rotary_emb.past.followed_by(self._layer, key, value)
        return put_out(attn, attend(query, key, value, rotary_emb.mask), hidden)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """[B, S, heads, head dim] each; of keys and values there may be another number S."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if mask is None or isinstance(mask, Tensor):
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        seen = _flex(query.device.type)(query, key, value, block_mask=mask)
    return seen.transpose(1, 2)


@cache
def _flex(device_type: str) -> Callable[..., Tensor]:
    """Not compiled it makes the whole matrix of scores, which is good only for comparing on a CPU (and has no backward there)."""
    found: Any = flex_attention if device_type == "cpu" else torch.compile(flex_attention, dynamic=False)
    return found


def angles(rope: Any, positions: Tensor, height: int, width: int, last: int = 0) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [1, frames x height x width, 1, head dim], for frames at `positions` [frames] of a video.

    `rope` is diffusers' WanRotaryPosEmbed, which by itself knows only frames 0, 1, 2... up to its rope_max_seq_len; `last`: the
    largest of the positions, where it may be beyond that.
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


def turn(rope: Any, by: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [1, 1, 1, head dim], that move keys by so many frames, wherever in their frame they are."""
    cos, sin = _in_time(rope, by)
    within = rope.h_dim + rope.w_dim
    moved = [torch.cat([table[by], table.new_full((within,), still)]) for table, still in ((cos, 1.0), (sin, 0.0))]
    return moved[0].reshape(1, 1, 1, -1), moved[1].reshape(1, 1, 1, -1)


def _in_time(rope: Any, last: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [at least last + 1, time's part of the head dim]."""
    if last < len(rope.freqs_cos):
        return rope.freqs_cos[:, : rope.t_dim], rope.freqs_sin[:, : rope.t_dim]
    length = 1 << last.bit_length()
    return _long_tables(rope.attention_head_dim, tuple(rope.patch_size), length, rope.freqs_cos.device, rope.freqs_cos.dtype)


@lru_cache(maxsize=4)
def _long_tables(
    head_dim: int, patch_size: tuple[int, int, int], length: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What diffusers computes for a network of a longer rope_max_seq_len."""
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    with torch.inference_mode(False), torch.device("cpu"):  # kept, like the masks
        rope: Any = WanRotaryPosEmbed(head_dim, patch_size, length)
        cos, sin = (table[:, : rope.t_dim].to(device, dtype) for table in (rope.freqs_cos, rope.freqs_sin))
    return cos, sin


Backend = Literal["dense", "flex"]


def backend(wanted: str, device: torch.device, head_dim: int) -> Backend:
    """For "auto": flex_attention leaves out what is masked, but trains only on CUDA and has no kernel for tiny heads."""
    if wanted == "auto":
        return "flex" if device.type == "cuda" and head_dim >= _SMALLEST_FLEX_HEAD else "dense"
    return "dense" if wanted == "dense" else "flex"


@lru_cache(maxsize=4)
def mask(
    kind: Backend,
    num_frames: int,
    per_block: int,
    tokens: int,
    device: torch.device,
    *,
    teacher_forcing: bool = False,
    window: blocks.Window = blocks.ALL,
) -> Tensor | BlockMask:
    """The mask for `tokens` a frame; with teacher_forcing for twice the frames: [clean | noisy]."""
    with torch.inference_mode(False):  # it is kept: one made while sampling must still do for training
        between = (blocks.teacher_forcing if teacher_forcing else blocks.causal)(num_frames, per_block, window)
        if kind == "flex":
            return tile_mask(between, tokens, device)
        return between.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(device)


def tile_mask(between: Tensor, tokens: int, device: torch.device | str) -> BlockMask:
    """The BlockMask of a mask between frames, [F, F] bool, at `tokens` a frame.

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
    """[rows, columns] bool -> how many are set in each row, and their columns first: [1, 1, rows] and [1, 1, rows, columns] int32."""
    order = tiles.int().argsort(dim=1, descending=True, stable=True)
    return tiles.sum(1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]
