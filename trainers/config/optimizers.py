"""Owns the knobs of optimizers and learning-rate schedules. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .section import Section


class ScheduleConfig(Section):
    kind: Literal["constant", "cosine", "linear"] = "constant"
    """How the rate goes from its full value to final_ratio of it at the end of the run (or at decay_steps)."""
    warmup_steps: NonNegativeInt = 0
    final_ratio: float = Field(0.0, ge=0, le=1)
    decay_steps: PositiveInt | None = None
    """Counted in this optimizer's own steps; null: all that the run makes with it."""


class AdamWConfig(Section):
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01
    schedule: ScheduleConfig = ScheduleConfig()


class MuonConfig(Section):
    """Muon (the update of torch.optim.Muon) on the matrices of the transformer's blocks, fused AdamW on everything else."""

    kind: Literal["muon"] = "muon"
    lr: PositiveFloat
    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 0.0
    rest: AdamWConfig
    """For what is not a matrix of a block; its own schedule is ignored, the rates move together."""
    schedule: ScheduleConfig = ScheduleConfig()


OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]
