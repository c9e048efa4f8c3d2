"""Owns how a video's tokens are cut into tiles and put together again. Must not know attention.

Tokens go tile by tile, tiles and the tokens in them over time, height and width in that order. A tile that the edge of the grid cuts off
is padded with zeros; `valid` tells them from tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Tiles:
    """Tiles of `tile` tokens over a grid of `grid` tokens, each (time, height, width)."""

    grid: Sizes
    tile: Sizes

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        return tuple(-(-tokens // size) for tokens, size in zip(self.grid, self.tile, strict=True))

    @property
    def num(self) -> int:
        return math.prod(self.counts)

    @property
    def size(self) -> int:
        """Tokens of a whole tile."""
        return math.prod(self.tile)

    @property
    def ragged(self) -> bool:
        """Whether some tile is cut off."""
        return any(tokens % size for tokens, size in zip(self.grid, self.tile, strict=True))

    def cut(self, tokens: Tensor) -> Tensor:
        """Return [B, heads, tiles, tokens of a tile, head dim] of [B, S, heads, head dim]."""
        on_grid = tokens.unflatten(1, self.grid)
        if self.ragged:
            t, h, w = (n * size - length for n, size, length in zip(self.counts, self.tile, self.grid, strict=True))
            on_grid = pad(on_grid, (0, 0, 0, 0, 0, w, 0, h, 0, t))
        axes = [size for pair in zip(self.counts, self.tile, strict=True) for size in pair]
        separated = on_grid.reshape(len(tokens), *axes, *tokens.shape[2:]).permute(0, 7, 1, 3, 5, 2, 4, 6, 8)
        return separated.reshape(len(tokens), tokens.shape[2], self.num, self.size, tokens.shape[3])

    def joined(self, tiles: Tensor) -> Tensor:
        """Undo `cut`; padding is dropped."""
        b, heads, _, _, head_dim = tiles.shape
        separated = tiles.reshape(b, heads, *self.counts, *self.tile, head_dim).permute(0, 2, 5, 3, 6, 4, 7, 1, 8)
        padded = [n * size for n, size in zip(self.counts, self.tile, strict=True)]
        t, h, w = self.grid
        return separated.reshape(b, *padded, heads, head_dim)[:, :t, :h, :w].reshape(b, t * h * w, heads, head_dim)

    def valid(self, device: torch.device) -> Tensor:
        """Return [tiles, tokens of a tile] bool: which of them are tokens and not padding. Each tile has at least one token."""
        return _valid(self, device)

    def lengths(self, device: torch.device) -> Tensor:
        """Return the number of tokens of each tile, [tiles] int32."""
        return _lengths(self, device)


@lru_cache(maxsize=8)
def _valid(tiles: Tiles, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is cached: one made while sampling must be usable in training too
        return tiles.cut(torch.ones(1, math.prod(tiles.grid), 1, 1, device=device))[0, 0, :, :, 0].bool()


@lru_cache(maxsize=8)
def _lengths(tiles: Tiles, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _valid(tiles, device).sum(1, dtype=torch.int32)
