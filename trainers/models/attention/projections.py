"""Owns what every self-attention of Wan does before and after it attends. Must not know masks, tiles or roles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def projected(attn: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of diffusers' WanAttention for hidden [B, S, D]: [B, S, heads, head dim] each, the first two at their angles."""
    query, key, value = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
    query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, value))
    return rotated(query, cos, sin), rotated(key, cos, sin), value


def put_out(attn: Any, seen: Tensor, hidden: Tensor) -> Tensor:
    """seen [B, S, heads, head dim] -> [B, S, D] in the type of `hidden`."""
    project, dropout = attn.to_out
    found: Tensor = dropout(project(seen.flatten(2, 3).type_as(hidden)))
    return found


def rotated(part: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, S, heads, head dim] with each pair of neighbours turned by its angle; in the type of `part`."""
    first, second = part.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 0::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2).type_as(part)
