"""Owns the `train` block: what one training run computes. Must not import torch; the launcher validates with it at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SerializeAsAny

from .callbacks import CallbacksConfig
from .checkpoint import CheckpointConfig
from .data import DataConfig
from .discovery import chooser
from .methods.base import MethodConfig
from .optimizers import OptimizerConfig
from .parallel import ParallelConfig
from .section import Section
from .tracking import TrackingConfig
from .validation import ValidationConfig

Method = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(chooser("trainers.config.methods", "kind"))]
Model = Annotated[SerializeAsAny[Section], BeforeValidator(chooser("trainers.config.models", "family", "wan"))]


class TrainConfig(Section):
    seed: int = Field(1000, ge=0)
    max_steps: PositiveInt
    flow_shift: PositiveFloat = 3.0
    """S(u) = s*u / (1 + (s-1)*u), as diffusers' FlowMatchEulerDiscreteScheduler."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Compute type of the networks; masters and optimizer state are always float32."""
    deterministic: bool = False
    """Ask CUDA for deterministic kernels. CPU runs are deterministic as they are."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """What follows a step whose gradient norm is not finite (its update is always skipped): go on, or end the run."""
    nonfinite_limit: PositiveInt = 10
    """With skip: so many such steps in a row end the run."""
    failed_saves: PositiveInt = 3
    """So many failed checkpoints in a row end the run. The launcher sets it from the cluster's limits.failed_saves."""
    method: Method
    models: dict[str, Model]
    data: DataConfig
    optimizers: dict[str, OptimizerConfig]
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    callbacks: CallbacksConfig = CallbacksConfig()
    tracking: TrackingConfig = TrackingConfig()

    def sampling(self, asked: ValidationConfig | None = None) -> ValidationConfig:
        """How the student is sampled: as `asked`, else by callbacks.validation, with its nulls filled in."""
        wanted = asked or self.callbacks.validation or ValidationConfig()
        return wanted.filled(self.method.few_steps(self.flow_shift), self.method.few_step_solver)

    def resolved(self) -> dict[str, Any]:
        """Plain data that parses back to an equal config."""
        return self.model_dump(mode="json")
