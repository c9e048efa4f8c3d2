"""Owns the knobs of a network's self-attention: dense, or video sparse attention (methods/README.md section 6). Must not import torch."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from .section import Section

_AXES = ("time", "height", "width")


class RampConfig(Section):
    """Sparsity that rises with the steps, so that a network that was trained dense gets used to it."""

    rate: float = Field(0.01, gt=0, lt=1)
    """Sparsity that each rise adds. The last rise is what is left, so that the ramp ends at `sparsity` also where the rate does not divide
    it."""
    interval: PositiveInt = 1
    """Steps between two rises."""


class DenseAttention(Section):
    """Each token attends to all others."""

    kind: Literal["dense"] = "dense"
    """Chooses dense attention."""


class SparseAttention(Section):
    """Video sparse attention (arXiv 2505.13389): attention between tiles of tokens chooses which tiles are attended to token by token."""

    kind: Literal["vsa"] = "vsa"
    """Chooses video sparse attention."""
    sparsity: float = Field(ge=0, lt=1)
    """Share of the tiles of keys that each tile of queries, in each head, leaves out when it attends token by token."""
    tile: tuple[PositiveInt, PositiveInt, PositiveInt] = (4, 4, 4)
    """Tokens of a tile over time, height and width; tiles at the edges may be smaller."""
    ramp: RampConfig | None = None
    """Let sparsity rise with the steps. null: full sparsity from the first step."""
    backend: Literal["auto", "gather", "flex", "kernel"] = "auto"
    """What computes the part that attends token by token. gather: plain torch, on any device. flex: flex_attention, compiled, on CUDA, with
    tiles of a multiple of 64 tokens. kernel: the package fastvideo-kernel (0.3.4 or newer; older ones, and vsa, only on Hopper cards), on
    CUDA, with tiles of 64 tokens. auto: the last of these that can and gives right results, which is tried at the start."""

    @model_validator(mode="after")
    def _backend_can(self) -> SparseAttention:
        tokens = math.prod(self.tile)
        if (self.backend == "flex" and tokens % 64) or (self.backend == "kernel" and tokens != 64):
            size = "a multiple of 64" if self.backend == "flex" else "64"
            raise ValueError(f"backend {self.backend} needs tiles of {size} tokens, and {list(self.tile)} are {tokens}")
        return self

    def sparsity_at(self, step: int) -> float:
        """Return the sparsity at a step, counted from 1: rate x min(step // interval, sparsity // rate), in decimal, not binary,
        fractions."""
        if self.ramp is None:
            return self.sparsity
        risen = step // self.ramp.interval * Fraction(str(self.ramp.rate))
        return float(min(risen, Fraction(str(self.sparsity))))

    def at(self, step: int) -> SparseAttention:
        """Return this attention with its sparsity fixed at what it is at a step."""
        return self.model_copy(update={"sparsity": self.sparsity_at(step), "ramp": None})

    def misfit(self, grid: tuple[int, int, int]) -> tuple[str, str] | None:
        """Return (message, hint) where a grid of tokens over time, height and width cannot be cut into these tiles; else None."""
        fits = [min(size, tokens) for size, tokens in zip(self.tile, grid, strict=True)]
        tokens = " x ".join(map(str, grid))
        for axis, size, available in zip(_AXES, self.tile, grid, strict=True):
            if size > available:
                return f"a tile of {size} over {axis} is larger than the grid of {tokens} tokens (time x height x width)", f"at most {fits}"
        if self.sparsity > 0 and tuple(fits) == grid:
            return f"one tile holds the whole grid of {tokens} tokens, so none can be left out", "use smaller tiles"
        return None


AttentionConfig = Annotated[DenseAttention | SparseAttention, Field(discriminator="kind")]


def num_kept(sparsity: float, num_tiles: int) -> int:
    """Return the number of key tiles that a query tile attends to: ceil((1 - sparsity) x tiles), in decimals, at least one."""
    return max(1, min(math.ceil((1 - Fraction(str(sparsity))) * num_tiles), num_tiles))
