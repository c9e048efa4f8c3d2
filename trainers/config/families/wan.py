"""Owns how a Wan transformer is described: where its weights come from, or its architecture. Must not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ..section import Section


class WanArchitecture(Section):
    """Arguments of diffusers' WanTransformer3DModel; the defaults are Wan2.1 T2V 1.3B's."""

    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    num_attention_heads: PositiveInt = 12
    attention_head_dim: PositiveInt = 128
    in_channels: PositiveInt = 16
    out_channels: PositiveInt = 16
    text_dim: PositiveInt = 4096
    freq_dim: PositiveInt = 256
    ffn_dim: PositiveInt = 8960
    num_layers: PositiveInt = 30
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = Field(1e-6, gt=0)
    rope_max_seq_len: PositiveInt = 1024


class Config(Section):
    family: Literal["wan"] = "wan"
    init_from: str | None = None
    """A diffusers folder with a `transformer` subfolder; null: random weights of `architecture` from the run's seed."""
    architecture: WanArchitecture | None = None
    """Only without init_from."""
    activation_checkpointing: Literal["none", "full"] = "none"
    """full: each block's activations are recomputed in the backward pass."""
