"""Owns how a block-causal Wan is described: a Wan and the size of its blocks. Must not import torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from ..attention_window import blocks_fit
from . import wan


class Config(wan.Config):
    """A Wan transformer that is causal in blocks of frames: a block attends to itself and to earlier blocks."""

    family: Literal["causal-wan"] = "causal-wan"  # type: ignore[assignment]
    """Chooses a block-causal Wan transformer."""
    num_frames_per_block: PositiveInt = 3
    """Latent frames of a block, which attend to each other and to all earlier blocks. Where it does not divide a video, the last block is
    smaller."""
    local_attn_size: PositiveInt | None = None
    """Latent frames that a block sees, with sink frames and its own: where a video is longer, this window moves along. null: all earlier
    frames."""
    sink_frames: NonNegativeInt = 0
    """The first so many latent frames of a video, which every block sees however far the window has moved."""
    attention: Literal["auto", "dense", "flex"] = "auto"  # type: ignore[assignment]
    """How block-causal attention is computed. flex: flex_attention. dense: scaled_dot_product_attention with the whole mask. auto: flex on
    CUDA, where it gives right results, which is tried at the start; dense elsewhere."""

    @field_validator("attention", mode="before")
    @classmethod
    def _not_sparse(cls, value: Any) -> Any:
        if isinstance(value, dict):
            raise ValueError(f"a block-causal network cannot have attention {value.get('kind')!r}: use auto, dense or flex, or family: wan")
        return value

    @model_validator(mode="after")
    def _window_holds_a_block(self) -> Config:
        if self.local_attn_size is None and self.sink_frames:
            raise ValueError(f"sink_frames {self.sink_frames} are of a rolling window: set local_attn_size too, or leave them out")
        if wrong := blocks_fit(self.local_attn_size, self.sink_frames, self.num_frames_per_block):
            raise ValueError("; ".join(wrong))
        return self
