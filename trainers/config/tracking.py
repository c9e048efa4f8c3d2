"""Owns the knobs of where a run's numbers are shown, beside metrics.jsonl. Must not import torch."""

from __future__ import annotations

from typing import Literal

from .section import Section


class WandbConfig(Section):
    """Weights & Biases; needs the package wandb, and WANDB_API_KEY in the environment."""

    project: str
    """Project that the run is shown in."""
    entity: str | None = None
    """User or team that the project belongs to; null: your default."""
    mode: Literal["online", "offline"] = "online"
    """online: sent as it comes. offline: files in the run's folder, to be sent with `wandb sync`; for nodes without internet."""
    tags: list[str] = []
    """Tags of the run."""


class TrackioConfig(Section):
    """trackio, Hugging Face's local dashboard; needs the package trackio."""

    project: str
    """Project that the run is shown in."""
    space_id: str | None = None
    """Hugging Face Space to log to; null: a database on this machine."""


class TrackingConfig(Section):
    """Where a run's numbers are shown, beside its metrics.jsonl."""

    tensorboard: bool = True
    """Write the folder tensorboard/ in the run directory."""
    wandb: WandbConfig | None = None
    """Log to Weights & Biases as well; null: do not."""
    trackio: TrackioConfig | None = None
    """Log to trackio as well; null: do not."""
