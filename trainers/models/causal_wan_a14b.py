"""Owns the causal Wan2.2 A14B: two causal Wans, each with its own range of timesteps. Must not know any method.

Block by block, each expert has its own cache and sees every finished block, as long as it still predicts one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..diffusion.frame_blocks import Window
from .attention.kv_cache import KVCache
from .base import OneNetwork
from .causal_wan import CausalWan
from .wan_a14b import WanA14B


class ExpertCaches:
    """A cache for each of two experts, of the same prompt and videos. That of an expert which predicts no later block is let go: at the
    A14B's size it takes 23 GB for 81 frames of 480x832."""

    def __init__(self, high: KVCache, low: KVCache) -> None:
        self._kept = {True: high, False: low}

    def expert(self, high: bool) -> KVCache:
        """Return the cache of the first expert (high) or of the second; ValueError where it was let go."""
        if high not in self._kept:
            raise ValueError(f"the cache of the {'first' if high else 'second'} expert was let go: it was to predict no later block")
        return self._kept[high]

    @property
    def kept(self) -> dict[bool, KVCache]:
        """The caches that are still there, the first expert's (True) before the second's."""
        return dict(self._kept)

    def keep(self, experts: Collection[bool]) -> None:
        """Let go the caches of all but these experts, for good."""
        self._kept = {high: cache for high, cache in self._kept.items() if high in experts}

    @property
    def num_bytes(self) -> int:
        return sum(cache.num_bytes for cache in self._kept.values())


class CausalWanA14B(WanA14B):
    """A WanA14B whose experts are block-causal, with the same blocks."""

    expert_class: ClassVar[type[OneNetwork]] = CausalWan

    @property
    def num_frames_per_block(self) -> int:
        return int(self.config.num_frames_per_block)

    def open_cache(self, batch: int, prompt: Tensor, frames: int, size: tuple[int, int], window: Window | None = None) -> ExpertCaches:
        """Return empty caches for both experts, as CausalWan.open_cache. A pass over a block is one expert's:
        `expert(high).predict_block(..., caches.expert(high))`."""
        experts: tuple[Any, Any] = self.high, self.low
        return ExpertCaches(*(expert.open_cache(batch, prompt, frames, size, window) for expert in experts))

    @torch.no_grad()
    def write_block(self, clean: Tensor, timesteps: Tensor, prompt: Tensor, cache: ExpertCaches, *, start: int) -> None:
        """Write a finished block to the caches that are kept: a pass of each of their experts."""
        for high, own in cache.kept.items():
            expert: Any = self.expert(high)
            expert.write_block(clean, timesteps, prompt, own, start=start)
