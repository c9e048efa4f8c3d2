"""Owns the `evaluate` block: whose samples of the moving-shapes task are measured, and how they are made. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ..section import Section


class RowConfig(Section):
    """One row of the table. The sampler's keys are those of callbacks.validation; null: as the run validates."""

    source: str
    """A run's directory, or an exported folder."""
    role: str = "student"
    weights: Literal["live", "ema"] = "live"
    step: PositiveInt | None = None
    solver: Literal["unipc", "euler", "sde", "ode"] | None = None
    num_steps: PositiveInt | None = None
    timesteps: list[int | float] | None = None
    guidance_scale: float | None = Field(None, ge=0)


class Config(Section):
    kind: Literal["shapes"] = "shapes"
    rows: Annotated[dict[str, RowConfig], Field(min_length=1)]
    """By the name that the table shows; each a network and a sampler."""
    num_videos: PositiveInt = 512
    """Of each row, of all captions alike."""
    batch_size: PositiveInt = 128
    """Sampled at once."""
    seed: NonNegativeInt = 0
    """All rows start from the same noise."""

    def resolved(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
