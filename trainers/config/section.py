"""Owns the base of every configuration section and the shape of a cross-section problem. Must not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One block of a configuration file: unknown keys are errors, values are never changed after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)  # most commands parse few of them


@dataclass(frozen=True)
class Problem:
    """Something wrong that no single key shows: `path` is the key to point at (below `train`), as in ("data", "path")."""

    path: tuple[str, ...]
    message: str
    hint: str = ""
