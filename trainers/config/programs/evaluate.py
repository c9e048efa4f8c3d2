"""Owns the `evaluate` block: whose samples of the moving-shapes task are measured, and how they are made. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ..export_folder import WeightsKind
from ..section import Section


class RowConfig(Section):
    """One row of the table. The sampler's keys are those of callbacks.validation; null: as the run validates."""

    source: str
    """Whose samples are measured: a run's directory, or an exported folder."""
    role: str = "student"
    """Role of the run whose network samples."""
    weights: WeightsKind = "live"
    """Sample with the trained weights (live) or with their moving average (ema), of a run."""
    step: PositiveInt | None = None
    """Checkpoint of the run; null: the newest that verifies."""
    solver: Literal["unipc", "euler", "sde", "ode"] | None = None
    """Sampler, as train.callbacks.validation.solver; null: as the run validates."""
    num_steps: PositiveInt | None = None
    """Sampling steps of unipc and euler; null: as the run validates."""
    timesteps: list[int | float] | None = None
    """Timesteps of sde and ode, descending; null: as the run validates."""
    guidance_scale: float | None = Field(None, ge=0)
    """Classifier-free guidance: s of u + s (c - u); 1: none. null: as the run validates."""


class Config(Section):
    """Measures samples of the moving-shapes task, a row a network and sampler: evaluation.md, .json and .png in the run directory. One
    rank."""

    kind: Literal["shapes"] = "shapes"
    """The only kind there is: the moving shapes."""
    rows: Annotated[dict[str, RowConfig], Field(min_length=1)]
    """Rows of the table by the name that it shows; each is a network and a sampler."""
    num_videos: PositiveInt = 512
    """Videos of each row, as many of each caption."""
    batch_size: PositiveInt = 128
    """Videos that are sampled at once."""
    seed: NonNegativeInt = 0
    """Seed of the noise, which all rows start from."""

    def resolved(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
