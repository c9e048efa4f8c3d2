"""Owns the keys of a role's network whatever its family: what it starts from, its adapters, its memory. Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ..section import Problem, Section

if TYPE_CHECKING:
    from ..train_block import TrainBlock


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


class ModelConfig(Section):
    """What OneNetwork (trainers/models/base.py) reads of every family's block; a family's Config adds its own keys."""

    family: str
    """Name of the family: its file in trainers/models, or ./file.py:ClassName."""
    init_from: str | None = None
    """Where its weights are; null: random weights from the run's seed."""
    revision: str | None = None
    """Commit, branch or tag of the Hugging Face id. null: its default branch as last downloaded."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the weights; only for a role that is trained. Checkpoints then hold the adapters only."""
    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """What the backward pass computes again, to save memory. full: each transformer block. selective: all of a block but its matrix
    products and attention."""
    compile: bool = False
    """Use torch.compile on each transformer block: faster steps, after a slow first one."""

    @property
    def adapted(self) -> bool:
        """Return whether adapters are trained, and not the weights."""
        return self.lora is not None

    @property
    def references(self) -> list[tuple[str, str | None]]:
        """Return (init_from, revision) of everything that the role starts from."""
        return [] if self.init_from is None else [(self.init_from, self.revision)]

    def missing_inputs(self, role: str) -> list[Problem]:
        """Return what is missing in the folders that it reads, where these are on this machine. Looks at the disk."""
        return []

    def problems(self, role: str, train: TrainBlock) -> list[Problem]:
        """Return what is wrong between this role and the rest of the train block; paths are keys below `train`."""
        problems = []
        if self.lora is not None and role not in train.optimizers:
            problems.append(Problem(("models", role, "lora"), f"{role!r} is not trained, so it can have no adapter", "remove lora"))
        if self.revision is not None and self.init_from is None:
            problems.append(Problem(("models", role, "revision"), "is of init_from, which is missing", "remove it, or set init_from"))
        return problems
