"""Owns the keys of `train.checkpoint`: when checkpoints are written and which are kept. Must not import torch."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from .section import Section


class CheckpointConfig(Section):
    """When checkpoints are saved, and which of them are kept."""

    every_steps: PositiveInt | None = 100
    """Save at multiples of this step; null: not by steps."""
    every_minutes: PositiveFloat | None = 15
    """Save when this much time has passed since the last one; whichever comes first. Both null: only at the end and on a notice."""
    keep_last: int = Field(3, ge=2)
    """The newest checkpoints that are kept; older ones are deleted."""
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this step are never deleted; null: none of them is special."""
