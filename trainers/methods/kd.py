"""Owns knowledge distillation (ALGORITHMS.md section 8): from a state of the teacher's trajectory straight to where it ends.

The trajectories are there when training starts (trainers/trajectories.py), and the teacher is gone. Draws an index [B] a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import losses
from ..config import TrainConfig
from ..flow import FlowSchedule
from ..models.base import ModelBase
from .base import Batch, TrainingMethod


class KDMethod(TrainingMethod):
    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        self.student = role_models["student"]
        self.schedule = FlowSchedule(cfg.flow_shift, self.device)
        self.timesteps = torch.tensor(cfg.method.few_steps(cfg.flow_shift), dtype=torch.float32, device=self.device)
        """[K], descending."""
        self.build_optimizer("student")

    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        noisy, timesteps = self.states(batch)
        clean = self.schedule.to_clean(noisy, self.student.predict_velocity(noisy, timesteps, batch["prompt"]), timesteps)
        return {"total_loss": losses.regression_loss(clean, batch["trajectory_latents"][:, -1])}, {}, {}

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(states [B, T, C, H, W], timesteps [B]): of each trajectory one of those that the student is sampled at."""
        trajectories, stored = batch["trajectory_latents"], batch["trajectory_timesteps"]
        index = torch.randint(0, len(self.timesteps), (len(trajectories),), generator=self.cuda_generator, device=self.device)
        timesteps = self.timesteps[index]
        place = (stored - timesteps[:, None]).abs().argmin(1)
        return trajectories[torch.arange(len(trajectories), device=self.device), place], timesteps

    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        return self._optimizer_dict["student"]

    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        return [self._lr_scheduler_dict["student"]]

    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        return {"student": self.student.transformer}
