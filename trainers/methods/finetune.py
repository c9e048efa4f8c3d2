"""Owns full finetuning by flow matching: the student learns the velocity between noise and data (trainers/methods/README.md section 3).

Each of two experts learns its own range of noise levels: a step trains one of them, as often as its range is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..diffusion import losses
from ..diffusion.expert_ranges import ExpertRanges, share_below, split
from ..diffusion.flow_schedule import NUM_TIMESTEPS, FlowSchedule
from ..models.base import ModelBase
from .base import Batch, TrainingMethod


class FineTuneMethod(TrainingMethod):
    """Trains the student to predict the velocity from data at a random noise level to noise."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        self.student = role_models["student"]
        self.schedule = FlowSchedule(cfg.flow_shift, self.device)
        self.ranges = None if self.student.boundary is None else self.split_at(self.student.boundary)
        self.build_optimizer("student")

    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        high = None if self.ranges is None else self.ranges.draw(self.shared("side"))
        clean, noise, timesteps = self.prepare_batch(batch, high)
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        velocity = self.predict(self.student.expert(high), noisy, timesteps, batch["prompt"], clean)
        metrics = {} if high is None else {"high_noise": float(high)}
        return {"total_loss": self.loss(velocity, clean, noise, noisy, timesteps)}, {}, metrics

    def split_at(self, boundary: float) -> ExpertRanges:
        """Return the two experts' ranges among the grid's entries, and how often each is drawn."""
        above = (self.schedule.host_timesteps >= boundary).tolist()
        return split(above, share_below(self._quantile, sum(above) / NUM_TIMESTEPS))

    def prepare_batch(self, batch: Batch, high: bool | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (clean, noise [B, T, C, H, W], timesteps). Draws the noise as [B, C, T, H, W], then `draw_timesteps`: the reference
        implementation's order."""
        clean = batch["latents"]
        b, t, c, h, w = clean.shape
        noise = torch.randn(b, c, t, h, w, generator=self.cuda_generator, device=self.device, dtype=clean.dtype)
        return clean, noise.transpose(1, 2), self.draw_timesteps(b, t, high)

    def draw_timesteps(self, count: int, num_frames: int, high: bool | None = None) -> Tensor:
        """Return timesteps [B]: u picks an entry of the descending grid, and u = 0 is pure noise. `high`: draw from that one of two
        experts' ranges alone."""
        first, end = (0, NUM_TIMESTEPS) if self.ranges is None else self.ranges.entries(high, NUM_TIMESTEPS)
        u = self._draw_u(count) if self.ranges is None else self._draw_u_of(self.ranges, bool(high), count)
        return self.schedule.timesteps[(u * NUM_TIMESTEPS).long().clamp(first, end - 1)]

    def _draw_u(self, count: int) -> Tensor:
        """Draw u [B] in [0, 1] by the configured distribution."""
        config: Any = self.cfg.method
        if config.weighting_scheme == "logit_normal":
            normal = torch.randn(count, generator=self.cuda_generator, device=self.device)
            return (config.logit_mean + config.logit_std * normal).sigmoid()
        u = torch.rand(count, generator=self.cuda_generator, device=self.device)
        return mode_sampled(u, config.mode_scale) if config.weighting_scheme == "mode" else u

    def _draw_u_of(self, ranges: ExpertRanges, high: bool, count: int) -> Tensor:
        """Draw u [B] by the same distribution, restricted to one expert's range."""
        uniform = torch.rand(count, generator=self.cuda_generator, device=self.device, dtype=torch.float64)
        return self._quantile(ranges.share * uniform if high else ranges.share + (1 - ranges.share) * uniform)

    def _quantile(self, uniform: Tensor) -> Tensor:
        """Return u as a rising function of a uniform variable in [0, 1], in float64."""
        config: Any = self.cfg.method
        if config.weighting_scheme == "logit_normal":
            return (config.logit_mean + config.logit_std * torch.special.ndtri(uniform)).sigmoid()
        return mode_sampled(1 - uniform, config.mode_scale) if config.weighting_scheme == "mode" else uniform

    def predict(self, student: ModelBase, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor) -> Tensor:
        """Return the velocity [B, T, C, H, W]. `clean` is for methods that show it to the student as context."""
        return student.predict_velocity(noisy, timesteps, prompt)

    def loss(self, velocity: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the mean square error of the velocity, or of the clean prediction where outputs are preconditioned."""
        config: Any = self.cfg.method
        if config.precondition_outputs:
            return losses.clean_loss(self.schedule.to_clean(noisy, velocity, timesteps), clean)
        return losses.velocity_loss(velocity, noise, clean)

    def get_optimizers(self, iteration: int) -> Sequence[torch.optim.Optimizer]:
        return self.optimizers_of("student")

    def get_lr_schedulers(self, iteration: int) -> Sequence[Any]:
        return self.schedulers_of("student")

    def get_grad_clip_targets(self, iteration: int) -> dict[str, nn.Module]:
        return self.clip_targets_of("student")


def mode_sampled(u: Tensor, scale: float) -> Tensor:
    """Return 1 - u - m (cos^2(pi u / 2) - 1 + u), as in SD3 (arXiv 2403.03206): m > 0 favours the middle, m < 0 the ends."""
    return (1 - u - scale * ((math.pi * u / 2).cos().square() - 1 + u)).clamp(0.0, 1.0)
