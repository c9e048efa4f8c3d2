"""Owns the keys of `train.checkpoint`: when checkpoints are written and which are kept. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

from .section import Section

AUTO = "auto"


def _minutes(value: Any) -> Any:
    """Refuse in one sentence what is neither a positive number, nor auto, nor null."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
    if value is None or value == AUTO or is_number:
        return value
    raise PydanticCustomError("minutes", "Input should be a number of minutes greater than 0, or auto")


Minutes = Annotated[PositiveFloat | Literal["auto"] | None, BeforeValidator(_minutes)]


class CheckpointConfig(Section):
    """When checkpoints are saved, and which of them are kept."""

    every_steps: PositiveInt | None = 100
    """Save at multiples of this step; null: not by steps."""
    every_minutes: Minutes = 15.0
    """Save when this much time has passed since the last one; whichever comes first. Both null: only at the end and on a notice. auto: the
    launcher works out at submission what loses least time, from the cluster's reliability and the size of a checkpoint; every_steps is
    then null where nobody has written it."""
    keep_last: int = Field(3, ge=2)
    """The newest checkpoints that are kept; older ones are deleted."""
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this step are never deleted; null: none of them is special."""

    @property
    def every_s(self) -> float | None:
        """Return the seconds after which a save is due; None: time makes none due. ValueError for auto, which is no time yet."""
        return None if self.every_minutes is None else 60 * float(self.every_minutes)
