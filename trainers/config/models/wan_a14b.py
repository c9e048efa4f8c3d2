"""Owns how a Wan2.2 A14B is described: two Wan transformers, each for its own range of noise levels. Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from .. import hub_cache
from ..section import Problem, Section
from ..stored_json import read_object
from . import wan
from .base import LoraConfig

if TYPE_CHECKING:
    from ..train_block import TrainBlock

Expert = Literal["transformer", "transformer_2"]
HIGH, LOW = "transformer", "transformer_2"
"""The experts by their folders in a pipeline: for much noise, and for little."""


class ExpertConfig(Section):
    """What is said of one expert alone, in place of what is said of both."""

    init_from: str | None = None
    """Where this expert's weights come from: a folder or Hugging Face id, of which its folder of the expert's name is taken, else its
    transformer. null: where both come from."""
    revision: str | None = None
    """Commit, branch or tag of this expert's init_from."""
    subfolder: str | None = None
    """Another folder of it to take the weights from."""
    lora: LoraConfig | None = None
    """Adapters of this expert, in place of those that are said of both."""


class TwoExperts(Section):
    """What a role of two experts has beside what a role of one network has: mixed into a family's Config, before that family's."""

    boundary_ratio: float = Field(0.875, gt=0, lt=1)
    """Where the experts change over: transformer predicts at timesteps from 1000 times this on, transformer_2 below. Wan2.2's text to
    video: 0.875."""
    experts: dict[Expert, ExpertConfig] = {}
    """What differs for one of the two experts, by its name: transformer or transformer_2."""

    def expert(self, name: str) -> Any:
        """Return the section of one expert, as a role of one network would have it; what it starts from is in one of `folders_of`."""
        own = self.experts.get(name, ExpertConfig())  # type: ignore[call-overload]
        update: dict[str, Any] = {} if own.lora is None else {"lora": own.lora}
        if own.init_from is not None:
            update |= {"init_from": own.init_from, "revision": own.revision}
        return self.model_copy(update=update)

    def folders_of(self, name: str) -> tuple[tuple[str, ...], bool]:
        """Return (names of its folder in what it starts from, the first that is there; whether that may be the expert's own folder)."""
        own = self.experts.get(name, ExpertConfig())  # type: ignore[call-overload]
        if own.subfolder is not None:
            return (own.subfolder,), False
        return ((name, HIGH), True) if own.init_from is not None else ((name,), False)

    @property
    def references(self) -> list[tuple[str, str | None]]:
        """Return (init_from, revision) of both, and then of each expert that has its own."""
        both: list[tuple[str, str | None]] = super().references  # type: ignore[misc]
        return both + [(own.init_from, own.revision) for _, own in sorted(self.experts.items()) if own.init_from is not None]

    @property
    def adapted(self) -> bool:
        return all(self.expert(name).lora is not None for name in (HIGH, LOW))

    def expert_problems(self, role: str, train: TrainBlock) -> list[Problem]:
        path, problems = ("models", role, "experts"), []
        if not self.adapted and any(self.expert(name).lora is not None for name in (HIGH, LOW)):
            message = "one expert would have an adapter, the other be trained whole"
            problems.append(Problem(path, message, "say lora beside experts: then it is both experts'"))
        for name, own in self.experts.items():
            if own.init_from is None and own.revision is not None:
                problems.append(Problem((*path, name, "revision"), "is of this expert's init_from, which is missing", "set both, or none"))
            if own.lora is not None and role not in train.optimizers:
                problems.append(Problem((*path, name, "lora"), f"{role!r} is not trained, so it can have no adapter", "remove lora"))
        if getattr(self, "architecture", None) is not None and any(own.init_from for own in self.experts.values()):
            problems.append(Problem(path, "with an architecture both experts start from random weights", "set init_from instead"))
        others = {getattr(model, "boundary_ratio", self.boundary_ratio) for model in train.models.values()}
        if others != {self.boundary_ratio}:
            message = f"boundary_ratio is {self.boundary_ratio:g} here, and another one in another role: {sorted(others)}"
            problems.append(Problem(("models", role, "boundary_ratio"), message, "all roles of two experts change over at one timestep"))
        return problems

    def missing_inputs(self, role: str) -> list[Problem]:
        """Return what its folders lack, as far as they are on this machine. Looks at the disk."""
        problems = []
        for name in (HIGH, LOW):
            section, (names, alone) = self.expert(name), self.folders_of(name)
            folder = hub_cache.local_model(section.init_from, section.revision)
            if folder is None or alone or any((folder / part).is_dir() for part in names):
                continue
            own = self.experts.get(name)  # type: ignore[call-overload]
            path = ("models", role, *(() if own is None or own.init_from is None else ("experts", name)), "init_from")
            hint = f"a pipeline of two experts, or models.{role}.experts.{name}.init_from for this one"
            problems.append(Problem(path, f"one expert is missing: {folder} has no folder {' or '.join(names)}", hint))
        return problems + self._other_boundary(role)

    def _other_boundary(self, role: str) -> list[Problem]:
        """Return the problem of a default boundary_ratio where the pipeline that it starts from was trained with another one."""
        folder = hub_cache.local_model(getattr(self, "init_from", None), getattr(self, "revision", None))
        try:
            trained_with = None if folder is None else read_object(folder / "model_index.json").get("boundary_ratio")
        except (OSError, ValueError, AttributeError):
            trained_with = None
        if trained_with in (None, self.boundary_ratio) or "boundary_ratio" in self.model_fields_set:
            return []
        message = f"{folder} changes experts at a boundary_ratio of {trained_with}, not at {self.boundary_ratio:g}"
        return [Problem(("models", role, "boundary_ratio"), message, f"boundary_ratio: {trained_with}; another one only where it is meant")]


class Config(TwoExperts, wan.Config):
    """Two Wan transformers, as in Wan2.2 A14B: transformer for high noise, transformer_2 for low noise."""

    family: Literal["wan-a14b"] = "wan-a14b"  # type: ignore[assignment]
    """Chooses two Wan transformers."""

    def problems(self, role: str, train: TrainBlock) -> list[Problem]:
        return super().problems(role, train) + self.expert_problems(role, train)
