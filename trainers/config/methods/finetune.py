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
    """With logit_normal. A larger mean favours larger u, which is less noise: u counts from pure noise."""
    mode_scale: float = Field(1.29, ge=-1, le=1.75)
    """With mode. Outside these bounds u is not monotone in the uniform number it is made of; the upper one is 2 / (pi - 2)."""
    precondition_outputs: bool = False
    """Compare x0 predictions instead of velocities."""
