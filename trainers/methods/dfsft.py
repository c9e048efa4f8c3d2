"""Owns diffusion forcing: each block of frames has a noise level of its own, so that a causal student learns to go on from any past.

Also its teacher-forcing form, where the past is clean. ALGORITHMS.md section 9; the loss is FineTuneMethod's, weighted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import losses
from ..blocks import block_of_frame, lengths
from ..config import TrainConfig
from ..errors import UserError
from ..flow import middle_weights
from ..models.base import ModelBase
from .finetune import FineTuneMethod


class DiffusionForcingSFTMethod(FineTuneMethod):
    def __init__(self, cfg: TrainConfig, role_models: dict[str, ModelBase]) -> None:
        super().__init__(cfg, role_models)
        config: Any = cfg.method
        self.config, self.per_block = config, _per_block(self.student, config.chunk_size)
        self.weights = middle_weights(self.device)

    def draw_timesteps(self, count: int, num_frames: int) -> Tensor:
        """[B, T], equal within a block. Draws u [B], then an index for each block [B, blocks]; u is only for a reference's order."""
        torch.rand(count, generator=self.cuda_generator, device=self.device)
        low, high = self.config.index_range
        shape = (count, len(lengths(num_frames, self.per_block)))
        index = torch.randint(low, high, shape, generator=self.cuda_generator, device=self.device)
        return self.schedule.timesteps[index[:, block_of_frame(num_frames, self.per_block, self.device)]]

    def predict(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor, clean: Tensor) -> Tensor:
        if not self.config.teacher_forcing:
            return super().predict(noisy, timesteps, prompt, clean)
        student: Any = self.student
        return student.predict_velocity(noisy, timesteps, prompt, clean=clean)

    def loss(self, velocity: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """A frame counts by the entry of the grid that its noise level is, not by its timestep: the two differ where there is a shift."""
        weights = self.weights[self.schedule.index(timesteps)] if self.config.weighting == "middle" else None
        return losses.velocity_loss(velocity, noise, clean, weights)


def _per_block(student: ModelBase, chunk_size: int | None) -> int:
    """Frames of a block; UserError where the student's mask has none or others."""
    per_block = getattr(student, "num_frames_per_block", None)
    if per_block is None:
        raise UserError(f"dfsft needs a block-causal student, not a {type(student).__name__}", "models.student.family: causal-wan")
    if chunk_size not in (None, per_block):
        raise UserError(
            f"method.chunk_size {chunk_size} is not the student's num_frames_per_block {per_block}",
            "leave chunk_size out, or make them equal",
        )
    return int(per_block)
