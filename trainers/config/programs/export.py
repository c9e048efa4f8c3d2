"""Owns the `export` block: which run's weights a job writes as a folder for diffusers. Must not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..export_folder import WeightsKind, folder_name
from ..section import Section


class Config(Section):
    """Writes a run's weights as a folder that stock diffusers loads."""

    run: str
    """The run's directory; in a pipeline {stage: NAME, output: run}."""
    to: str | None = None
    """Folder to make, which must not exist. null: export-live or export-ema in the run's directory, with -ROLE for another role than the
    student, and -merged where an adapter is merged."""
    weights: WeightsKind = "live"
    """Write the trained weights (live) or their moving average (ema)."""
    role: str = "student"
    """Role of the run whose network is written."""
    merge: bool = False
    """Of a LoRA run: write whole weights with the adapter in them, instead of the adapter."""

    @property
    def folder(self) -> Path:
        """Return the folder to make: `to`, or the default in the run's directory."""
        if self.to is not None:
            return Path(self.to)
        return Path(self.run) / folder_name(self.weights, self.role, merge=self.merge)

    def resolved(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
