"""Owns the keys of `train.callbacks`: moving averages, gradient clipping, validation. Must not import torch."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat

from .section import Section
from .validation import ValidationConfig


class EMAConfig(Section):
    """An exponential moving average of the student's trained weights, kept beside them and saved in checkpoints."""

    decay: float = Field(0.9999, gt=0, lt=1)
    """Share of the average that a step keeps: average = decay x average + (1 - decay) x weights."""
    start_step: NonNegativeInt = 0
    """Until this step the average is a plain copy of the weights."""


class GradClipConfig(Section):
    """Gradients are scaled down where their norm is too large."""

    max_norm: PositiveFloat = 1.0
    """Largest norm of a role's gradients; of two experts each has its own."""


class CallbacksConfig(Section):
    """What happens beside the steps of training; null switches one off."""

    ema: EMAConfig | None = None
    """Average the student's weights; null: do not."""
    grad_clip: GradClipConfig | None = GradClipConfig()
    """Clip gradients; null: do not."""
    validation: ValidationConfig | None = None
    """Show samples and a loss while training; null: do not."""
