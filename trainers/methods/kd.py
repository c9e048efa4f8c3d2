"""Owns knowledge distillation: the student leads from a state of the teacher's trajectory straight to its end (trainers/methods/README.md
section 8).

The trajectories exist when training starts (trainers/training/teacher_trajectories.py makes them), and the teacher is not loaded. Draws
an index [B] for each micro-batch; of a student of two experts a step trains one of them, in its own range of timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..diffusion import losses
from ..diffusion.expert_ranges import split
from ..diffusion.flow_schedule import FlowSchedule
from ..models.base import ModelBase
from .base import Batch, TrainingMethod


class KDMethod(TrainingMethod):
    """Regression from states of the teacher's trajectories to their clean ends."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        self.student = role_models["student"]
        self.schedule = FlowSchedule(cfg.flow_shift, self.device)
        timesteps = torch.tensor(cfg.method.few_steps(cfg.flow_shift), dtype=torch.float32)
        self.timesteps = timesteps.to(self.device)
        """Timesteps [K] at which the student is sampled, descending."""
        self.ranges = None if self.student.boundary is None else split((timesteps >= self.student.boundary).tolist())
        self.build_optimizer("student")

    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        high = None if self.ranges is None else self.ranges.draw(self.shared("side"))
        noisy, timesteps = self.states(batch, high)
        velocity = self.student.expert(high).predict_velocity(noisy, timesteps, batch["prompt"])
        clean = self.schedule.to_clean(noisy, velocity, timesteps)
        loss = losses.regression_loss(clean, self.target(batch, noisy, timesteps, high), self.loss_weights(timesteps))
        return {"total_loss": loss}, {}, {} if high is None else {"high_noise": float(high)}

    def target(self, batch: Batch, noisy: Tensor, timesteps: Tensor, high: bool | None) -> Tensor:
        """Return the clean latents [B, T, C, H, W] that the student shall predict."""
        return batch["trajectory_latents"][:, -1]

    def loss_weights(self, timesteps: Tensor) -> Tensor | None:
        """Return how much each sample or frame counts, in the shape of `timesteps`; None: all alike."""
        return None

    def states(self, batch: Batch, high: bool | None = None) -> tuple[Tensor, Tensor]:
        """Return (states [B, T, C, H, W], timesteps [B]): from each trajectory one of those at which the student is sampled."""
        trajectories, stored = batch["trajectory_latents"], batch["trajectory_timesteps"]
        first, end = (0, len(self.timesteps)) if self.ranges is None else self.ranges.entries(high, len(self.timesteps))
        index = torch.randint(first, end, (len(trajectories),), generator=self.cuda_generator, device=self.device)
        timesteps = self.timesteps[index]
        nearest = (stored - timesteps[:, None]).abs().argmin(1)
        return trajectories[torch.arange(len(trajectories), device=self.device), nearest], timesteps

    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        return self.optimizers_of("student")

    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        return self.schedulers_of("student")

    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        return self.clip_targets_of("student")
