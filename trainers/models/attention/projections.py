"""Owns what every self-attention of Wan does before and after it attends. Must not know masks, tiles or roles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def project(attn: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value [B, S, heads, head dim] of diffusers' WanAttention for hidden [B, S, D], the first two rotated by their
    angles."""
    query, key, value = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
    query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, value))
    return rotated(query, cos, sin), rotated(key, cos, sin), value


def output_projection(attn: Any, attended: Tensor, hidden: Tensor) -> Tensor:
    """Return [B, S, D] in the type of `hidden` for what was attended to, [B, S, heads, head dim]."""
    linear, dropout = attn.to_out
    output: Tensor = dropout(linear(attended.flatten(2, 3).type_as(hidden)))
    return output


def joined(hidden: Tensor, videos: int) -> Tensor:
    """Return hidden [B x T, s, D], of frames that are passed as videos of their own, as the [B, T s, D] of `videos` B; unchanged where T is
    1. What follows makes [B x T, s, D] of it again by `view_as`."""
    return hidden if len(hidden) == videos else hidden.unflatten(0, (videos, -1)).flatten(1, 2)


def rotated(part: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return [B, S, heads, head dim] with each pair of neighbours rotated by its angle, in the type of `part`."""
    first, second = part.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 0::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2).type_as(part)
