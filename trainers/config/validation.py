"""Owns the knobs of validation: samples of fixed prompts and noise, and a loss at fixed noise levels. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from .data import DataConfig
from .section import Section

Step = Annotated[int, Field(ge=1, le=1000)]


class ValidationLossConfig(Section):
    path: str | None = None
    """Folder of parquet files that the run does not train on; null: the `holdout` beside the data, and without one the data itself."""
    num_samples: PositiveInt = 8
    """The first so many. Each is noised at every one of `steps`, always with the same noise."""
    steps: Annotated[list[Step], Field(min_length=1)] = [200, 400, 600, 800]
    """Noise levels, 1 to 1000 on the unshifted grid; flow_shift is applied to them."""


class ValidationConfig(Section):
    every_steps: PositiveInt = 100
    """And at the last step."""
    prompts: Annotated[list[str], Field(min_length=1)] | None = None
    """null: those that the data was preprocessed with, or else the first two samples'. Others are encoded when the run starts."""
    seed: NonNegativeInt = 0
    """Prompt n is sampled from the noise of seed + n, at every validation."""
    num_steps: PositiveInt = 50
    guidance_scale: float = Field(5.0, ge=0)
    """s of u + s (c - u); 1: no guidance."""
    negative_prompt: str | None = None
    """Of the unconditional branch; null: the one that the data was preprocessed with."""
    solver: Literal["unipc", "euler"] = "unipc"
    flow_shift: PositiveFloat | None = None
    """Of sampling; null: train.flow_shift."""
    weights: Literal["live", "ema"] | None = None
    """null: the averages where there are any."""
    num_frames: PositiveInt | None = None
    """Of the samples; null, here and below: the data's."""
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fps: PositiveInt = 16
    model: str | None = None
    """Whose VAE decodes and whose text encoder encodes: a diffusers folder, a hub id, or `shapes`; null: what the student starts from."""
    videos: bool = True
    """false: only the loss."""
    loss: ValidationLossConfig | None = ValidationLossConfig()

    def sizes(self, data: DataConfig) -> DataConfig:
        """The data's settings with the sizes of the samples."""
        asked = {name: value for name in ("num_frames", "height", "width") if (value := getattr(self, name)) is not None}
        return data.model_copy(update=asked)
