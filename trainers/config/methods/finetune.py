"""Owns the knobs of full finetuning by flow matching (methods/README.md section 3). Must not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import MethodConfig


class Config(MethodConfig):
    """Full finetuning, or LoRA where the student has it: flow matching on clips."""

    kind: Literal["finetune"] = "finetune"
    """Chooses finetuning."""
    weighting_scheme: Literal["uniform", "logit_normal", "mode"] = "uniform"
    """Distribution of u, a noise level's place in the schedule (0 is pure noise): uniform in 0 to 1; logit_normal, sigmoid of a normal
    number; mode, mode sampling of SD3 (arXiv 2403.03206)."""
    logit_mean: float = 0.0
    """With logit_normal: mean of the normal number. Larger: less noise."""
    logit_std: float = Field(1.0, gt=0)
    """With logit_normal: standard deviation of the normal number."""
    mode_scale: float = Field(1.29, ge=-1, le=1.75)
    """With mode: above 0 favours middle noise levels, below 0 the ends. Outside of these bounds the formula is not monotone; the upper one
    is 2 / (pi - 2)."""
    precondition_outputs: bool = False
    """Compare predictions of the clean clip instead of velocities."""
