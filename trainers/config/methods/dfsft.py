"""Owns the knobs of diffusion forcing and teacher forcing (methods/README.md section 9). Must not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from .. import causal_checks
from ..section import Problem
from .base import MethodConfig

if TYPE_CHECKING:
    from ..train_block import TrainBlock

_GRID = 1000
_Entry = Annotated[int, Field(ge=0, le=_GRID)]


class Config(MethodConfig):
    """Diffusion forcing: flow matching on a causal student whose blocks of frames each have a noise level of their own."""

    kind: Literal["dfsft"] = "dfsft"
    """Chooses diffusion forcing."""
    chunk_size: PositiveInt | None = None
    """Latent frames that share a noise level. null: the student's num_frames_per_block, which it must equal."""
    index_range: tuple[_Entry, _Entry] = (0, _GRID)
    """Noise levels are drawn from these entries, [first, end), of the 1000 levels of the schedule in descending order: 0 is pure noise, 999
    almost none."""
    weighting: Literal["middle", "none"] = "middle"
    """How each frame's loss is weighted by its noise level. middle: by a bell over the levels (mean 1, at most 1.58, 0 at pure noise).
    none: all alike."""
    teacher_forcing: bool = False
    """Show each block the clean frames of earlier blocks instead of their noisy ones. It doubles the tokens of a clip."""

    @model_validator(mode="after")
    def _range_holds_something(self) -> Config:
        low, high = self.index_range
        if low >= high:
            raise ValueError(f"index_range [{low}, {high}) holds no entry of the grid")
        return self

    def problems(self, train: TrainBlock) -> list[Problem]:
        """Return what does not fit the rest of the train block."""
        per_block = getattr(train.models.get("student"), "num_frames_per_block", None)
        if per_block is not None and self.chunk_size not in (None, per_block):
            message = f"chunk_size {self.chunk_size} is not the student's num_frames_per_block {per_block}"
            return [Problem(("method", "chunk_size"), message, "leave chunk_size out, or make them equal")]
        if getattr(train.models.get("student"), "boundary_ratio", None) is not None and not self.teacher_forcing:
            message = "of two experts each predicts in its own range of noise levels, and in diffusion forcing a video's blocks are in both"
            return [Problem(("method", "teacher_forcing"), message, "teacher_forcing: true shows earlier blocks clean, whatever the range")]
        return causal_checks.problems(train)
