"""Owns diffusion forcing: each block of frames has its own noise level, so that a causal student learns to continue any past.

Also its teacher-forcing form, where the past is clean. See trainers/methods/README.md section 9 (after arXiv 2407.01392); the loss is
FineTuneMethod's, weighted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig
from ..diffusion import losses
from ..diffusion.expert_ranges import ExpertRanges, split
from ..diffusion.flow_schedule import middle_weights
from ..diffusion.frame_blocks import block_of_frame, lengths
from ..errors import UserError
from ..models.base import ModelBase
from .base import frames_per_block
from .finetune import FineTuneMethod


class DiffusionForcingSFTMethod(FineTuneMethod):
    """Finetuning of a block-causal student with a noise level for each block."""

    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        config: Any = cfg.method
        self.config, self.per_block = config, _per_block(self.student, config.chunk_size)
        self.weights = middle_weights(self.device)

    def split_at(self, boundary: float) -> ExpertRanges:
        """Return the experts' ranges among the grid entries that this method draws from."""
        low, high = self.cfg.method.index_range  # type: ignore[attr-defined]
        return split((self.schedule.host_timesteps[low:high] >= boundary).tolist())

    def draw_timesteps(self, count: int, num_frames: int, high: bool | None = None) -> Tensor:
        """Return timesteps [B, T], equal within a block. Draws u [B], which nothing uses (the reference implementation's order), then an
        index for each block [B, blocks]."""
        torch.rand(count, generator=self.cuda_generator, device=self.device)
        low, end = self.config.index_range
        if self.ranges is not None:
            low, end = (low + entry for entry in self.ranges.entries(high, end - low))
        shape = (count, len(lengths(num_frames, self.per_block)))
        index = torch.randint(low, end, shape, generator=self.cuda_generator, device=self.device)
        return self.schedule.timesteps[index[:, block_of_frame(num_frames, self.per_block, self.device)]]

    def predict(self, student: Any, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor) -> Tensor:
        """Return the velocity [B, T, C, H, W]; with teacher forcing the student sees the clean frames of earlier blocks."""
        if not self.config.teacher_forcing:
            return super().predict(student, noisy, timesteps, prompt, clean)
        velocity: Tensor = student.predict_velocity(noisy, timesteps, prompt, clean=clean)
        return velocity

    def loss(self, velocity: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity loss. A frame is weighted by the grid entry of its noise level, not by its timestep: the two differ where
        there is a shift."""
        weights = self.weights[self.schedule.index(timesteps)] if self.config.weighting == "middle" else None
        return losses.velocity_loss(velocity, noise, clean, weights)


def _per_block(student: ModelBase, chunk_size: int | None) -> int:
    """Return the frames of a block; UserError where the student is not block-causal, or its blocks are not of `chunk_size` frames."""
    per_block = frames_per_block(student, "dfsft")
    if chunk_size not in (None, per_block):
        raise UserError(
            f"method.chunk_size {chunk_size} is not the student's num_frames_per_block {per_block}",
            "leave chunk_size out, or make them equal",
        )
    return per_block
