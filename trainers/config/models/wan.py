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


class LoraConfig(Section):
    """Train low-rank adapters instead of the weights: W x + (alpha / rank) B A x, after arXiv 2106.09685."""

    rank: PositiveInt
    alpha: PositiveFloat | None = None
    """null: as rank."""
    target_modules: Annotated[list[str], Field(min_length=1)] = ["to_q", "to_k", "to_v", "to_out.0"]
    """Linear layers that get an adapter: their names, or the ends of their names. Each must match something."""
    exclude_modules: list[str] = []
    """Among those, layers that get none, written alike."""

    @property
    def all_names(self) -> list[str]:
        return [*self.target_modules, *self.exclude_modules]

    @property
    def scaled_alpha(self) -> float:
        return float(self.rank if self.alpha is None else self.alpha)


class Config(Section):
    family: Literal["wan"] = "wan"
    init_from: str | None = None
    """A Hugging Face id in the local cache, a diffusers folder (a whole pipeline or its transformer), or tiny-wan.

    null: random weights of `architecture` from the run's seed."""
    revision: str | None = None
    """Commit, branch or tag of the Hugging Face id; null: its default branch as last downloaded."""
    architecture: WanArchitecture | None = None
    """Only without init_from."""
    lora: LoraConfig | None = None
    """Only of a trained role: its weights stay as they are, and checkpoints hold the adapters only."""
    attention: AttentionConfig | None = None
    """Self-attention. null: as what init_from names was trained, which is dense but for exports of runs with vsa."""
    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """full: each block is computed again in the backward pass; selective: all of it but matrix products and attention."""
    compile: bool = False
    """torch.compile each block: faster steps after a slow first one."""

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
