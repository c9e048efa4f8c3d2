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
    """One training run: the method, the networks, the data, and how they are optimised, sharded, saved and shown."""

    seed: int = Field(1000, ge=0)
    """Seed of all noise, data order, dropout and random weights."""
    max_steps: PositiveInt
    """Steps of the whole run, an update of the weights each (of DMD2 and self-forcing: iterations)."""
    flow_shift: PositiveFloat = 3.0
    """s of the noise schedule S(u) = s u / (1 + (s - 1) u), as in diffusers' FlowMatchEulerDiscreteScheduler. Larger: more of the steps at
    high noise."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number format in which the networks compute; float32 is meant in full, without TF32. The trained weights and the optimizer's state
    are float32 either way."""
    deterministic: bool = False
    """Ask CUDA for deterministic kernels, which may be slower. CPU runs are deterministic as they are."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """What follows a step whose gradient norm is infinite or not a number; its update is left out in any case. skip: go on. stop: end the
    run."""
    nonfinite_limit: PositiveInt = 10
    """With on_nonfinite: skip, this many such steps in a row end the run."""
    failed_saves: PositiveInt = 3
    """This many failed checkpoints in a row end the run. The launcher sets it from the cluster's limits.failed_saves."""
    method: Method
    """How the networks are trained: `kind`, and the keys of that kind. A method of your own is kind: ./mine.py:MyMethod, and its other keys
    are its own."""
    models: dict[str, Model]
    """The networks by role. Which roles there are depends on the method: student, and where it has them teacher and critic."""
    data: DataConfig
    """What is trained on."""
    optimizers: dict[str, OptimizerConfig]
    """The optimizer of each role that the method trains."""
    parallel: ParallelConfig = ParallelConfig()
    """How the ranks share the work."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are saved and which are kept."""
    callbacks: CallbacksConfig = CallbacksConfig()
    """Averaged weights, gradient clipping and validation."""
    tracking: TrackingConfig = TrackingConfig()
    """TensorBoard and dashboards."""

    def sampling(self, validation: ValidationConfig | None = None) -> ValidationConfig:
        """Return how the student is sampled: by `validation`, else by callbacks.validation, with its nulls filled in."""
        settings = validation or self.callbacks.validation or ValidationConfig()
        return settings.filled(self.method.few_steps(self.flow_shift), self.method.few_step_solver)

    def resolved(self) -> dict[str, Any]:
        """Return plain data that parses back to an equal config."""
        return self.model_dump(mode="json")
