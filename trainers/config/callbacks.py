"""Owns the knobs of meshes, checkpoints and callbacks. Must not import torch."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat

from .section import Section
from .validation import ValidationConfig


class EMAConfig(Section):
    decay: float = Field(0.9999, gt=0, lt=1)
    start_step: NonNegativeInt = 0
    """The shadow is a copy of the live weights until this step."""


class GradClipConfig(Section):
    max_norm: PositiveFloat = 1.0


class CallbacksConfig(Section):
    ema: EMAConfig | None = None
    grad_clip: GradClipConfig | None = GradClipConfig()
    validation: ValidationConfig | None = None
