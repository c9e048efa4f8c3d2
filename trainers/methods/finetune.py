"""Owns full finetuning by flow matching: the student learns the velocity between noise and data. ALGORITHMS.md section 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import losses
from ..config import TrainConfig
from ..flow import NUM_TIMESTEPS, FlowSchedule
from ..models.base import ModelBase
from .base import Batch, TrainingMethod


class FineTuneMethod(TrainingMethod):
    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        self.student = role_models["student"]
        self.schedule = FlowSchedule(cfg.flow_shift, self.device)
        self.build_optimizer("student")

    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        clean, noise, timesteps = self.prepare_batch(batch)
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        velocity = self.predict(noisy, timesteps, batch["prompt"], clean)
        return {"total_loss": self.loss(velocity, clean, noise, noisy, timesteps)}, {}, {}

    def prepare_batch(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(clean, noise [B, T, C, H, W], timesteps). Draws the noise as [B, C, T, H, W], then `draw_timesteps`: a reference's order."""
        clean = batch["latents"]
        b, t, c, h, w = clean.shape
        noise = torch.randn(b, c, t, h, w, generator=self.cuda_generator, device=self.device, dtype=clean.dtype)
        return clean, noise.transpose(1, 2), self.draw_timesteps(b, t)

    def draw_timesteps(self, count: int, num_frames: int) -> Tensor:
        """[B]: u picks an entry of the descending grid; u = 0 is pure noise."""
        index = (self._draw_u(count) * NUM_TIMESTEPS).long().clamp(max=NUM_TIMESTEPS - 1)
        return self.schedule.timesteps[index]

    def _draw_u(self, count: int) -> Tensor:
        """[B] in [0, 1]."""
        config: Any = self.cfg.method
        if config.weighting_scheme == "logit_normal":
            normal = torch.randn(count, generator=self.cuda_generator, device=self.device)
            return (config.logit_mean + config.logit_std * normal).sigmoid()
        u = torch.rand(count, generator=self.cuda_generator, device=self.device)
        return mode_sampled(u, config.mode_scale) if config.weighting_scheme == "mode" else u

    def predict(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor) -> Tensor:
        """The student's velocity [B, T, C, H, W]. `clean` is for methods that show it to the student as context."""
        return self.student.predict_velocity(noisy, timesteps, prompt)

    def loss(self, velocity: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        config: Any = self.cfg.method
        if config.precondition_outputs:
            return losses.clean_loss(self.schedule.to_clean(noisy, velocity, timesteps), clean)
        return losses.velocity_loss(velocity, noise, clean)

    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        return self._optimizer_dict["student"]

    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        return [self._lr_scheduler_dict["student"]]

    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        return {"student": self.student.transformer}


def mode_sampled(u: Tensor, scale: float) -> Tensor:
    """1 - u - m (cos^2(pi u / 2) - 1 + u), as in SD3 (arXiv 2403.03206): m > 0 favours the middle, m < 0 the ends."""
    return (1 - u - scale * ((math.pi * u / 2).cos().square() - 1 + u)).clamp(0.0, 1.0)
