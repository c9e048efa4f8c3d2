"""Owns how a Wan transformer is described: where its weights come from, or its architecture, and its adapters. Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ..attention import AttentionConfig, SparseAttention
from ..section import Problem, Section

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


class LoraConfig(Section):
    """Train low-rank adapters instead of the weights: W x + (alpha / rank) B A x, after arXiv 2106.09685."""

    rank: PositiveInt
    """Rank of the adapters: larger can learn more, and takes more memory."""
    alpha: PositiveFloat | None = None
    """The adapters' output is multiplied by alpha / rank. null: as rank, so that it is not."""
    target_modules: Annotated[list[str], Field(min_length=1)] = ["to_q", "to_k", "to_v", "to_out.0"]
    """Linear layers that get an adapter, by their names or the ends of their names. Each must match something."""
    exclude_modules: list[str] = []
    """Layers among these that get none, by their names or the ends of their names."""

    @property
    def all_names(self) -> list[str]:
        return [*self.target_modules, *self.exclude_modules]

    @property
    def scaled_alpha(self) -> float:
        return float(self.rank if self.alpha is None else self.alpha)


class Config(Section):
    """One Wan transformer, as in Wan2.1: every frame attends to all frames."""

    family: Literal["wan"] = "wan"
    """Chooses one Wan transformer."""
    init_from: str | None = None
    """Where the weights come from: a Hugging Face id that was downloaded, a diffusers folder (a whole pipeline or its transformer), or
    tiny-wan, a small random network. null: random weights of `architecture`, drawn from the run's seed."""
    revision: str | None = None
    """Commit, branch or tag of the Hugging Face id. null: its default branch as last downloaded."""
    architecture: WanArchitecture | None = None
    """Sizes of a network of random weights; only without init_from."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the weights; only for a role that is trained. Checkpoints then hold the adapters only."""
    attention: AttentionConfig | None = None
    """Self-attention of the network. null: as the weights of init_from were trained, which is dense but for exports of runs with vsa."""
    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """What the backward pass computes again, to save memory. full: each transformer block. selective: all of a block but its matrix
    products and attention."""
    compile: bool = False
    """Use torch.compile on each transformer block: faster steps, after a slow first one."""

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained, not the weights."""
        return self.lora is not None

    @property
    def references(self) -> list[tuple[str, str | None]]:
        """(init_from, revision) of all that it starts from."""
        return [] if self.init_from is None else [(self.init_from, self.revision)]

    def missing_inputs(self, role: str) -> list[Problem]:
        """What is not in the folders it reads, where these are on this machine; paths as those of `problems`. Looks at the disk."""
        return []

    def problems(self, role: str, train: TrainBlock) -> list[Problem]:
        """What is wrong between this role and the rest of the train block; paths are keys below `train`."""
        found = []
        if self.lora is not None and role not in train.optimizers:
            found.append(Problem(("models", role, "lora"), f"{role!r} is not trained, so it can have no adapter", "remove lora"))
        if self.revision is not None and self.init_from is None:
            found.append(Problem(("models", role, "revision"), "is of init_from, which is missing", "remove it, or set init_from"))
        return found + ([] if not isinstance(self.attention, SparseAttention) else self._sparse_problems(role, train, self.attention))

    def _sparse_problems(self, role: str, train: TrainBlock, attention: SparseAttention) -> list[Problem]:
        found = []
        patch = (1, 2, 2) if self.architecture is None else self.architecture.patch_size
        t, h, w = (size // by for size, by in zip(train.data.latent_shape, patch, strict=True))
        if misfit := attention.misfit((t, h, w)):
            found.append(Problem(("models", role, "attention", "tile"), *misfit))
        if self.lora is not None and not {"to_gate_compress"} & {n.split(".")[-1] for n in self.lora.all_names}:
            message = "with attention vsa it must be said whether the gates, which start at zero, are trained"
            hint = "add to_gate_compress to target_modules, or, for gates that stay as they are, to exclude_modules"
            found.append(Problem(("models", role, "lora", "target_modules"), message, hint))
        return found
