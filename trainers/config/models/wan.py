"""Owns how a Wan transformer is described: where its weights come from, or its architecture, and its adapters. Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from ..attention import AttentionConfig, SparseAttention
from ..section import Problem, Section
from .base import ModelConfig

if TYPE_CHECKING:
    from ..train_block import TrainBlock


class WanArchitecture(Section):
    """Arguments of diffusers' WanTransformer3DModel; the defaults are Wan2.1 T2V 1.3B's."""

    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    """Latents that make one token, over time, height and width."""
    num_attention_heads: PositiveInt = 12
    """Attention heads; the network's width is this times attention_head_dim."""
    attention_head_dim: PositiveInt = 128
    """Numbers of one attention head."""
    in_channels: PositiveInt = 16
    """Channels of the noisy latents."""
    out_channels: PositiveInt = 16
    """Channels of the predicted velocity."""
    text_dim: PositiveInt = 4096
    """Numbers of one token of a prompt's embedding."""
    freq_dim: PositiveInt = 256
    """Numbers of the sinusoidal embedding of the timestep."""
    ffn_dim: PositiveInt = 8960
    """Width inside the feed-forward layers."""
    num_layers: PositiveInt = 30
    """Transformer blocks."""
    cross_attn_norm: bool = True
    """Whether the input of cross-attention is normalised."""
    qk_norm: str | None = "rms_norm_across_heads"
    """How queries and keys are normalised; null: not at all."""
    eps: float = Field(1e-6, gt=0)
    """Added to variances in the normalisations."""
    rope_max_seq_len: PositiveInt = 1024
    """Largest position, over time, height or width, that the rotary embeddings hold."""


class Config(ModelConfig):
    """One Wan transformer, as in Wan2.1: every frame attends to all frames."""

    family: Literal["wan"] = "wan"
    """Chooses one Wan transformer."""
    init_from: str | None = None
    """Where the weights come from: a Hugging Face id that was downloaded, a diffusers folder (a whole pipeline or its transformer), or
    tiny-wan, a small random network. null: random weights of `architecture`, drawn from the run's seed."""
    architecture: WanArchitecture | None = None
    """Sizes of a network of random weights; only without init_from."""
    attention: AttentionConfig | None = None
    """Self-attention of the network. null: as the weights of init_from were trained, which is dense but for exports of runs with vsa."""

    def problems(self, role: str, train: TrainBlock) -> list[Problem]:
        """Return what is wrong between this role and the rest of the train block; paths are keys below `train`."""
        problems = super().problems(role, train)
        return problems + self._sparse_problems(role, train, self.attention) if isinstance(self.attention, SparseAttention) else problems

    def _sparse_problems(self, role: str, train: TrainBlock, attention: SparseAttention) -> list[Problem]:
        problems = []
        patch = (1, 2, 2) if self.architecture is None else self.architecture.patch_size
        t, h, w = (size // by for size, by in zip(train.data.latent_shape, patch, strict=True))
        if misfit := attention.misfit((t, h, w)):
            problems.append(Problem(("models", role, "attention", "tile"), *misfit))
        if self.lora is not None and not {"to_gate_compress"} & {n.split(".")[-1] for n in self.lora.all_names}:
            message = "with attention vsa it must be said whether the gates, which start at zero, are trained"
            hint = "add to_gate_compress to target_modules, or, for gates that stay as they are, to exclude_modules"
            problems.append(Problem(("models", role, "lora", "target_modules"), message, hint))
        return problems
