"""Owns block-causal self-attention for diffusers' Wan: its processor, and the inputs that it needs. Must not know roles.

diffusers passes a block's self-attention nothing but the hidden states and the rotary angles, so its other inputs travel with the
angles, as AttentionInputs. They are an argument, and not a state that somebody sets, because activation checkpointing calls the block a
second time in the backward pass, when another forward pass may have been made since. A cache of keys and values travels the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from ...distributed import kept_results
from . import flex
from .projections import joined, output_projection, project

if TYPE_CHECKING:
    from .kv_store import Layers, Past, PastRows


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of each block's self-attention, for S = frames x height x width tokens (after patching) in that order."""

    cos: Tensor
    """[1, S, 1, head dim], each angle twice in a row, as diffusers has it."""
    sin: Tensor
    mask: Tensor | BlockMask | None
    """[S, S] bool, row attends to column; or the same for flex_attention. None: every token attends to all."""
    past: Past | PastRows | None = None
    """The keys and values of earlier blocks, which all tokens attend to as well."""
    kept: Layers | None = None
    """Where the tokens' own keys and values are put. Only without gradient: with one they would be kept twice."""


class BlockCausalProcessor:
    """Self-attention of the `layer`th WanTransformerBlock, which gets AttentionInputs in place of rotary angles."""

    def __init__(self, layer: int) -> None:
        self._layer = layer

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden: Tensor | None = None, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        """Return the attention's output for hidden [B, S, D], or [B x T, s, D] whose frames are videos of their own, T of them one."""
        assert encoder_hidden is None and attention_mask is None and isinstance(rotary_emb, AttentionInputs)
        whole = joined(hidden, len(hidden) * hidden.shape[1] // rotary_emb.cos.shape[1])
        query, key, value = project(attn, whole, rotary_emb.cos, rotary_emb.sin)
        if rotary_emb.kept is not None:
            rotary_emb.kept.put(self._layer, (key, value))
        if rotary_emb.past is not None:
            key, value = rotary_emb.past.followed_by(self._layer, key, value)
        return output_projection(attn, attend(query, key, value, rotary_emb.mask), whole).view_as(hidden)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) V for [B, S, heads, head dim] each; keys and values may have another length S than queries."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if mask is None or isinstance(mask, Tensor):
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        attended = kept_results.kept(partial(_flex(query.device.type), block_mask=mask), query, key, value)
    return attended.transpose(1, 2)


@cache
def _flex(device_type: str) -> Callable[..., Tensor]:
    return flex.attention(device_type)
