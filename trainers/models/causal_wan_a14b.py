"""Owns the causal Wan2.2 A14B: two causal Wans, each with its own range of timesteps. Must not know any method.

Block by block, each expert has its own cache and sees every finished block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..diffusion.frame_blocks import Window
from .attention.kv_cache import KVCache
from .base import OneNetwork
from .causal_wan import CausalWan
from .wan_a14b import WanA14B


@dataclass(frozen=True)
class ExpertCaches:
    """A cache for each of two experts, of the same prompt and videos."""

    high: KVCache
    low: KVCache

    def expert(self, high: bool) -> KVCache:
        """Return the cache of the first expert (high) or of the second."""
        return self.high if high else self.low

    @property
    def num_bytes(self) -> int:
        return self.high.num_bytes + self.low.num_bytes


class CausalWanA14B(WanA14B):
    """A WanA14B whose experts are block-causal, with the same blocks."""

    expert_class: ClassVar[type[OneNetwork]] = CausalWan

    @property
    def num_frames_per_block(self) -> int:
        return int(self.config.num_frames_per_block)

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int], window: Window | None = None) -> ExpertCaches:
        """Return empty caches for both experts, as CausalWan.open_cache. A pass over a block is one expert's:
        `expert(high).predict_block(..., caches.expert(high))`."""
        made = [expert.open_cache(batch, prompt, frames, size, window) for expert in self._both()]
        return ExpertCaches(*made)

    @torch.no_grad()
    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: ExpertCaches, *, start: int) -> None:
        """Write a finished block to the caches of both experts."""
        for expert, own in zip(self._both(), (cache.high, cache.low), strict=True):
            expert.write_block(clean, timesteps, prompt, own, start=start)

    def _both(self) -> tuple[Any, Any]:
        return self.high, self.low
