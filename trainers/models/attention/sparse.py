"""Owns video sparse attention (arXiv 2505.13389; trainers/methods/README.md section 6): coarse branch, choice of tiles, fine branch, gate.

Must not know roles, steps or files. The inputs of a block's self-attention travel with the rotary angles, as in block_causal.py: they
are an argument, so that activation checkpointing recomputes with what the forward pass had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...distributed import kept_results
from . import sparse_gather, sparse_gpu
from .projections import output_projection, project
from .sparse_gpu import Backend
from .sparse_tiles import Tiles

_FINE = {"gather": sparse_gather.attend, "flex": sparse_gpu.attend_flex, "kernel": sparse_gpu.attend_kernel}


@dataclass(frozen=True)
class SparseAttentionInputs:
    """The inputs of each block's self-attention, for S = frames x height x width tokens (after patching) in that order."""

    cos: Tensor
    """[1, S, 1, head dim], each angle twice in a row, as diffusers has it."""
    sin: Tensor
    tiles: Tiles
    kept: int
    """Key tiles that each query tile attends to token by token; all of them: dense attention."""
    backend: Backend


class VideoSparseProcessor:
    """Self-attention of a WanTransformerBlock that has a `to_gate_compress`, and gets SparseAttentionInputs in place of rotary angles."""

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden: Tensor | None = None, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        """Return the attention's output [B, S, D] for hidden [B, S, D]. The gate is not rotated: it weighs the output, it does not
        attend."""
        assert encoder_hidden is None and attention_mask is None and isinstance(rotary_emb, SparseAttentionInputs)
        query, key, value = project(attn, hidden, rotary_emb.cos, rotary_emb.sin)
        gate = attn.to_gate_compress(hidden).unflatten(2, (attn.heads, -1))
        return output_projection(attn, attend(query, key, value, gate, rotary_emb.tiles, rotary_emb.kept, rotary_emb.backend), hidden)


@torch.compiler.disable  # which tiles are chosen depends on the data, and the backends compile what they can themselves
def attend(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, tiles: Tiles, kept: int, backend: Backend) -> Tensor:
    """Return coarse x gate + fine, for [B, S, heads, head dim] each; S in the grid's order."""
    queries, keys, values = (tiles.cut(part) for part in (query, key, value))
    coarse, scores = over_means(queries, keys, values, tiles)
    if kept == tiles.num:
        fine = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)
    else:
        valid = tiles.valid(query.device) if tiles.ragged else None
        chosen, of = choose(scores, kept), _FINE[backend]
        fine = tiles.joined(kept_results.kept(lambda q, k, v: of(q, k, v, chosen, valid), queries, keys, values))
    return tiles.joined(coarse[:, :, :, None].expand_as(values)) * gate + fine


def over_means(query: Tensor, key: Tensor, value: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Attend over the means of tiles [B, heads, N, n, D]; return (the output of each query tile [B, heads, N, D], scores [B, heads, N, N]).

    In float32 at least; the padding of a tile is zero and does not count. A tile weighs the same however many tokens it has.
    """
    exact = torch.promote_types(value.dtype, torch.float32)
    lengths = tiles.lengths(value.device)[:, None]
    queries, keys, values = (part.sum(3, dtype=exact) / lengths for part in (query, key, value))
    scores = queries @ keys.mT * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ values).to(value.dtype), scores


def choose(scores: Tensor, kept: int) -> Tensor:
    """Return the `kept` key tiles of the highest scores, by position: [B, heads, N, kept]. No gradient flows back."""
    return scores.detach().topk(kept, -1, sorted=False).indices.sort(-1).values
