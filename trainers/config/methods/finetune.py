"""Owns the knobs of full finetuning by flow matching (ALGORITHMS.md section 3). Must not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import MethodConfig


class Config(MethodConfig):
    kind: Literal["finetune"] = "finetune"
    weighting_scheme: Literal["uniform", "logit_normal", "mode"] = "uniform"
    """How u, and so the timestep, is drawn: uniform U(0,1); sigmoid(N(mean, std)); SD3's mode sampling."""
    logit_mean: float = 0.0
    logit_std: float = Field(1.0, gt=0)
    mode_scale: float = 1.29
    precondition_outputs: bool = False
    """Compare x0 predictions instead of velocities."""
