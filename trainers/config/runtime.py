"""Owns the knobs of meshes, checkpoints and callbacks. Must not import torch."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from .section import Section
from .validation import ValidationConfig


class ParallelConfig(Section):
    replicate: PositiveInt | None = None
    """Copies of the sharded model; null: what is left of the world size."""
    shard: PositiveInt | None = None
    """Ranks that one copy is sharded over; null: all that replicate and sequence leave."""
    sequence: PositiveInt = 1

    def mesh(self, world_size: int) -> tuple[int, int, int]:
        """(replicate, shard, sequence) with nulls resolved; ValueError where it does not come out at world_size."""
        rest, left = divmod(world_size, self.sequence)
        if left:
            raise ValueError(f"{world_size} ranks are not a multiple of sequence {self.sequence}")
        replicate = self.replicate or (rest // self.shard if self.shard else 1)
        shard = self.shard or rest // max(replicate, 1)
        if replicate * shard * self.sequence != world_size:
            raise ValueError(f"replicate {replicate} x shard {shard} x sequence {self.sequence} is not {world_size} ranks")
        return replicate, shard, self.sequence


class CheckpointConfig(Section):
    every_steps: PositiveInt | None = 100
    every_minutes: PositiveFloat | None = 15
    """Whichever comes first; both null: only at the end and on a notice."""
    keep_last: int = Field(3, ge=2)
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this are never pruned."""


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
