"""Owns the knobs of where a run's numbers are shown, beside metrics.jsonl. Must not import torch."""

from __future__ import annotations

from typing import Literal

from .section import Section


class WandbConfig(Section):
    """Weights & Biases; needs the package wandb, and WANDB_API_KEY in the environment."""

    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    """offline: files in the run's folder, to be sent with `wandb sync`; for nodes without internet."""
    tags: list[str] = []


class TrackioConfig(Section):
    """trackio, Hugging Face's local dashboard; needs the package trackio."""

    project: str
    space_id: str | None = None
    """Space to log to; null: a database on this machine."""


class TrackingConfig(Section):
    tensorboard: bool = True
    wandb: WandbConfig | None = None
    trackio: TrackioConfig | None = None
