"""Owns the keys of `train.checkpoint`: when checkpoints are written and which are kept."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from .section import Section


class CheckpointConfig(Section):
    every_steps: PositiveInt | None = 100
    every_minutes: PositiveFloat | None = 15
    """Whichever comes first; both null: only at the end and on a notice."""
    keep_last: int = Field(3, ge=2)
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this are never pruned."""
