"""Owns the `export` block: which run's weights a job writes as a folder for diffusers. Must not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..section import Section


class Config(Section):
    """Writes a run's weights as a folder that stock diffusers loads."""

    run: str
    """The run's directory; in a pipeline {stage: NAME, output: run}."""
    to: str | None = None
    """Folder to make, which must not exist. null: export-live or export-ema in the run's directory."""
    weights: Literal["live", "ema"] = "live"
    """Write the trained weights (live) or their moving average (ema)."""
    role: str = "student"
    """Role of the run whose network is written."""
    merge: bool = False
    """Of a LoRA run: write whole weights with the adapter in them, instead of the adapter."""

    @property
    def folder(self) -> Path:
        return Path(self.to) if self.to is not None else Path(self.run) / f"export-{self.weights}"

    def resolved(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
