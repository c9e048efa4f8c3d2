"""Owns self-forcing (arXiv 2506.08009; trainers/methods/README.md section 7): DMD2 on videos that a causal student makes block by block, as
in use.

Losses, teacher and critic are DMD2's, over whole videos. The steps at which blocks exit, the only ones with a gradient, are drawn for
all ranks alike, which wait for each other, and once a step for all its micro-batches, however many ranks share these out. The other
draws are from `cuda_generator`, in DMD2's order; a rollout's are noise [B, T, C, H, W], then what trainers/diffusion/block_rollout.py
draws.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..diffusion.block_rollout import roll_out
from ..diffusion.expert_denoising import steps_of
from ..diffusion.frame_blocks import lengths
from ..errors import UserError
from ..models.base import ModelBase
from .base import Batch, frames_per_block
from .dmd2 import DMD2Method


class SelfForcingMethod(DMD2Method):
    """DMD2 whose samples are rollouts over blocks with a cache of keys and values."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        self.per_block = frames_per_block(self.student, self.config.kind)
        self.block_steps = steps_of(self.student, self.schedule, self.host_steps, stochastic=self.config.renoise == "sde")
        if wrong := self.config.wrong_start(cfg):
            raise UserError(f"models.student: {wrong[0]}", wrong[1])

    def student_rollout(self, batch: Batch) -> Tensor:
        """Return the student's video [B, T, C, H, W], with gradient through one pass a block."""
        return self.roll_out(batch, self.exits("student's exits"))

    @torch.no_grad()
    def critic_rollout(self, batch: Batch) -> Tensor:
        """Return fresh videos [B, T, C, H, W] for the critic to learn from, made as the student's are, without gradient."""
        return self.roll_out(batch, self.exits("critic's exits"))

    def exits(self, purpose: str) -> list[int]:
        """Return for each block the number of the step at which it ends."""
        blocks, steps = len(lengths(self.cfg.data.latent_shape[0], self.per_block)), len(self.steps)
        if self.config.last_step_only:
            return [steps - 1] * blocks
        drawn: list[int] = torch.randint(0, steps, (blocks,), generator=self.shared(purpose)).tolist()
        return drawn[:1] * blocks if self.config.same_step_across_blocks else drawn

    def roll_out(self, batch: Batch, exits: list[int]) -> Tensor:
        student: Any = self.student
        return roll_out(
            student,
            self.block_steps,
            batch["prompt"],
            self.draw_noise(self.latent_shape(batch)),
            exits,
            schedule=self.schedule,
            draw=lambda like: self.draw_noise(like.shape),
            context_noise=self.config.context_noise,
            gradient_from=self.config.start_gradient_frame,
        )
