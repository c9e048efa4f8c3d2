"""Owns the `export` block: which run's weights a job writes as a folder for diffusers. Must not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..section import Section


class Config(Section):
    run: str
    """A run's directory. In a pipeline: {stage: NAME, output: run}."""
    to: str | None = None
    """The folder, which must not exist; null: export-live or export-ema in the run's directory."""
    weights: Literal["live", "ema"] = "live"
    role: str = "student"
    merge: bool = False
    """Of a LoRA run: whole weights with the adapter in them."""

    @property
    def folder(self) -> Path:
        return Path(self.to) if self.to is not None else Path(self.run) / f"export-{self.weights}"

    def resolved(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
