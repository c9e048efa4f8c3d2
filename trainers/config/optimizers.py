"""Owns the knobs of optimizers and learning-rate schedules. Must not import torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .section import Section


class ScheduleConfig(Section):
    """How the learning rate changes over the run: warm-up, then the rate itself, or a fall towards a share of it."""

    kind: Literal["constant", "cosine", "linear"] = "constant"
    """How the rate goes on after the warm-up: constant, or down to final_ratio of it along a cosine or a line."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which the rate rises from 0 to its full value."""
    final_ratio: float = Field(0.0, ge=0, le=1)
    """Share of the full rate that cosine and linear end at."""
    decay_steps: PositiveInt | None = None
    """Step, counted in this optimizer's own steps, at which cosine and linear reach their end. null: the last one of the run."""

    def factor(self, step: int, last_step: int) -> float:
        """Return the factor of the rate after `step` of the optimizer's own steps, of which the run has `last_step`: it rises linearly to 1
        over the warm-up, then falls to final_ratio at decay_steps and stays there."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, (self.decay_steps or last_step) - self.warmup_steps))
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final_ratio + (1 - self.final_ratio) * left


class AdamWConfig(Section):
    """Fused AdamW (arXiv 1711.05101) on all of a role's trained weights."""

    kind: Literal["adamw"] = "adamw"
    """Chooses AdamW."""
    lr: PositiveFloat
    """Learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the averages of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of the update."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay: each step takes lr times this off the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate changes over the run."""


class MuonConfig(Section):
    """Muon (the update of torch.optim.Muon) on the matrices of the transformer's blocks, fused AdamW on everything else."""

    kind: Literal["muon"] = "muon"
    """Chooses Muon."""
    lr: PositiveFloat
    """Learning rate of the matrices of the transformer's blocks."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay rate of the average of the gradient."""
    nesterov: bool = True
    """Use Nesterov's momentum."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of these matrices."""
    rest: AdamWConfig
    """AdamW for everything else. Its own schedule is ignored: the rates move together."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How both learning rates change over the run."""


OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]
