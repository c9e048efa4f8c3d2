"""Owns how a block-causal Wan is described: a Wan and the size of its blocks. Must not import torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt, field_validator

from . import wan


class Config(wan.Config):
    family: Literal["causal-wan"] = "causal-wan"  # type: ignore[assignment]
    num_frames_per_block: PositiveInt = 3
    """Latent frames that attend to each other and to all earlier ones. Where it does not divide a video, the last block is smaller."""
    attention: Literal["auto", "dense", "flex"] = "auto"  # type: ignore[assignment]
    """auto: flex_attention on CUDA, elsewhere scaled_dot_product_attention with the whole mask."""

    @field_validator("attention", mode="before")
    @classmethod
    def _not_sparse(cls, value: Any) -> Any:
        if isinstance(value, dict):
            raise ValueError(f"a block-causal network cannot have attention {value.get('kind')!r}: use auto, dense or flex, or family: wan")
        return value
